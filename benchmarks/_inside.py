"""The index called in process, over the data directory of a stopped server: `python -m benchmarks._inside …`.

Its own process, as a server is: nothing else is loaded, nothing else runs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks._data import Matrix
from benchmarks._report import OUT, ROOT


@dataclass
class Inside:
    """What a direct call gave. `answers`: the `number` field of each result, query by query."""

    latencies_ms: list[float]
    answers: list[list[int]]


def ask(data: Path, collection_id: str, index: str, queries: Matrix) -> Inside:
    """Ten results for each query."""
    np.save(OUT / "queries.npy", queries)
    command = [sys.executable, "-m", "benchmarks._inside", str(data), collection_id, index]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return Inside(**json.loads(done.stdout))


def _main(data: str, collection_id: str, name: str) -> None:
    from mediatheca.kernel.search import VectorQuery
    from mediatheca.stores.index.edge import EdgeIndex

    queries = np.load(OUT / "queries.npy")
    index = EdgeIndex(Path(data) / "index")
    latencies, answers = [], []
    for warm in (True, False):
        for vector in queries[:100] if warm else queries:
            began = time.perf_counter()
            hits = index.query(collection_id, VectorQuery(name, vector, 10))
            if not warm:
                latencies.append((time.perf_counter() - began) * 1e3)
                answers.append([hit.payload["number"] for hit in hits])
    index.close()
    print(json.dumps({"latencies_ms": latencies, "answers": answers}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
