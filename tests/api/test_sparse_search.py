"""Sparse vectors and languages end to end: a collection of rows with vectors of their own, searched over HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from mixpeek.models.vector_index import VectorIndex

from helpers import ok
from server import Server, new_tenant

ROWS = [
    {"sku": "a", "story": "He drinks the coffee", "terms": {"indices": [1, 7], "values": [1.0, 0.5]}},
    {"sku": "b", "story": "Drinking is a habit", "terms": {"indices": [7], "values": [2.0]}},
    {"sku": "c", "story": "A quiet evening", "terms": {"indices": [9], "values": [1.0]}},
]
URI = "mixpeek://passthrough_extractor@v1/splade"
ENDED = ("COMPLETED", "COMPLETED_WITH_ERRORS", "FAILED", "CANCELED")


def collection_body(bucket: str, name: str = "rows", **more: Any) -> dict[str, Any]:
    parameters = {
        "row_format": "jsonl",
        "vector_fields": [{"field": "terms", "name": "splade", "type": "sparse"}],
    }
    extractor = {"feature_extractor_name": "passthrough_extractor", "version": "v1", "parameters": parameters}
    mapped = {**extractor, "input_mappings": {"content": "file"}, "field_passthrough": ["story"]}
    return {"collection_name": name, "source": {"bucket_ids": [bucket]}, "feature_extractor": mapped, **more}


class Rows:
    """A namespace with a collection of rows."""

    def __init__(self, server: Server) -> None:
        self.client = new_tenant(server).client()
        made = ok(self.client.post("/v1/namespaces", json={"namespace_name": "rows"}))
        self.client.headers["X-Namespace"] = made["namespace_id"]
        schema = {"properties": {"file": {"type": "text"}, "story": {"type": "text"}}}
        self.bucket = ok(self.client.post("/v1/buckets", json={"bucket_name": "rows", "bucket_schema": schema}))[
            "bucket_id"
        ]

    def collection(self, **more: Any) -> str:
        return str(ok(self.client.post("/v1/collections", json=collection_body(self.bucket, **more)))["collection_id"])

    def ingest(self, collection: str) -> None:
        lines = "\n".join(json.dumps(row) for row in ROWS)
        blob = {"property": "file", "type": "text", "data": lines}
        ok(self.client.post(f"/v1/buckets/{self.bucket}/objects", json={"blobs": [blob]}))
        batch = self.client.post(f"/v1/collections/{collection}/trigger").json()["batch_id"]
        path = f"/v1/buckets/{self.bucket}/batches/{batch}"
        until = time.monotonic() + 240
        while (state := ok(self.client.get(path)))["status"] not in ENDED and time.monotonic() < until:
            time.sleep(0.05)
        assert state["status"] == "COMPLETED", state

    def search(self, collection: str, *searches: dict[str, Any], **more: Any) -> Any:
        stage = {"stage_id": "feature_search", "parameters": {"searches": list(searches)}}
        body = {"collection_identifiers": [collection], "stages": [stage], "inputs": {}, **more}
        return self.client.post("/v1/retrievers/execute", json=body)


@pytest.fixture
def rows(server: Server) -> Iterator[Rows]:
    made = Rows(server)
    yield made
    made.client.close()


def skus(answer: Any) -> list[str]:
    return [document["sku"] for document in ok(answer)["documents"]]


def test_rows_with_sparse_vectors_are_searched_by_them_and_by_words_in_their_language(rows: Rows) -> None:
    collection = rows.collection(language="en")
    shown = ok(rows.client.get(f"/v1/collections/{collection}"))
    assert shown["vector_indexes"][0]["type"] == "sparse"
    (feature,) = ok(rows.client.get(f"/v1/collections/{collection}/features"))["features"]
    for index in (shown["vector_indexes"][0]["index"], feature["vector_index"]):
        assert (index["dimensions"], index["distance"]) == (None, "dot")
    assert VectorIndex.from_dict(feature["vector_index"]) is not None
    assert shown["field_languages"] == {"story": "english"}
    rows.ingest(collection)
    sparse = {"feature_uri": URI, "query": {"input_mode": "vector", "value": {"indices": [7, 1], "values": [1.0, 4.0]}}}
    answer = rows.search(collection, sparse, return_vectors=True)
    assert skus(answer) == ["a", "b"]
    first = ok(answer)["documents"][0]
    assert first["score"] == pytest.approx(4.5)
    assert first["vectors"] == {"passthrough_extractor_v1_splade": {"indices": [1, 7], "values": [1.0, 0.5]}}
    assert ok(answer)["exact"] is True
    words = {"lexical": True, "query": "drinking"}
    found = rows.search(collection, words)
    assert sorted(skus(found)) == ["a", "b"]
    stage = {"searches": [words], "highlight": {"fields": ["story"]}}
    body = {"collection_identifiers": [collection], "inputs": {}, "stages": [{"stage_id": "feature_search"}]}
    body["stages"][0]["parameters"] = stage
    marked = ok(rows.client.post("/v1/retrievers/execute", json=body))["documents"]
    fragments = {d["sku"]: d["highlights"][0]["fragment"] for d in marked}
    assert fragments == {"a": "He <em>drinks</em> the coffee", "b": "<em>Drinking</em> is a habit"}
    assert skus(rows.search(collection, sparse, words))[:2] in (["a", "b"], ["b", "a"])


def test_a_language_without_an_analyser_and_a_field_that_is_none_are_refused(rows: Rows) -> None:
    for more, place in (({"language": "klingon"}, "language"), ({"field_languages": {"nope": "en"}}, "nope")):
        answer = rows.client.post("/v1/collections", json=collection_body(rows.bucket, **more))
        assert answer.status_code == 422
        assert place in answer.text


@pytest.mark.parametrize("wrong", [{"dimensions": 8}, {"distance": "cosine"}, {"type": "dense"}, {"type": "binary"}])
def test_a_sparse_field_that_is_none_is_refused(rows: Rows, wrong: dict[str, Any]) -> None:
    body = collection_body(rows.bucket)
    body["feature_extractor"]["parameters"]["vector_fields"][0] |= wrong
    assert rows.client.post("/v1/collections", json=body).status_code == 422


def test_written_documents_may_have_sparse_vectors(rows: Rows) -> None:
    collection = rows.collection()
    path = f"/v1/collections/{collection}/documents"
    good = {"document_id": "x", "vectors": {"splade": {"indices": [5], "values": [2.0]}}}
    ok(rows.client.post(path, json=good))
    query = {"input_mode": "vector", "value": {"indices": [5], "values": [1.0]}}
    (found,) = ok(rows.search(collection, {"feature_uri": URI, "query": query}, consistency={"mode": "strong"}))[
        "documents"
    ]
    assert (found["document_id"], found["score"]) == ("x", 2.0)
    bad = {"document_id": "y", "vectors": {"splade": [1.0, 2.0]}}
    answer = rows.client.post(path, json=bad)
    assert answer.status_code == 422
    assert "indices" in answer.text


def test_an_execution_says_in_a_header_where_its_time_went(rows: Rows) -> None:
    collection = rows.collection()
    rows.ingest(collection)
    answer = rows.search(collection, {"lexical": True, "query": "coffee"})
    parts = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
    assert set(parts) == {"total", "feature_search"}
    assert all(float(taken) >= 0 for taken in parts.values())
