"""The same vectors, queries and filters in chromadb, lancedb and qdrant-client's local mode, in the same run.

The peers are libraries in the asking process. Beside them stand our server (HTTP, JSON, keys, tenancy, retriever) and
our index called in process, which is the nearer comparison.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import _load
from benchmarks._catalogue import COUNT, FILTERS, QUERIES, Catalogue, allowed, fill, requests
from benchmarks._data import Clustered, clustered, recall
from benchmarks._inside import ask
from benchmarks._peers import PeerProcess, environment
from benchmarks._report import OUT, Report
from benchmarks._server import Server

ROUNDS = 5
ENGINES = ("chromadb", "lancedb", "qdrant_local")
SLOW = {"qdrant_local": 50}
"""Queries a round of an engine that scans; the others get all."""


def run() -> Report:
    """Five rounds; in each, every engine answers all queries under every filter before the next round begins."""
    report = Report("peers")
    python = environment("peers")
    data = clustered(COUNT, QUERIES)
    folder = Path(tempfile.mkdtemp(prefix="peers-", dir=OUT))
    np.savez(
        folder / "data.npz",
        vectors=data.vectors,
        queries=data.queries,
        categories=data.categories,
        prices=data.prices,
    )
    peers = []
    try:
        with Server() as server:
            made = fill(server, data)
            report.add("mediatheca, load 100,000 and build the graph", made.upsert_s + made.build_s, "s")
            peers = [_Peer(python, engine, folder, report) for engine in ENGINES]
            for _ in range(ROUNDS):
                _ours(report, server, made, data)
                for peer in peers:
                    peer.round(report, data)
            server.stop()
            for _ in range(ROUNDS):
                _inside(report, server, made, data)
    finally:
        for peer in peers:
            peer.close()
        shutil.rmtree(folder, ignore_errors=True)
    return report


def _ours(report: Report, server: Server, made: Catalogue, data: Clustered) -> None:
    for name in FILTERS:
        load = _load.measure(server.url, made.path, requests(data, name), clients=1, requests=QUERIES, keep=True)
        found = [rows for _, rows in load.answers]
        _add(report, f"mediatheca over HTTP, {name}", load.latencies_ms, found, data, name)
    report.add("mediatheca, memory (RSS)", server.memory_mb(), "MB")


def _inside(report: Report, server: Server, made: Catalogue, data: Clustered) -> None:
    found = ask(server.data, made.collection_id, made.index_name, data.queries)
    _add(report, "mediatheca's index in process, no filter", found.latencies_ms, found.answers, data, "no filter")


def _add(
    report: Report, label: str, latencies: list[float], found: list[list[int]], data: Clustered, name: str
) -> None:
    report.latencies(label, latencies)
    right = recall(found, data.vectors, data.queries[: len(found)], allowed(data, name))
    report.add(f"{label}, recall@10", right, "")


class _Peer:
    """A peer's process, loaded."""

    def __init__(self, python: Path, engine: str, folder: Path, report: Report) -> None:
        self._process = PeerProcess(python, "_peer.py", engine, folder)
        self.engine, loaded = engine, self._process.loaded
        report.add(f"{engine}, load 100,000 and build the index", loaded["loaded_s"], "s")
        report.add(f"{engine}, disk", loaded["disk_mb"], "MB")

    def round(self, report: Report, data: Clustered) -> None:
        """All queries under every filter."""
        for name in FILTERS:
            got = self._process.ask(f"{name}|{SLOW.get(self.engine, QUERIES)}")
            _add(report, f"{self.engine}, {name}", got["latencies_ms"], got["answers"], data, name)
        report.add(f"{self.engine}, memory (RSS)", got["rss_mb"], "MB")

    def close(self) -> None:
        self._process.close()
