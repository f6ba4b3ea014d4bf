"""Documents with a text, a vector, a category and a price in a running server, optimised; and retrievers over them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from benchmarks._catalogue import wait_for_graph
from benchmarks._data import Matrix
from benchmarks._server import NAMESPACE, Api, Server

PER_REQUEST = 1_000
FIELDS = {"number": "integer", "body": "text", "category": "string", "price": "float"}


@dataclass
class Row:
    """What a document holds besides its vector."""

    number: int
    body: str
    category: str
    price: float


def rows(bodies: Sequence[str], seed: int = 40) -> list[Row]:
    """A document each: 1 of 100 categories, a price from 0 to 100."""
    random = np.random.default_rng(seed)
    categories, prices = random.integers(0, 100, len(bodies)), random.uniform(0, 100, len(bodies))
    return [
        Row(number, body, f"c{category}", round(price, 4))
        for number, (body, category, price) in enumerate(zip(bodies, categories.tolist(), prices.tolist(), strict=True))
    ]


@dataclass
class Library:
    """A filled collection."""

    api: Api
    collection: dict[str, Any]
    load_s: float
    """First request to the search graph being in place."""

    @property
    def collection_id(self) -> str:
        return str(self.collection["collection_id"])

    @property
    def feature_uri(self) -> str:
        return str(self.collection["vector_indexes"][0]["feature_uri"])

    def retriever(self, name: str, stages: list[dict[str, Any]], inputs: dict[str, str], **config: Any) -> str:
        """The path to execute it."""
        made = self.api.post(
            "/v1/retrievers",
            {
                "retriever_name": name,
                "collection_identifiers": [self.collection_id],
                "input_schema": {field: {"type": kind, "required": True} for field, kind in inputs.items()},
                "stages": [{"stage_name": f"s{place}", "config": stage} for place, stage in enumerate(stages)],
                **config,
            },
        )
        return f"/v1/retrievers/{made['retriever_id']}/execute"


def fill(server: Server, held: Sequence[Row], vectors: Matrix, extractor: str, **config: Any) -> Library:
    """Write the documents with `documents/upsert`, a thousand in a request, and wait for the graph."""
    api = Api(server)
    api.namespace()
    bucket = api.bucket("library", FIELDS)
    collection = api.collection("library", bucket, extractor, field_passthrough=list(FIELDS), **config)
    ident, name = str(collection["collection_id"]), collection["vector_indexes"][0]["name"]
    began = time.perf_counter()
    for start in range(0, len(held), PER_REQUEST):
        part = held[start : start + PER_REQUEST]
        documents = [{"vectors": {name: vectors[row.number]}, "payload": row.__dict__} for row in part]
        body = orjson.dumps({"collection_id": ident, "documents": documents}, option=orjson.OPT_SERIALIZE_NUMPY)
        done = api.post(f"/v1/namespaces/{NAMESPACE}/documents/upsert", body)
        if done["failed_count"]:
            raise RuntimeError(f"{done['failed_count']} documents were refused: {str(done)[:500]}")
    wait_for_graph(server, ident, built_from="")
    return Library(api, collection, time.perf_counter() - began)
