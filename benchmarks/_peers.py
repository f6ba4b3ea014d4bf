"""Processes of peers: each in an environment of its own, made once; a line in, a line of JSON out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks._report import OUT, ROOT


class PeerProcess:
    """`python SCRIPT ENGINE FOLDER`, loaded. `loaded` is the first line that it said."""

    def __init__(self, python: Path, script: str, engine: str, folder: Path) -> None:
        self.engine = engine
        self._log = OUT / f"peer-{engine}.log"
        command = [str(python), str(Path(__file__).with_name(script)), engine, str(folder)]
        with open(self._log, "w") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self.loaded = self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise RuntimeError(f"{self.engine} failed; see {self._log}")
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, line: str) -> dict[str, Any]:
        """Send a line, read the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def environment(name: str, also: str = "") -> Path:
    """What `requirements/NAME.txt` lists in an environment of its own, made once; the interpreter in it.

    Args:
        also: one more requirement, which has another build on every machine and hence no hash.
    """
    folder, wanted = OUT / f"{name}-venv", ROOT / "requirements" / f"{name}.txt"
    python, stamp = folder / "bin" / "python", folder / "installed"
    asked = wanted.read_text() + also
    if stamp.exists() and stamp.read_text() == asked:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    OUT.mkdir(exist_ok=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r"]
    subprocess.run([*pip, str(ROOT / "requirements" / "uv.txt")], check=True)
    uv = [
        str(folder / "bin" / "uv"),
        "pip",
        "install",
        "--quiet",
        "--python",
        str(python),
        "--no-deps",
        "--require-hashes",
        "-r",
    ]
    subprocess.run([*uv, str(wanted)], check=True)
    if also:
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", also], check=True
        )
    stamp.write_text(asked)
    return python
