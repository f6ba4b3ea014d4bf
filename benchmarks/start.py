"""From the command to the first healthy answer, on an empty and on a used data directory."""

from __future__ import annotations

from benchmarks._report import Report
from benchmarks._server import Server
from benchmarks._world import bodies, ingest, prepare

RUNS = 7


def run() -> Report:
    """Empty directory, and a clean restart over 6,000 documents."""
    report = Report("start")
    with Server() as used:
        ingest(prepare(used), bodies())
        used.stop()
        for _ in range(RUNS):
            with Server() as server:
                report.add("first start, empty directory", server.start_s, "s", "<= 3")
            used.start()
            report.add("restart, 6,000 documents", used.start_s, "s", "<= 3")
            report.add("memory after the start (RSS)", used.memory_mb(), "MB")
            used.stop()
    return report
