"""`make demo` in a fresh clone: from nothing to the first search result."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from benchmarks._report import OUT, ROOT, Report


def run() -> Report:
    """One clone after the other, each with an environment of its own; the package cache is warm after the first."""
    report = Report("newcomer")
    for number in range(3):
        folder = OUT / "newcomer"
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
        seconds, total = _demo(folder)
        which = "package cache as found" if number == 0 else "package cache warm"
        report.add(f"make demo to the first search result, {which}", seconds, "s", "" if number == 0 else "<= 120")
        report.add(f"make demo to the end, {which}", total, "s")
        report.add("the environment, files", _size_mb(folder / ".venv"), "MB", "<= 900")
        report.add("built models", _size_mb(folder / "data"), "MB")
        shutil.rmtree(folder)
    return report


def _demo(folder: Path) -> tuple[float, float]:
    """Seconds to the first table of results, and to the end."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MEDIATHECA_", "VIRTUAL"))}
    environment |= {"PYTHONUNBUFFERED": "1"}
    began = time.perf_counter()
    demo = subprocess.Popen(["make", "demo"], cwd=folder, stdout=subprocess.PIPE, text=True, env=environment)
    first = 0.0
    lines = []
    for line in demo.stdout or ():
        lines.append(line)
        if not first and "text → text" in line:
            first = time.perf_counter() - began
    if demo.wait() != 0 or not first:
        raise RuntimeError("make demo failed: " + "".join(lines[-20:]))
    return first, time.perf_counter() - began


def _size_mb(folder: Path) -> float:
    """Every file once, however many names it has."""
    stats = {(stat.st_dev, stat.st_ino): stat.st_size for stat in (path.lstat() for path in folder.rglob("*"))}
    return sum(stats.values()) / 2**20
