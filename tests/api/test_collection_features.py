"""Collections that are asked for by what they are to be searched by."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from mixpeek.models.collection_response import CollectionResponse
from mixpeek.models.create_collection_request import CreateCollectionRequest

from helpers import failed, ok

MINE = "mixpeek://text_extractor@v1/multilingual_e5_large_instruct_v1"


@pytest.fixture
def bucket(client: httpx.Client) -> str:
    schema = {"properties": {"text": {"type": "text"}, "picture": {"type": "image"}}}
    return str(ok(client.post("/v1/buckets", json={"bucket_name": "things", "bucket_schema": schema}))["bucket_id"])


def asked(client: httpx.Client, bucket: str, **more: Any) -> httpx.Response:
    source = {"type": "bucket", "bucket_ids": [bucket]}
    return client.post("/v1/collections", json={"collection_name": "found", "source": source, **more})


def keys_of(client: httpx.Client, extractor: str) -> list[dict[str, Any]]:
    modalities = ok(client.get("/v1/collections/features"))["modalities"]
    return [one for each in modalities for one in each["features"] if one["feature_extractor_id"] == extractor]


def test_every_way_to_name_a_feature_leads_to_its_extractor(client: httpx.Client, bucket: str) -> None:
    (listed, *_) = keys_of(client, "text_extractor_v1")
    assert listed["feature_uri"] == MINE
    for key in (listed["feature"], MINE, "text_extractor_v1", "text_extractor", "custom:text_extractor"):
        made = ok(asked(client, bucket, features=[key]))
        assert made["feature_extractor"]["feature_extractor_id"] == "text_extractor_v1"
        assert "features" not in made["feature_extractor"]
        assert [index["feature_uri"] for index in made["vector_indexes"]] == [MINE]
        ok(client.delete(f"/v1/collections/{made['collection_id']}"))


def test_the_official_request_is_understood(client: httpx.Client, bucket: str) -> None:
    source = {"type": "bucket", "bucket_ids": [bucket]}
    request = CreateCollectionRequest.from_dict({"collection_name": "typed", "source": source, "features": [MINE]})
    assert request is not None
    made = CollectionResponse.from_dict(ok(client.post("/v1/collections", json=request.to_dict())))
    assert made is not None
    assert made.feature_extractor.feature_extractor_name == "text_extractor"
    assert made.schema_version == 1


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"features": ["faces of cats"]}, "collections/features"),
        ({"features": [MINE, "image_extractor_v1"]}, "no single extractor"),
        ({"features": ["multilingual_e5_large_instruct_v1"]}, "name one of these"),
        ({"features": ["multimodal_extractor"]}, "multimodal_extractor_v1, multimodal_extractor_v2"),
        ({"features": [MINE], "feature_extractor": {"feature_extractor_name": "text_extractor"}}, "not both"),
        ({"feature_extractor": {"feature_extractor_name": "image_extractor", "features": [MINE]}}, MINE),
        ({"features": ["x"] * 51}, "50"),
        ({"features": []}, "feature_extractor"),
        ({"features": "text_extractor"}, "list"),
        ({"retriever_transform": {"stages": []}}, "retriever_enrichments"),
    ],
)
def test_what_names_no_single_extractor_is_refused(
    client: httpx.Client, bucket: str, more: dict[str, Any], told: str
) -> None:
    assert told in str(failed(asked(client, bucket, **more), 422))


def test_features_of_a_collection_are_not_changed(client: httpx.Client, bucket: str) -> None:
    made = ok(asked(client, bucket, features=[MINE]))
    failed(client.patch(f"/v1/collections/{made['collection_id']}", json={"features": ["image_extractor_v1"]}), 409)
    clone = {"collection_name": "copy", "features": ["passthrough_extractor"]}
    copied = ok(client.post(f"/v1/collections/{made['collection_id']}/clone", json=clone))["collection"]
    assert copied["feature_extractor"]["feature_extractor_id"] == "passthrough_extractor_v1"
