"""Kill a server at random moments of an ingest with overwrites and deletes; nothing acknowledged may be missing after.

The harness is that of `tests/crash`: it raises on the first violation, so figures exist only when nothing was lost,
doubled, torn or back from the dead.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks._report import OUT, ROOT, Report

KILLS = 50
SEED = 20_260_726


def run(kills: int = KILLS, seed: int = SEED) -> Report:
    """At least `kills` kills of one server on one data directory."""
    sys.path[:0] = [str(ROOT / "tests" / "processes"), str(ROOT / "tests" / "crash")]
    from crash_run import run as kill_again_and_again

    OUT.mkdir(exist_ok=True)
    report = Report("crash")
    with tempfile.TemporaryDirectory(prefix="crash-", dir=OUT) as folder:
        outcome = kill_again_and_again(Path(folder), kills, seed)
    report.add("kills survived", outcome.kills, "", f">= {kills}")
    for moment, count in outcome.moments.most_common():
        report.add(f"… that interrupted: {moment}", count, "")
    for name, count in outcome.counts.items():
        report.add(f"requests acknowledged: {name}", count, "")
    report.add("documents at the end, each found by its vector", outcome.documents, "")
    for seconds in outcome.ready_s:
        report.add("restart to healthy", seconds, "s")
    report.add("whole run", outcome.seconds, "s")
    return report


if __name__ == "__main__":
    made = run()
    made.save()
    print(made.table())
