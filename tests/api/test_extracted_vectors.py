"""Vectors of other kinds end to end: sparse, one for each token, faces; extracted from objects, searched over HTTP."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from helpers import failed, ok
from mediatheca.testing.media import Scene, clip, photo, picture
from server import Server, new_tenant

TEXTS = {
    "cat": "The cat is asleep on the couch in the living room.",
    "revenue": "Quarterly revenue grew by four percent, said the bank.",
    "driver": "Install the driver and restart the computer.",
}
SPLADE = "mixpeek://splade_extractor@v1/splade_pp_en_v1"
COLBERT = "mixpeek://colbert_extractor@v1/colbertv2_v1"
FACES = "mixpeek://face_identity_extractor@v1/face_identity_arcface_r100_v1"
ENDED = ("COMPLETED", "COMPLETED_WITH_ERRORS", "FAILED", "CANCELED")


class Store:
    """A namespace with a bucket of texts and pictures."""

    def __init__(self, server: Server) -> None:
        self.client = new_tenant(server).client()
        self.client.headers["X-Namespace"] = ok(self.client.post("/v1/namespaces", json={"namespace_name": "store"}))[
            "namespace_id"
        ]
        properties = {"name": "string", "body": "text", "photo": "image", "film": "video"}
        schema = {"properties": {name: {"type": kind} for name, kind in properties.items()}}
        made = ok(self.client.post("/v1/buckets", json={"bucket_name": "store", "bucket_schema": schema}))
        self.bucket = made["bucket_id"]

    def put(self, **fields: Any) -> None:
        ok(self.client.post(f"/v1/buckets/{self.bucket}/objects", json=fields))

    def texts(self) -> None:
        for name, body in TEXTS.items():
            self.put(name=name, blobs=[{"property": "body", "type": "text", "data": body}])

    def collection(self, extractor: str, mapped: dict[str, str], **parameters: Any) -> str:
        config = {"feature_extractor_name": extractor, "version": "v1", "parameters": parameters}
        config |= {"input_mappings": mapped, "field_passthrough": ["name"]}
        body = {"collection_name": extractor, "source": {"bucket_ids": [self.bucket]}, "feature_extractor": config}
        return str(ok(self.client.post("/v1/collections", json=body))["collection_id"])

    def ingest(self, collection: str, status: str = "COMPLETED") -> None:
        batch = self.client.post(f"/v1/collections/{collection}/trigger").json()["batch_id"]
        path, until = f"/v1/buckets/{self.bucket}/batches/{batch}", time.monotonic() + 240
        while (state := ok(self.client.get(path)))["status"] not in ENDED and time.monotonic() < until:
            time.sleep(0.05)
        assert state["status"] == status, state

    def run(self, collection: str, *stages: dict[str, Any], **more: Any) -> Any:
        body = {"collection_identifiers": [collection], "stages": stages, "inputs": {}, **more}
        return self.client.post("/v1/retrievers/execute", json=body)

    def search(self, collection: str, query: Any, uri: str, **more: Any) -> Any:
        return self.run(collection, search_stage({"feature_uri": uri, "query": query}), **more)


def search_stage(*searches: dict[str, Any]) -> dict[str, Any]:
    return {"stage_id": "feature_search", "parameters": {"searches": list(searches)}}


def names(answer: Any) -> list[str]:
    return [document["name"] for document in ok(answer)["documents"]]


def data_uri(pixels: np.ndarray) -> str:
    return "data:image/png;base64," + base64.b64encode(picture(pixels, "PNG")).decode()


@pytest.fixture
def store(server: Server) -> Iterator[Store]:
    made = Store(server)
    yield made
    made.client.close()


def test_sparse_vectors_are_extracted_and_found_by_what_words_imply(store: Store) -> None:
    store.texts()
    collection = store.collection("splade_extractor", {"text": "body"})
    (index,) = ok(store.client.get(f"/v1/collections/{collection}"))["vector_indexes"]
    assert (index["type"], index["feature_uri"]) == ("sparse", SPLADE)
    store.ingest(collection)
    answer = store.search(collection, {"input_mode": "text", "value": "kitten on sofa"}, SPLADE, return_vectors=True)
    found = ok(answer)["documents"]
    assert found[0]["name"] == "cat"
    (vector,) = found[0]["vectors"].values()
    assert set(vector) == {"indices", "values"}
    again = store.search(collection, {"input_mode": "vector", "value": vector}, SPLADE)
    assert names(again)[0] == "cat"
    both = store.run(
        collection,
        search_stage(
            {"feature_uri": SPLADE, "query": {"input_mode": "text", "value": "kitten on sofa"}},
            {"lexical": True, "query": "couch"},
        ),
    )
    assert names(both)[0] == "cat"


def test_tokens_are_searched_and_rerank_what_another_search_found(store: Store) -> None:
    store.texts()
    collection = store.collection("colbert_extractor", {"text": "body"})
    (index,) = ok(store.client.get(f"/v1/collections/{collection}"))["vector_indexes"]
    assert (index["type"], index["index"]["dimensions"]) == ("multi", 384)
    store.ingest(collection)
    question = "which pet sleeps on the sofa"
    assert names(store.search(collection, {"input_mode": "text", "value": question}, COLBERT))[0] == "cat"
    answer = store.run(
        collection,
        {"stage_id": "attribute_filter", "parameters": {"field": "chunk_index", "operator": "eq", "value": 0}},
        {"stage_id": "maxsim_rerank", "parameters": {"feature_uri": COLBERT, "query": question}},
    )
    documents = ok(answer)["documents"]
    assert documents[0]["name"] == "cat"
    assert len(documents) == 3
    assert all(document["scores"]["maxsim"] > 0 for document in documents)


def test_a_face_is_found_by_another_picture_of_it(store: Store) -> None:
    portrait = photo("astronaut.png")[:260, 80:380]
    for name, pixels in (("astronaut", portrait), ("coffee", photo("coffee.png")), ("cat", photo("chelsea.png"))):
        data = base64.b64encode(picture(pixels, "JPEG", quality=90)).decode()
        store.put(name=name, blobs=[{"property": "photo", "type": "image", "data": data}])
    collection = store.collection("face_identity_extractor", {"image": "photo"}, min_face_size=40)
    store.ingest(collection)  # pictures without a face are no failures
    listed = ok(store.client.post(f"/v1/collections/{collection}/documents/list", json={}))["results"]
    assert [document["name"] for document in listed] == ["astronaut"]
    darker = data_uri((portrait * 0.6).astype(np.uint8))
    found = ok(store.search(collection, {"input_mode": "content", "value": darker}, FACES))["documents"]
    assert found[0]["name"] == "astronaut"
    assert found[0]["score"] > 0.5
    none = store.search(collection, {"input_mode": "content", "value": data_uri(photo("coffee.png"))}, FACES)
    assert "no face" in failed(none, 422)["message"]
    text = store.search(collection, {"input_mode": "text", "value": "an astronaut"}, FACES)
    assert "takes image" in failed(text, 422)["message"]


def test_a_face_of_a_video_is_found_with_the_times_it_is_seen(store: Store) -> None:
    portrait = photo("astronaut.png")[:260, 80:380]
    film = clip([Scene("coffee.png", 2), Scene(portrait, 3, travel=0.0)], size=(640, 480))
    store.put(name="film", blobs=[{"property": "film", "type": "video", "data": base64.b64encode(film).decode()}])
    wishes = {"min_face_size": 60, "output_mode": "per_image"}
    collection = store.collection("face_identity_extractor", {"video": "film"}, **wishes)
    store.ingest(collection)
    answer = store.search(collection, {"input_mode": "content", "value": data_uri(portrait)}, FACES)
    (document,) = ok(answer)["documents"]
    assert document["face_count"] == 1
    assert all(2 <= time <= 5 for time in document["faces"][0]["timestamps"])
    assert document["score"] > 0.5


def test_sentiments_are_filtered_by(store: Store) -> None:
    for name, body in (("praise", "I love this lamp, it is wonderful!"), ("blame", "The worst lamp I ever had.")):
        store.put(name=name, blobs=[{"property": "body", "type": "text", "data": body}])
    collection = store.collection("sentiment_classifier", {"text": "body"})
    store.ingest(collection)
    stage = {
        "stage_id": "attribute_filter",
        "parameters": {"field": "sentiment", "operator": "eq", "value": "negative"},
    }
    assert names(store.run(collection, stage)) == ["blame"]


def test_a_model_of_pages_that_is_not_there_is_an_error_when_the_collection_is_made(store: Store) -> None:
    config = {"feature_extractor_name": "colqwen_extractor", "version": "v1", "input_mappings": {"image": "photo"}}
    body = {"collection_name": "pages", "source": {"bucket_ids": [store.bucket]}, "feature_extractor": config}
    answer = store.client.post("/v1/collections", json=body)
    assert answer.status_code in (422, 503), answer.text
    assert "colqwen2_v1" in answer.json()["error"]["message"]


def test_an_extractor_answers_to_its_other_name_on_the_wire(store: Store) -> None:
    collection = store.collection("splade", {"text": "body"})
    shown = ok(store.client.get(f"/v1/collections/{collection}"))
    assert shown["feature_extractor"]["feature_extractor_name"] == "splade_extractor"
    assert shown["vector_indexes"][0]["feature_uri"] == SPLADE


def test_raw_inference_shows_vectors_of_every_kind_and_labels(store: Store) -> None:
    def infer(**body: Any) -> Any:
        return store.client.post("/v1/inference", json=body)

    sparse = ok(infer(feature_uri=SPLADE, inputs={"text": "a kitten"}))["data"]["embedding"]
    assert len(sparse["indices"]) == len(sparse["values"]) > 0
    tokens = ok(infer(inference_name="colbertv2_v1", inputs={"texts": ["a kitten", "two words"]}))["data"]
    assert tokens["dimensions"] == 384
    assert [np.array(vectors).shape[1] for vectors in tokens["embeddings"]] == [384, 384]
    assert "vector for every token" in failed(infer(model="colbertv2_v1", inputs={"text": "x " * 4000}), 422)["message"]
    labels = ok(infer(inference_name="vader", inputs={"texts": ["great", "awful"]}))["data"]["labels"]
    assert labels[0]["positive"] > 0.5
    assert labels[1]["negative"] > 0.4
    failed(infer(inference_name="face_identity_arcface_r100_v1", inputs={"text": "a face"}), 422)
