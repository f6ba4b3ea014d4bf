"""A server as the documentation starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


@contextmanager
def served(folder: Path, key: str, **settings: str) -> Iterator[str]:
    """The address of `mediatheca serve` in a process of its own; `settings` are environment variables."""
    models = os.environ.get("MEDIATHECA_MODELS_DIR") or str(ROOT / "data" / "models")
    environment = {**os.environ, "MEDIATHECA_API_KEY": key, "MEDIATHECA_MODELS_DIR": models, **settings}
    command = [sys.executable, "-m", "mediatheca.cli", "serve", "--port", "0", "--data", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        yield next(word for word in process.stdout.readline().split() if word.startswith("http://"))
    finally:
        process.terminate()
        process.wait(120)
        process.stdout.close()
