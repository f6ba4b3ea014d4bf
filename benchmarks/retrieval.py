"""Retrievers over 100,000 documents: what each stage costs, pipelines, remembered answers, many clients.

First in process, the engine over an optimised index: a text search, a hybrid search, a pipeline of five stages, and
what a stage adds to an execution. Then the same documents count in a server: 32 clients that run the five stages.
Embedding is left out of all figures: the query's vector is a hash of its words, made in microseconds.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from benchmarks import _load
from benchmarks._data import clustered, texts
from benchmarks._engine import Retriever
from benchmarks._report import OUT, Report, percentile
from benchmarks._server import Api, Server
from benchmarks._world import World, bodies, ingest
from benchmarks.plugins.trivial import EXTRACTOR
from mediatheca.flows.retrieve.cache import CachePolicy
from mediatheca.kernel.documents import Document, VectorIndex
from mediatheca.kernel.models import ModelInfo
from mediatheca.stages import CollectionView
from mediatheca.stores.index.base import IndexSpec
from mediatheca.stores.index.edge import EdgeIndex

COUNT = int(os.environ.get("BENCHMARK_DOCUMENTS", "100000"))
QUERIES = 300
RUNS = 3
COLLECTION = "col_retrieval"
MODEL = "clustered_for_benchmarks"
URI = f"mixpeek://text_extractor@v1/{MODEL}"
INFO = ModelInfo(MODEL, "rows of the benchmark", "sha256:benchmark", 384)
FIELDS = {"text": "text", "category": "keyword", "price": "float"}
PER_PAGE = 1000


class _Rows:
    """A text model whose vectors are rows made beforehand: the query `… #17` has row 17."""

    info = INFO
    inline = True

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = rows

    def embed_texts(self, asked: Any, *, query: bool) -> np.ndarray:
        return np.stack([self._rows[int(text.rpartition("#")[2])] for text in asked])


class _Models:
    def __init__(self, rows: np.ndarray) -> None:
        self._model = _Rows(rows)

    def info(self, name: str) -> ModelInfo:
        return INFO

    def text(self, name: str) -> _Rows:
        return self._model


def run() -> Report:
    """In process, then through HTTP."""
    report = Report("retrieval")
    data = clustered(COUNT, QUERIES)
    with tempfile.TemporaryDirectory(dir=OUT) as folder:
        vectors = VectorIndex("text", URI, 384, model=MODEL, weights=INFO.weights)
        index = EdgeIndex(Path(folder) / "index")
        spec = IndexSpec(COLLECTION, (vectors,), FIELDS)
        began = time.perf_counter()
        index.ensure(spec)
        index.rebuild(spec, _pages(data), COUNT)
        report.add(f"build of the index, {COUNT:,} documents", time.perf_counter() - began, "s")
        asked = [f"{text} #{number}" for number, text in enumerate(texts(QUERIES, words=3, seed=41))]
        view = CollectionView(COLLECTION, "retrieval", (vectors,), FIELDS)
        for _ in range(RUNS):
            _in_process(report, index, view, _Models(data.queries), asked)
        index.close()
    _served(report)
    return report


def _pages(data: Any) -> Iterator[list[Document]]:
    held = [" ".join(text.split()[: 10 + row % 31]) for row, text in enumerate(texts(COUNT, words=40, seed=40))]
    for start in range(0, COUNT, PER_PAGE):
        yield [
            Document(
                str(uuid.UUID(int=row + 1)),
                COLLECTION,
                {**data.payload(row), "text": held[row]},
                {"text": data.vectors[row]},
                write_seq=row + 1,
            )
            for row in range(start, min(start + PER_PAGE, COUNT))
        ]


def pipelines(uri: str, number: str = "price", group: str = "category") -> dict[str, list[dict[str, Any]]]:
    """What is measured, by name. `number` is filtered by, `group` grouped by."""
    dense = {"feature_uri": uri, "query": "{{INPUT.query}}", "top_k": 100}
    lexical = {**dense, "lexical": True}

    def search(*searches: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"stage_id": "feature_search", "parameters": {"searches": list(searches), **more}}

    hundred = search(dense, final_top_k=100)
    cheap = {"stage_id": "attribute_filter", "parameters": {"field": number, "operator": "gte", "value": 10}}
    five = [
        search(dense, lexical, final_top_k=100),
        cheap,
        {"stage_id": "mmr", "parameters": {"top_k": 50}},
        {"stage_id": "group_by", "parameters": {"field": group}},
        {"stage_id": "limit", "parameters": {"limit": 10}},
    ]
    return {
        "text search": [search(dense)],
        "lexical search": [search(lexical)],
        "hybrid search": [search(dense, lexical)],
        "hybrid search with highlights": [search(dense, lexical, highlight={})],
        "text search for 100": [hundred],
        "text search for 100 and four filters": [hundred, cheap, cheap, cheap, cheap],
        "five stages": five,
    }


GOALS = {"text search": "<= 3", "lexical search": "<= 5", "hybrid search": "<= 5"}


def _in_process(report: Report, index: EdgeIndex, view: CollectionView, models: _Models, asked: list[str]) -> None:
    """Every query once, one after the other; the engine's own memory of answers is asked in the end."""
    medians = {}
    for name, stages in pipelines(URI).items():
        retriever = Retriever(index, view, models, stages)
        taken = asyncio.run(_timed(retriever, asked))
        report.latencies(f"in process: {name}", taken, p50=GOALS.get(name, ""))
        medians[name] = percentile(taken, 0.5)
    extra = (medians["text search for 100 and four filters"] - medians["text search for 100"]) / 4
    report.add("in process: one more stage over 100 documents", extra, "ms", "<= 1")
    kept = Retriever(index, view, models, pipelines(URI)["five stages"], CachePolicy())
    cached = asyncio.run(_timed(kept, [asked[0]] * 200))
    report.add("in process: the same five-stage query again, p50", percentile(cached[1:], 0.5), "ms", "<= 1")


