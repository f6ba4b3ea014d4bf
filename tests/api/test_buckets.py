"""Buckets: schemas of every type, unique keys, counts, and what may change later."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from helpers import failed, ok, places

TYPES = {
    "string": "string", "number": "number", "integer": "integer", "float": "float", "boolean": "boolean",
    "object": "object", "array": "array", "date": "date", "datetime": "datetime", "text": "text", "image": "image",
    "audio": "audio", "video": "video", "pdf": "pdf", "excel": "excel", "json": "object", "binary": "string",
    "file": "string", "document": "pdf", "spreadsheet": "excel", "gif": "image",
}  # fmt: skip


def make(client: httpx.Client, properties: dict[str, Any], **more: Any) -> httpx.Response:
    return client.post("/v1/buckets", json={"bucket_name": "b1", "bucket_schema": {"properties": properties}, **more})


def test_the_documented_request_works_as_printed(client: httpx.Client) -> None:
    properties = {"product_text": {"type": "text", "required": True}, "hero_image": {"type": "image"}}
    made = ok(
        client.post("/v1/buckets", json={"bucket_name": "product-catalog", "bucket_schema": {"properties": properties}})
    )
    assert made["bucket_id"].startswith("bkt_")
    assert (made["object_count"], made["total_size_bytes"]) == (0, 0)
    assert made["bucket_schema"]["properties"]["product_text"] == {"type": "text", "required": True}


@pytest.mark.parametrize(("declared", "shown"), TYPES.items())
def test_every_type_is_taken_and_shown_as_the_wire_knows_it(client: httpx.Client, declared: str, shown: str) -> None:
    entry = ok(make(client, {"p": {"type": declared}}))["bucket_schema"]["properties"]["p"]
    assert entry["type"] == shown
    assert entry.get("declared_type", declared) == declared


def test_nested_types_are_mapped_too(client: httpx.Client) -> None:
    properties = {"p": {"type": "array", "items": {"type": "json", "properties": {"q": {"type": "document"}}}}}
    items = ok(make(client, properties))["bucket_schema"]["properties"]["p"]["items"]
    assert (items["type"], items["properties"]["q"]["type"]) == ("object", "pdf")


def test_a_bad_schema_names_every_offending_property(client: httpx.Client) -> None:
    properties = {
        "a": {"type": "strng"},
        "b": {"type": "integer", "default": "one"},
        "c": {"type": "object", "properties": {"d": {"type": "nope"}}},
        "e": {"type": "string", "enum": []},
        "object_id": {"type": "string"},
        "f": 5,
    }
    error = failed(make(client, properties), 422)
    root = "body.bucket_schema.properties."
    expected = {"a.type", "b.default", "c.properties.d.type", "e.enum", "object_id", "f"}
    assert places(error) == {root + name for name in expected}
    assert "one of" in error["message"]
    assert ok(client.get("/v1/buckets"))["results"] == []


@pytest.mark.parametrize("schema", [None, {}, {"properties": {}}, {"properties": []}, "text"])
def test_a_schema_needs_a_property(client: httpx.Client, schema: Any) -> None:
    failed(client.post("/v1/buckets", json={"bucket_name": "b", "bucket_schema": schema}), 422)


def test_a_bucket_name_is_unique_in_its_namespace(admin: httpx.Client, client: httpx.Client) -> None:
    first = ok(make(client, {"p": {"type": "text"}}))
    assert failed(make(client, {"p": {"type": "text"}}), 409)["details"]["existing_id"] == first["bucket_id"]
    ok(admin.post("/v1/namespaces", json={"namespace_name": "other"}))
    body = {"bucket_name": "b1", "bucket_schema": {"properties": {"p": {"type": "text"}}}}
    ok(admin.post("/v1/buckets", json=body, headers={"X-Namespace": "other"}))


def test_a_unique_key_must_name_properties_with_single_values(client: httpx.Client) -> None:
    properties = {"sku": {"type": "string"}, "data": {"type": "json"}}
    error = failed(make(client, properties, unique_key={"fields": ["sku", "nope", "data"]}), 422)
    assert places(error) == {"body.unique_key.fields.1"}
    made = ok(make(client, properties, unique_key={"fields": ["sku"], "default_policy": "upsert"}))
    assert made["unique_key"] == {"fields": ["sku"], "default_policy": "upsert"}


def test_the_policy_of_a_unique_key_may_change_but_not_its_fields(client: httpx.Client) -> None:
    ok(make(client, {"a": {"type": "string"}, "b": {"type": "string"}}, unique_key={"fields": ["a"]}))
    changed = ok(client.patch("/v1/buckets/b1", json={"unique_key": {"fields": ["a"], "default_policy": "update"}}))
    assert changed["unique_key"]["default_policy"] == "update"
    failed(client.patch("/v1/buckets/b1", json={"unique_key": {"fields": ["b"]}}), 409)


def test_counts_follow_the_objects(client: httpx.Client, bucket: str) -> None:
    path = f"/v1/buckets/{bucket}/objects"
    first = ok(client.post(path, json={"blobs": [{"property": "text", "data": "hello"}]}))
    ok(client.post(path, json={"blobs": [{"property": "text", "data": "world!"}]}))
    seen = ok(client.get("/v1/buckets/things"))
    assert (seen["object_count"], seen["total_size_bytes"]) == (2, 11)
    client.delete(f"{path}/{first['object_id']}")
    seen = ok(client.get("/v1/buckets/things"))
    assert (seen["object_count"], seen["total_size_bytes"]) == (1, 6)


def test_properties_are_added_freely_but_not_taken_from_under_objects(client: httpx.Client, bucket: str) -> None:
    schema = ok(client.get(f"/v1/buckets/{bucket}"))["bucket_schema"]
    wider = {"properties": {**schema["properties"], "extra": {"type": "string"}}}
    narrower = {"properties": {"title": {"type": "integer"}, "must": {"type": "string", "required": True}}}
    ok(client.post(f"/v1/buckets/{bucket}/objects", json={"title": "t"}))
    ok(client.patch(f"/v1/buckets/{bucket}", json={"bucket_schema": wider}))
    error = failed(client.put(f"/v1/buckets/{bucket}", json={"bucket_schema": narrower}), 409)
    assert {"title", "photo", "extra", "must"} <= set(error["details"]["properties"])
    changed = ok(client.patch(f"/v1/buckets/{bucket}?force_schema_break=true", json={"bucket_schema": narrower}))
    assert set(changed["bucket_schema"]["properties"]) == {"title", "must"}


def test_deleting_a_bucket_removes_its_objects(client: httpx.Client, bucket: str) -> None:
    made = ok(client.post(f"/v1/buckets/{bucket}/objects", json={"title": "t"}))
    answer = ok(client.delete(f"/v1/buckets/{bucket}"))
    assert (answer["success"], answer["deleted_objects"]) == (True, 1)
    failed(client.get(f"/v1/buckets/{bucket}/objects/{made['object_id']}"), 404)


def test_a_bucket_that_feeds_collections_is_only_deleted_with_force(client: httpx.Client, bucket: str) -> None:
    config = {"feature_extractor_name": "passthrough_extractor", "field_passthrough": ["title"]}
    body = {"collection_name": "copies", "source": {"bucket_ids": [bucket]}, "feature_extractor": config}
    made = ok(client.post("/v1/collections", json=body))
    error = failed(client.delete(f"/v1/buckets/{bucket}"), 409)
    assert error["details"]["collection_ids"] == [made["collection_id"]]
    ok(client.delete(f"/v1/buckets/{bucket}?force_foreclose=true"))


def test_buckets_are_listed_and_searched(client: httpx.Client) -> None:
    for name in ("red", "green", "blue"):
        body = {"bucket_name": name, "bucket_schema": {"properties": {"p": {"type": "text"}}}}
        ok(client.post("/v1/buckets", json=body))
    page = ok(client.get("/v1/buckets?limit=2"))
    assert [b["bucket_name"] for b in page["results"]] == ["blue", "green"]
    rest = ok(client.get(f"/v1/buckets?limit=2&cursor={page['pagination']['next_cursor']}"))
    assert [b["bucket_name"] for b in rest["results"]] == ["red"]
    assert [b["bucket_name"] for b in ok(client.post("/v1/buckets/list", json={"search": "re"}))["results"]] == [
        "green",
        "red",
    ]


def test_storage_settings_that_would_do_nothing_are_refused(client: httpx.Client) -> None:
    failed(make(client, {"p": {"type": "text"}}, destination={"connection_id": "conn_1"}), 403)
