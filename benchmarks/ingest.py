"""5,000 texts and 1,000 pictures through HTTP, from the first request until everything is searchable."""

from __future__ import annotations

from benchmarks._report import Report
from benchmarks._server import Server
from benchmarks._world import IMAGES, TEXTS, bodies, ingest, prepare

RUNS = 5


def run() -> Report:
    """Objects in bulk → trigger → searchable, with an extractor that costs next to nothing; a fresh server each run."""
    report = Report("ingest")
    bodies()  # made before anything is timed
    for _ in range(RUNS):
        with Server() as server:
            world = prepare(server)
            done = ingest(world, bodies())
            report.add("documents a second, until searchable", done.per_second, "/s", ">= 1200")
            report.add("6,000 documents, first request to searchable", done.total_s, "s")
            report.add("of that: six requests of 1,000 objects", done.upload_s, "s")
            again = ingest(world, bodies(TEXTS + IMAGES, seed=11))
            report.add("second 6,000 on the same server", again.per_second, "/s", ">= 1200")
            report.add("server memory after 12,000 documents (RSS)", server.memory_mb(), "MB")
    return report
