"""Figures, the machine they were measured on, and how both are shown."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

OUT = Path(__file__).parent / "out"
ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "RESULTS.md"
MARK = "<!-- measured: written by `python -m benchmarks record` -->"
_PACKAGES = ("pylance", "qdrant-edge-py", "fastapi", "uvicorn", "pydantic", "sqlalchemy", "numpy", "orjson")
Bound = Callable[[float], bool]


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value with at least this share at or below it."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(len(ordered) * share * 1000) // 1000) - 1))]


@dataclass
class Figure:
    """One figure over several runs."""

    name: str
    unit: str
    runs: list[float]
    goal: str = ""
    """`<= 3`, `>= 0.99` or empty."""
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    @property
    def reached(self) -> bool | None:
        if not self.goal:
            return None
        sign, bound = self.goal.split()
        return self.median <= float(bound) if sign == "<=" else self.median >= float(bound)

    def as_dict(self) -> dict[str, Any]:
        low, high = (min(self.runs), max(self.runs))
        shown = {"name": self.name, "unit": self.unit, "median": self.median, "min": low, "max": high}
        return {**shown, "runs": self.runs, "goal": self.goal, "reached": self.reached, "note": self.note}


@dataclass
class Report:
    """The figures of one benchmark, collected run by run."""

    name: str
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    loads: list[float] = field(default_factory=lambda: [os.getloadavg()[0]])
    figures: dict[str, Figure] = field(default_factory=dict)

    def add(self, name: str, value: float, unit: str, goal: str = "", note: str = "") -> None:
        """One run's value of a figure."""
        self.figures.setdefault(name, Figure(name, unit, [], goal, note)).runs.append(float(value))
        self.loads.append(os.getloadavg()[0])

    def latencies(self, name: str, values: list[float], p50: str = "", p95: str = "") -> None:
        """Median and 95th percentile of one run's requests, in milliseconds."""
        self.add(f"{name} p50", percentile(values, 0.5), "ms", p50)
        self.add(f"{name} p95", percentile(values, 0.95), "ms", p95)

    def save(self) -> None:
        OUT.mkdir(exist_ok=True)
        body = {
            "benchmark": self.name,
            "started": self.started,
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "load": {"first": self.loads[0], "min": min(self.loads), "max": max(self.loads), "last": self.loads[-1]},
            "figures": [figure.as_dict() for figure in self.figures.values()],
        }
        (OUT / f"{self.name}.json").write_text(json.dumps(body, indent=1) + "\n")

    def table(self) -> str:
        """A table in Markdown."""
        head = (
            f"### {self.name}: {self.started}, one-minute load {self.loads[0]:.1f} at the start, "
            f"{min(self.loads):.1f}–{max(self.loads):.1f} during\n"
        )
        rows = ["| figure | median | min – max | runs | goal | |", "|---|--:|--:|--:|--:|---|"]
        for one in self.figures.values():
            mark = {True: "reached", False: "**missed**", None: ""}[one.reached]
            spread = f"{_short(min(one.runs))} – {_short(max(one.runs))}"
            unit = f" {one.unit}" if one.unit else ""
            note = f"{mark} {one.note}".strip()
            rows.append(
                f"| {one.name} | {_short(one.median)}{unit} | {spread} | {len(one.runs)} | {one.goal} | {note} |"
            )
        return head + "\n" + "\n".join(rows) + "\n"


def record() -> None:
    """Put the tables of all results in `benchmarks/out/` below the mark in `RESULTS.md`; what stands above it stays."""
    written = RESULTS.read_text().split(MARK)[0] if RESULTS.exists() else "# Results\n\n"
    found = [json.loads(path.read_text()) for path in sorted(OUT.glob("*.json"))]
    tables = [_machine_line(body["machine"]) + _loaded(body).table() for body in found]
    RESULTS.write_text(written + MARK + "\n\n" + "\n".join(tables))


def _loaded(body: dict[str, Any]) -> Report:
    load = body["load"]
    report = Report(body["benchmark"], body["started"], [load["first"], load["min"], load["max"], load["last"]])
    for one in body["figures"]:
        figure = Figure(one["name"], one["unit"], one["runs"], one["goal"], one["note"])
        report.figures[figure.name] = figure
    return report


def _machine_line(found: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {number}" for name, number in found["packages"].items())
    return (
        f"<!-- {found['cores']} cores, {found['memory_gib']} GiB, Python {found['python']}, {found['system']}, "
        f"commit {found['commit']}; {packages} -->\n"
    )


def _short(value: float) -> str:
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value)}"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 20 else f"{value:.3g}"


def machine() -> dict[str, Any]:
    """Processor, memory, versions and commit."""
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages * size / 2**30, 1),
        "python": platform.python_version(),
        "system": platform.platform(),
        "commit": commit.stdout.strip() or "unknown",
        "packages": {name: version(name) for name in _PACKAGES},
    }
