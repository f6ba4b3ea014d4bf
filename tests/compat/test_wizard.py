"""The setup wizard's scripts and the ingestion guide's requests, as printed there but for the base URL."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from compat_served import KEY, Served
from PIL import Image

TEXT_URI = "mixpeek://text_extractor@v1/multilingual_e5_large_instruct_v1"
IMAGE_URI = "mixpeek://image_extractor@v1/google_siglip_base_v1"


def picture(color: str) -> str:
    data = io.BytesIO()
    Image.new("RGB", (64, 48), color).save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


@pytest.fixture
def http(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=60) as made:
        yield made


def post(http: httpx.Client, path: str, body: dict[str, Any], headers: dict[str, str], status: int = 200) -> Any:
    answer = http.post(path, headers=headers, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def test_the_setup_wizard_runs_from_namespace_to_search(http: httpx.Client) -> None:
    project, dataset = "wizard-project", "products"
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    extractors = [
        {"feature_extractor_name": "text_extractor", "version": "v1"},
        {"feature_extractor_name": "image_extractor", "version": "v1"},
    ]
    made = post(http, "/v1/namespaces", {"namespace_name": project, "feature_extractors": extractors}, headers)
    headers["X-Namespace"] = made["namespace_id"]

    properties = {
        "name": {"type": "string"},
        "description": {"type": "string"},
        "image_url": {"type": "image"},
        "price": {"type": "float"},
        "in_stock": {"type": "string"},
    }
    body = {"bucket_name": f"{dataset}-data", "bucket_schema": {"properties": properties}}
    bucket_id = post(http, "/v1/buckets", body, headers)["bucket_id"]

    items = [
        ("Headphones", "Wireless headphones with a long battery life", "black", 99.0),
        ("Mug", "A red mug for tea and coffee", "red", 12.5),
        ("Lawn mower", "Cuts the grass of a large garden", "green", 310.0),
    ]
    for name, description, color, price in items:
        blobs = [
            {"property": "image_url", "type": "image", "data": picture(color)},
            {"property": "description", "type": "text", "data": description},
        ]
        fields = {"name": name, "price": price, "in_stock": "true"}
        post(http, f"/v1/buckets/{bucket_id}/objects", {**fields, "blobs": blobs}, headers)

    text_collection = post(
        http,
        "/v1/collections",
        {
            "collection_name": f"{dataset}-text",
            "source": {"type": "bucket", "bucket_ids": [bucket_id]},
            "feature_extractor": {
                "feature_extractor_name": "text_extractor",
                "version": "v1",
                "input_mappings": {"text": "description"},
                "parameters": {},
                "field_passthrough": ["name", "price", "in_stock", "image_url"],
            },
        },
        headers,
    )["collection_id"]
    image_collection = post(
        http,
        "/v1/collections",
        {
            "collection_name": f"{dataset}-images",
            "source": {"type": "bucket", "bucket_ids": [bucket_id]},
            "feature_extractor": {
                "feature_extractor_name": "image_extractor",
                "version": "v1",
                "input_mappings": {"image": "image_url"},
                "parameters": {},
                "field_passthrough": ["name", "description", "price"],
            },
        },
        headers,
    )["collection_id"]

    body = {
        "retriever_name": f"{project}-search",
        "collection_identifiers": [text_collection],
        "stages": [
            {
                "stage_name": "semantic_search",
                "stage_type": "filter",
                "config": {
                    "stage_id": "feature_search",
                    "parameters": {
                        "searches": [
                            {
                                "feature_uri": TEXT_URI,
                                "query": {"input_mode": "text", "text": "{{INPUT.query}}"},
                                "top_k": 10,
                            }
                        ],
                        "final_top_k": 5,
                        "fusion": "rrf",
                        "collection_identifiers": [text_collection],
                    },
                },
            }
        ],
        "input_schema": {"query": {"type": "string", "description": "Search query"}},
    }
    retriever_id = post(http, "/v1/retrievers", body, headers)["retriever"]["retriever_id"]
    both = [text_collection, image_collection]
    searches = [
        {"feature_uri": uri, "query": {"input_mode": "text", "text": "{{INPUT.query}}"}, "top_k": 10}
        for uri in (TEXT_URI, IMAGE_URI)
    ]
    parameters = {"searches": searches, "final_top_k": 5, "fusion": "rrf", "collection_identifiers": both}
    stage = {
        "stage_name": "multimodal_search",
        "stage_type": "filter",
        "config": {"stage_id": "feature_search", "parameters": parameters},
    }
    body = {
        "retriever_name": f"{project}-multimodal",
        "collection_identifiers": both,
        "stages": [stage],
        "input_schema": {"query": {"type": "string"}},
    }
    multimodal_id = post(http, "/v1/retrievers", body, headers)["retriever"]["retriever_id"]

    for collection_id in both:
        triggered = post(http, f"/v1/collections/{collection_id}/trigger", {}, headers, 202)
        assert triggered["object_count"] == 3
        wait(http, headers, bucket_id, triggered["batch_id"])

    indexes = http.get(f"/v1/collections/{text_collection}", headers=headers).json()["vector_indexes"]
    assert [index["feature_uri"] for index in indexes] == [TEXT_URI]
    assert all(index["vector_name"] for index in indexes)

    body = {"inputs": {"query": "something to drink from"}, "settings": {"limit": 2}}
    found = post(http, f"/v1/retrievers/{retriever_id}/execute", body, headers)
    assert found["results"][0]["name"] == "Mug"
    assert len(found["results"]) == 2
    found = post(http, f"/v1/retrievers/{multimodal_id}/execute", body, headers)
    assert {document["collection_id"] for document in found["documents"]} <= set(both)
    assert found["documents"]


def wait(http: httpx.Client, headers: dict[str, str], bucket_id: str, batch_id: str) -> dict[str, Any]:
    for _ in range(2_400):
        batch: dict[str, Any] = http.get(f"/v1/buckets/{bucket_id}/batches/{batch_id}", headers=headers).json()
        if batch["status"] not in ("DRAFT", "QUEUED", "PROCESSING"):
            assert batch["status"] == "COMPLETED", batch
            return batch
        time.sleep(0.1)
    raise AssertionError("the batch did not end")


def test_the_ingestion_guide_runs_from_namespace_to_batch(http: httpx.Client, served: Served) -> None:
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    body: dict[str, Any] = {
        "namespace_name": "production",
        "feature_extractors": [{"feature_extractor_name": "image_extractor", "version": "v1"}],
    }
    headers["X-Namespace"] = post(http, "/v1/namespaces", body, headers)["namespace_id"]
    body = {
        "bucket_name": "product-catalog",
        "bucket_schema": {
            "properties": {"product_text": {"type": "text", "required": True}, "hero_image": {"type": "image"}}
        },
    }
    bucket_id = post(http, "/v1/buckets", body, headers)["bucket_id"]
    body = {
        "key_prefix": "/products",
        "blobs": [
            {"property": "hero_image", "type": "image", "data": picture("blue")},
            {"property": "product_text", "type": "text", "content": "Wireless headphones"},
        ],
    }
    first = post(http, f"/v1/buckets/{bucket_id}/objects", body, headers)["object_id"]
    body["blobs"][1]["content"] = "A blue lamp"
    second = post(http, f"/v1/buckets/{bucket_id}/objects", body, headers)["object_id"]

    body = {"filename": "photo.jpg", "content_type": "image/jpeg"}
    upload = post(http, f"/v1/buckets/{bucket_id}/uploads", body, headers)
    sent = {"Content-Type": "image/jpeg"}
    put = httpx.put(upload["presigned_url"], content=b"\xff\xd8\xff\xe0 not really", headers=sent)
    assert put.status_code == 200, put.text
    confirmed = post(http, f"/v1/uploads/{upload['upload_id']}/confirm", {}, headers, 422)
    assert "product_text" in confirmed["error"]["message"]  # the bucket requires it

    batch = post(http, f"/v1/buckets/{bucket_id}/batches", {"object_ids": [first, second]}, headers)
    assert batch["status"] == "DRAFT"
    submitted = http.post(f"/v1/buckets/{bucket_id}/batches/{batch['batch_id']}/submit", headers=headers)
    assert submitted.status_code == 200, submitted.text
    assert submitted.json()["task_id"]
    ended = wait(http, headers, bucket_id, batch["batch_id"])
    assert "no enabled collection" in ended["status_message"]
