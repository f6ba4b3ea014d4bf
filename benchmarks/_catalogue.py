"""100,000 documents with vectors of their own, written through HTTP, and the retriever that searches them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from benchmarks._data import DIMENSIONS, Clustered
from benchmarks._server import NAMESPACE, Api, Server

COUNT = 100_000
QUERIES = 300
PER_REQUEST = 1_000
FILTERS: dict[str, dict[str, Any] | None] = {
    "no filter": None,
    "filter 1 %": {"AND": [{"field": "category", "operator": "eq", "value": "c7"}]},
    "filter 10 %": {"AND": [{"field": "price", "operator": "lt", "value": 10}]},
}


def allowed(data: Clustered, name: str) -> npt.NDArray[np.bool_] | None:
    """The rows a filter of `FILTERS` lets through."""
    through: dict[str, npt.NDArray[np.bool_] | None] = {
        "no filter": None,
        "filter 1 %": data.categories == 7,
        "filter 10 %": data.prices < 10,
    }
    return through[name]


@dataclass
class Catalogue:
    """A collection filled with `Clustered`."""

    collection: dict[str, Any]
    path: str
    upsert_s: float
    build_s: float
    """From the last answer to the search graph being in place."""

    @property
    def collection_id(self) -> str:
        return str(self.collection["collection_id"])

    @property
    def index_name(self) -> str:
        return str(self.collection["vector_indexes"][0]["name"])


def fill(server: Server, data: Clustered) -> Catalogue:
    """Write the documents with `documents/upsert`, a thousand in a request, and wait for the graph."""
    api = Api(server)
    api.namespace()
    bucket = api.bucket("catalogue", {"category": "string", "price": "float", "number": "integer"})
    vector = {"field": "vector", "name": "vector", "dimensions": DIMENSIONS, "distance": "cosine"}
    collection = api.collection(
        "found",
        bucket,
        "passthrough_extractor",
        parameters={"vector_fields": [vector]},
        field_passthrough=["category", "price", "number"],
    )
    path = api.retriever("by-vector", collection, "vector")
    name, ident = collection["vector_indexes"][0]["name"], collection["collection_id"]
    upsert_s = 0.0
    for start in range(0, len(data.vectors), PER_REQUEST):
        body = orjson.dumps({"collection_id": ident, "documents": _rows(data, name, start)}, option=_NUMPY)
        began = time.perf_counter()
        done = api.post(f"/v1/namespaces/{NAMESPACE}/documents/upsert", body)
        upsert_s += time.perf_counter() - began
        if done["failed_count"]:
            raise RuntimeError(f"{done['failed_count']} documents were refused")
    began = time.perf_counter()
    wait_for_graph(server, str(ident), built_from="")
    return Catalogue(collection, path, upsert_s, time.perf_counter() - began)


_NUMPY = orjson.OPT_SERIALIZE_NUMPY


def _rows(data: Clustered, name: str, start: int) -> list[dict[str, Any]]:
    numbers = range(start, min(start + PER_REQUEST, len(data.vectors)))
    return [{"vectors": {name: data.vectors[row]}, "payload": data.payload(row)} for row in numbers]


def generation(server: Server, collection_id: str) -> str:
    """The name of the index generation that answers; a rebuild swaps in a new one."""
    try:
        return Path(server.data, "index", collection_id, "CURRENT").read_text().strip()
    except FileNotFoundError:
        return ""


def wait_for_graph(server: Server, collection_id: str, built_from: str, limit_s: float = 900) -> None:
    """Until a rebuilt generation has replaced the one that was filled row by row (`built_from`, or the present)."""
    first = built_from or generation(server, collection_id)
    began = time.perf_counter()
    while generation(server, collection_id) in ("", first):
        if time.perf_counter() - began > limit_s:
            raise RuntimeError("the index was not rebuilt in time; see the server's log")
        time.sleep(0.1)


def requests(data: Clustered, name: str) -> list[bytes]:
    """Bodies of `execute` for every query under a filter."""
    chosen = FILTERS[name]
    more = {} if chosen is None else {"filters": chosen}
    return [orjson.dumps({"inputs": {"query": query}, **more}, option=_NUMPY) for query in data.queries]
