"""Retrievers over 100,000 documents: what each stage costs, pipelines, remembered answers, many clients.

First through HTTP, one client and 32; then the engine in process over the index that the server left, and what a stage
adds to an execution. Embedding is left out of all figures: a query's vector is a hash of its words, made in some
microseconds. The pipelines take turns, round by round.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import numpy as np
import orjson

from benchmarks import _load
from benchmarks._data import texts
from benchmarks._engine import Retriever
from benchmarks._library import Library, fill, rows
from benchmarks._report import Report, percentile
from benchmarks._server import Server
from benchmarks.plugins.trivial import DIMENSIONS, EXTRACTOR, MODEL, URI, HashedNgrams, hash_text
from mediatheca.flows.retrieve.cache import CachePolicy
from mediatheca.kernel.documents import VectorIndex
from mediatheca.kernel.models import ModelInfo
from mediatheca.stages import CollectionView
from mediatheca.stores.index.edge import EdgeIndex

COUNT = int(os.environ.get("BENCHMARK_DOCUMENTS", "100000"))
RUNS = 3
QUERIES = 300
"""Of one client, in a round."""
CROWD = 1_000
"""Requests of 32 clients, in a round."""
VIEW_FIELDS = {"body": "text", "category": "keyword", "price": "float", "number": "integer"}
SERVED = ("text search", "lexical search", "hybrid search", "five stages")
GOALS = {
    "served: text search, 1 client": ("<= 5", ""),
    "served: five stages, 1 client": ("<= 15", "<= 40"),
    "in process: text search": ("<= 3", ""),
    "in process: lexical search": ("<= 5", ""),
    "in process: hybrid search": ("<= 5", ""),
}
"""Bounds of p50 and p95."""
IDLE = {"stage_id": "limit", "parameters": {"limit": 100}}
"""Over 100 documents it does nothing: what it takes is the framework's."""


class _Models:
    """The one text model."""

    def info(self, name: str) -> ModelInfo:
        return MODEL

    def text(self, name: str) -> HashedNgrams:
        return HashedNgrams()


def run() -> Report:
    """Through HTTP, then in process."""
    report = Report("retrieval")
    bodies = [" ".join(text.split()[: 10 + row % 31]) for row, text in enumerate(texts(COUNT, words=40, seed=40))]
    asked = texts(QUERIES, words=3, seed=41)
    vectors = np.stack([hash_text(body) for body in bodies])
    with Server() as server:
        library = fill(server, rows(bodies), vectors, EXTRACTOR, input_mappings={"text": "body"})
        report.add(f"load {COUNT:,} documents and build the graph", library.load_s, "s")
        _served(report, server, library, asked)
        server.stop()
        index = EdgeIndex(server.data / "index")
        try:
            for _ in range(RUNS):
                _in_process(report, index, library, asked)
        finally:
            index.close()
    return report


def pipelines(uri: str) -> dict[str, list[dict[str, Any]]]:
    """What is measured, by name."""
    dense = {"feature_uri": uri, "query": "{{INPUT.query}}", "top_k": 100}
    lexical = {**dense, "lexical": True}

    def search(*searches: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"stage_id": "feature_search", "parameters": {"searches": list(searches), **more}}

    hundred = search(dense, final_top_k=100)
    cheap = {"stage_id": "attribute_filter", "parameters": {"field": "price", "operator": "gte", "value": 10}}
    five = [
        search(dense, lexical, final_top_k=100),
        cheap,
        {"stage_id": "mmr", "parameters": {"top_k": 50}},
        {"stage_id": "group_by", "parameters": {"field": "category"}},
        {"stage_id": "limit", "parameters": {"limit": 10}},
    ]
    return {
        "text search": [search(dense)],
        "lexical search": [search(lexical)],
        "hybrid search": [search(dense, lexical)],
        "hybrid search with highlights": [search(dense, lexical, highlight={})],
        "text search for 100": [hundred],
        "text search for 100 and four idle stages": [hundred, IDLE, IDLE, IDLE, IDLE],
        "text search for 100 and a filter after it": [hundred, cheap],
        "five stages": five,
    }


def _served(report: Report, server: Server, library: Library, asked: list[str]) -> None:
    inputs, made = {"query": "string"}, pipelines(library.feature_uri)
    paths = {name: library.retriever(name, made[name], inputs, cache_config={"enabled": False}) for name in SERVED}
    kept = library.retriever("kept", made["five stages"], inputs, cache_config={"enabled": True})
    requests = [orjson.dumps({"inputs": {"query": text}}) for text in asked]
    for path in paths.values():
        _load.measure(server.url, path, requests[:50], clients=1, requests=50)
    for _ in range(RUNS):
        for name, path in paths.items():
            alone = _load.measure(server.url, path, requests, clients=1, requests=QUERIES)
            _add(report, f"served: {name}, 1 client", alone.latencies_ms)
            report.add(f"served: {name}, 1 client, errors", alone.errors, "", "<= 0")
        again = _load.measure(server.url, kept, requests[:1], clients=1, requests=300)
        report.latencies("served: the same five-stage query again, 1 client", again.latencies_ms, p50="<= 2")
    for _ in range(RUNS):
        for name in ("text search", "five stages"):
            crowd = _load.measure(server.url, paths[name], requests, clients=32, requests=CROWD)
            report.latencies(f"served: {name}, 32 clients", crowd.latencies_ms)
            report.add(f"served: {name}, 32 clients, requests a second", CROWD / crowd.wall_s, "/s")
            report.add(f"served: {name}, 32 clients, errors", crowd.errors, "", "<= 0")
    report.add("served: memory (RSS)", server.memory_mb(), "MB")


def _add(report: Report, name: str, taken: list[float]) -> None:
    p50, p95 = GOALS.get(name, ("", ""))
    report.latencies(name, taken, p50=p50, p95=p95)


def _in_process(report: Report, index: EdgeIndex, library: Library, asked: list[str]) -> None:
    """Every query once a pipeline, one after the other, as written: no stage is merged into another."""
    vectors = VectorIndex(URI.index_name, str(URI), DIMENSIONS, model=MODEL.name, weights=MODEL.weights)
    view = CollectionView(library.collection_id, "library", (vectors,), VIEW_FIELDS)
    medians = {}
    for name, stages in pipelines(str(URI)).items():
        taken = asyncio.run(_timed(Retriever(index, view, _Models(), stages), asked, optimize="off"))
        _add(report, f"in process: {name}", taken)
        medians[name] = percentile(taken, 0.5)
    alone = medians["text search for 100"]
    idle = (medians["text search for 100 and four idle stages"] - alone) / 4
    report.add("in process: one more stage that does nothing, over 100 documents", idle, "ms", "<= 0.2")
    filtered = medians["text search for 100 and a filter after it"] - alone
    report.add("in process: one more filter, over 100 documents", filtered, "ms")
    kept = Retriever(index, view, _Models(), pipelines(str(URI))["five stages"], CachePolicy())
    cached = asyncio.run(_timed(kept, [asked[0]] * 200))
    report.add("in process: the same five-stage query again, p50", percentile(cached[1:], 0.5), "ms", "<= 1")


async def _timed(retriever: Retriever, asked: list[str], **request: Any) -> list[float]:
    for query in asked[-20:]:
        await retriever.ask({"query": query}, **request)
    taken = []
    for query in asked:
        began = time.perf_counter()
        await retriever.ask({"query": query}, **request)
        taken.append((time.perf_counter() - began) * 1e3)
    return taken


if __name__ == "__main__":
    print(run().table())
