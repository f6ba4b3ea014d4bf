"""The same vectors, queries and filters in chromadb, lancedb and qdrant-client's local mode, in the same run.

The peers are libraries in the asking process. Beside them stand our server (HTTP, JSON, keys, tenancy, retriever) and
our index called in process, which is the nearer comparison.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _load
from benchmarks._catalogue import COUNT, FILTERS, QUERIES, Catalogue, allowed, fill, requests
from benchmarks._data import Clustered, clustered, recall
from benchmarks._inside import ask
from benchmarks._report import OUT, ROOT, Report
from benchmarks._server import Server

ROUNDS = 5
ENGINES = ("chromadb", "lancedb", "qdrant_local")
SLOW = {"qdrant_local": 50}
"""Queries a round of an engine that scans; the others get all."""


def run() -> Report:
    """Five rounds; in each, every engine answers all queries under every filter before the next round begins."""
    report = Report("peers")
    python = _environment()
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
        self.engine = engine
        command = [str(python), str(Path(__file__).with_name("_peer.py")), engine, str(folder)]
        with open(OUT / f"peer-{engine}.log", "w") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        loaded = self._answer()
        report.add(f"{engine}, load 100,000 and build the index", loaded["loaded_s"], "s")
        report.add(f"{engine}, disk", loaded["disk_mb"], "MB")

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise RuntimeError(f"{self.engine} failed; see {OUT / f'peer-{self.engine}.log'}")
        found: dict[str, Any] = json.loads(line)
        return found

    def round(self, report: Report, data: Clustered) -> None:
        """All queries under every filter."""
        for name in FILTERS:
            assert self._process.stdin is not None
            self._process.stdin.write(f"{name}|{SLOW.get(self.engine, QUERIES)}\n")
            self._process.stdin.flush()
            got = self._answer()
            _add(report, f"{self.engine}, {name}", got["latencies_ms"], got["answers"], data, name)
        report.add(f"{self.engine}, memory (RSS)", got["rss_mb"], "MB")

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _environment() -> Path:
    """The peers in an environment of their own, made once; the interpreter in it."""
    folder, wanted = OUT / "peers-venv", ROOT / "requirements" / "peers.txt"
    python, stamp = folder / "bin" / "python", folder / "installed"
    if stamp.exists() and stamp.read_text() == wanted.read_text():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    OUT.mkdir(exist_ok=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r"]
    subprocess.run([*pip, str(ROOT / "requirements" / "uv.txt")], check=True)
    uv = [str(folder / "bin" / "uv"), "pip", "install", "--quiet", "--python", str(python), "--require-hashes", "-r"]
    subprocess.run([*uv, str(wanted)], check=True)
    stamp.write_text(wanted.read_text())
    return python
