"""`python -m benchmarks [name …]`: all of them, or those named. A table each, JSON in `benchmarks/out/`.

`python -m benchmarks record` puts the tables of all that is in `benchmarks/out/` into `benchmarks/RESULTS.md`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from benchmarks import (
    clusters,
    crash,
    delivery,
    fanout,
    ingest,
    media_peers,
    model,
    newcomer,
    overhead,
    pdf,
    peers,
    percolation,
    quality,
    retrieval,
    retrieval_peers,
    retrigger,
    scale,
    search,
    start,
    taxonomy,
    video,
)
from benchmarks._report import Report, record

BENCHMARKS: dict[str, Callable[[], Report]] = {
    "start": start.run,
    "ingest": ingest.run,
    "search": search.run,
    "model": model.run,
    "scale": scale.run,
    "peers": peers.run,
    "quality": quality.run,
    "retrieval": retrieval.run,
    "retrieval_peers": retrieval_peers.run,
    "clusters": clusters.run,
    "delivery": delivery.run,
    "fanout": fanout.run,
    "percolation": percolation.run,
    "taxonomy": taxonomy.run,
    "retrigger": retrigger.run,
    "media_peers": media_peers.run,
    "crash": crash.run,
    "newcomer": newcomer.run,
    "overhead": overhead.run,
    "pdf": pdf.run,
    "video": video.run,
}


def main(names: list[str]) -> int:
    """Returns the exit code."""
    if names == ["record"]:
        record()
        return 0
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    for name in names or BENCHMARKS:
        report = BENCHMARKS[name]()
        report.save()
        print(report.table(), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