async def _timed(retriever: Retriever, asked: list[str]) -> list[float]:
    await retriever.ask({"query": asked[-1]})
    taken = []
    for query in asked:
        began = time.perf_counter()
        await retriever.ask({"query": query})
        taken.append((time.perf_counter() - began) * 1e3)
    return taken


def _served(report: Report) -> None:
    """The five stages through HTTP over the 6,000 documents that the other benchmarks ingest."""
    with Server() as server:
        world = _searchable(server)
        ingest(world, bodies())
        queries = texts(1000, words=6, seed=42)
        requests = [orjson.dumps({"inputs": {"query": text}}) for text in queries]
        for name in ("text search", "hybrid search", "five stages"):
            path = _create(world, name)
            _load.measure(server.url, path, requests[:50], clients=1, requests=50)
            alone = _load.measure(server.url, path, requests, clients=1, requests=500)
            report.latencies(f"served: {name}, 1 client", alone.latencies_ms)
            crowd = _load.measure(server.url, path, requests, clients=32, requests=2000)
            report.latencies(f"served: {name}, 32 clients", crowd.latencies_ms)
            report.add(f"served: {name}, 32 clients, requests a second", 2000 / crowd.wall_s, "/s")
            report.add(f"served: {name}, errors", alone.errors + crowd.errors, "", "<= 0")
        path = _create(world, "five stages", kept=True)
        again = _load.measure(server.url, path, requests[:1], clients=1, requests=300)
        report.latencies("served: the same five-stage query again, 1 client", again.latencies_ms, p50="<= 3")


def _searchable(server: Server) -> World:
    """As `prepare`, and the texts can be searched by their words."""
    api = Api(server)
    api.namespace()
    bucket = api.bucket("things", {"body": "text", "photo": "image", "number": "integer"})
    inputs = {"text": "body", "image": "photo"}
    passed = ["number", "body"]
    return World(
        api, bucket, api.collection("found", bucket, EXTRACTOR, input_mappings=inputs, field_passthrough=passed)
    )


def _create(world: World, name: str, *, kept: bool = False) -> str:
    uri = next(index["feature_uri"] for index in world.collection["vector_indexes"])
    stages = [
        {"stage_name": f"s{place}", "config": stage}
        for place, stage in enumerate(pipelines(uri, "number", "number")[name])
    ]
    made = world.api.post(
        "/v1/retrievers",
        {
            "retriever_name": f"by {name}{' kept' if kept else ''}",
            "collection_identifiers": [world.collection_id],
            "input_schema": {"query": {"type": "string", "required": True}},
            "stages": stages,
            "cache_config": {"enabled": kept},
        },
    )
    return f"/v1/retrievers/{made['retriever_id']}/execute"


if __name__ == "__main__":
    print(run().table())
