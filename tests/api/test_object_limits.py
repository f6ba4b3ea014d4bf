"""What one object, upload or bucket may hold, and requests that are wrong: 422 that names the field, nothing done."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from helpers import failed, ok, places

MANY = {f"key {number}": 1 for number in range(1001)}
LONG = "x" * 1025


@pytest.fixture
def path(bucket: str) -> str:
    return f"/v1/buckets/{bucket}/objects"


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"metadata": MANY}, {"body.metadata", "body"}),
        (MANY, {"body"}),
        ({"metadata": {"a": "x" * (1 << 20)}}, {"body.metadata"}),
        ({"a": "x" * (16 << 20)}, {"body"}),
        ({"x" * 256: 1}, {"body"}),
        ({"metadata": {"x" * 256: 1}}, {"body.metadata", "body"}),
        ({"key_prefix": LONG}, {"body.key_prefix"}),
        ({"blobs": [{"property": "text", "data": "a", "key_prefix": LONG}]}, {"body.blobs.0.key_prefix"}),
        ({"blobs": [{"property": "text", "data": "a", "filename": LONG}]}, {"body.blobs.0.filename"}),
        ({"blobs": [{"property": "text", "data": "a", "metadata": MANY}]}, {"body.blobs.0.metadata", "body"}),
        (
            {"blobs": [{"property": "text", "data": "a", "canonicalize_source": 3}]},
            {"body.blobs.0.canonicalize_source"},
        ),
        ({"blobs": 5}, {"body.blobs"}),
        ({"blobs": {"upload_id": "x"}}, {"body.blobs"}),
    ],
)
def test_an_object_that_is_too_much_or_wrong_is_refused(
    client: httpx.Client, path: str, body: dict[str, Any], where: set[str]
) -> None:
    assert places(failed(client.post(path, json=body), 422)) == where
    answer = failed(client.post(f"{path}/batch", json={"objects": [body]}), 422)
    assert all(place.startswith("body.objects.0") for place in places(answer))
    assert ok(client.get(path))["results"] == []


def test_a_large_object_below_the_limits_is_taken(client: httpx.Client, path: str) -> None:
    fields = {f"key {number}": "x" * 900 for number in range(999)}
    made = ok(client.post(path, json={"metadata": fields, "key_prefix": "p" * 1024}))
    assert ok(client.get(f"{path}/{made['object_id']}"))["metadata"] == fields


@pytest.mark.parametrize("verb", ["PATCH", "PUT"])
@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"metadata": MANY}, {"body.metadata", "body"}),
        (MANY, {"body"}),
        ({"key_prefix": LONG}, {"body.key_prefix"}),
        ({"key_prefix": 7}, {"body.key_prefix"}),
        ({"metadata": [1]}, {"body.metadata"}),
        ({"blobs": []}, {"body.blobs"}),
        ({"idempotency_key": "x"}, {"body.idempotency_key"}),
        ({"photo": "data:image/png;base64,AAAA"}, {"body.photo"}),
        ({"price": "dear", "title": 5}, {"body.price", "body.title"}),
        ({"object_id": "obj_other", "__x": 1}, {"body.object_id", "body.__x"}),
        ({"edges": [{"type": 1}]}, {"body.edges"}),
    ],
)
def test_a_change_that_is_too_much_or_wrong_is_refused(
    client: httpx.Client, path: str, verb: str, body: dict[str, Any], where: set[str]
) -> None:
    made = ok(client.post(path, json={"title": "before", "metadata": {"a": 1}}))
    assert places(failed(client.request(verb, f"{path}/{made['object_id']}", json=body), 422)) == where
    seen = ok(client.get(f"{path}/{made['object_id']}"))
    assert (seen["title"], seen["metadata"], seen["updated_at"]) == ("before", {"a": 1}, made["updated_at"])


def test_changes_cannot_grow_an_object_beyond_its_limits(client: httpx.Client, path: str) -> None:
    made = ok(client.post(path, json={"metadata": {f"a{number}": 1 for number in range(600)}}))
    more = {"metadata": {f"b{number}": 1 for number in range(600)}}
    assert "body.metadata" in places(failed(client.patch(f"{path}/{made['object_id']}", json=more), 422))


def test_options_of_create_do_not_become_fields_by_a_change(client: httpx.Client, path: str) -> None:
    made = ok(client.post(path, json={"title": "a"}))
    options = {"skip_duplicates": False, "canonicalize_source": True, "force_remirror": False}
    seen = ok(client.patch(f"{path}/{made['object_id']}", json={"title": "b", **options}))
    assert seen["title"] == "b"
    assert not options.keys() & seen.keys()


@pytest.mark.parametrize("ident", ["obj_never", "x" * 5000, "..%2F..", "%00", "ünï"])
def test_an_object_that_does_not_exist_is_not_found_by_any_verb(client: httpx.Client, path: str, ident: str) -> None:
    for verb, body in (("GET", None), ("PATCH", {"title": "x"}), ("PUT", {"title": "x"}), ("DELETE", None)):
        assert client.request(verb, f"{path}/{ident}", json=body).status_code in (404, 422)


@pytest.mark.parametrize(
    "body",
    [{"object_ids": []}, {"object_ids": [1]}, {"object_ids": ["a"] * 5001}, {"object_ids": ["a"], "source": LONG}, {}],
)
def test_a_soft_delete_that_is_wrong_is_refused(client: httpx.Client, path: str, body: dict[str, Any]) -> None:
    failed(client.post(f"{path}/bulk-soft-delete", json={"reason": "r", **body}), 422)


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"metadata": MANY}, "body.metadata"),
        ({"object_metadata": {"a": "x" * (1 << 20)}}, "body.object_metadata"),
    ],
)
def test_an_upload_with_too_much_metadata_is_refused(
    client: httpx.Client, bucket: str, body: dict[str, Any], where: str
) -> None:
    wish = {"filename": "a.jpg", "content_type": "image/jpeg", **body}
    assert places(failed(client.post(f"/v1/buckets/{bucket}/uploads", json=wish), 422)) == {where}
    answer = failed(client.post(f"/v1/buckets/{bucket}/uploads/batch", json={"uploads": [wish]}), 422)
    assert places(answer) == {where.replace("body.", "body.uploads.0.")}


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"bucket_schema": {"properties": {f"p{n}": {"type": "string"} for n in range(501)}}}, "bucket_schema"),
        ({"bucket_schema": {"properties": {"a": {"type": "string", "enum": ["x" * 300_000]}}}}, "bucket_schema"),
        ({"metadata": MANY}, "metadata"),
        ({"unique_key": {"fields": ["a." + "b" * 300], "default_policy": "insert"}}, "unique_key"),
        ({"description": "x" * 5001}, "description"),
    ],
)
def test_a_bucket_that_is_too_much_is_refused(client: httpx.Client, body: dict[str, Any], where: str) -> None:
    whole = {"bucket_name": "b", "bucket_schema": {"properties": {"a": {"type": "object"}}}, **body}
    assert {place.split(".")[1] for place in places(failed(client.post("/v1/buckets", json=whole), 422))} == {where}
    assert ok(client.get("/v1/buckets"))["results"] == []


def test_a_schema_change_keeps_the_properties_of_the_unique_key(client: httpx.Client) -> None:
    schema = {"properties": {"sku": {"type": "string"}, "text": {"type": "text"}}}
    key = {"fields": ["sku"], "default_policy": "insert"}
    ok(client.post("/v1/buckets", json={"bucket_name": "keyed", "bucket_schema": schema, "unique_key": key}))
    less = {"bucket_schema": {"properties": {"text": {"type": "text"}}}}
    answer = failed(client.patch("/v1/buckets/keyed?force_schema_break=true", json=less), 422)
    assert places(answer) == {"body.unique_key.fields.0"}


def test_an_error_names_some_properties_of_a_bucket_with_hundreds(client: httpx.Client) -> None:
    schema = {"properties": {f"property_{number}": {"type": "string"} for number in range(500)}}
    bucket = ok(client.post("/v1/buckets", json={"bucket_name": "wide", "bucket_schema": schema}))["bucket_id"]
    body = {"blobs": [{"property": "n" * 10_000, "data": "x"}]}
    answer = client.post(f"/v1/buckets/{bucket}/objects", json=body)
    assert answer.status_code == 422
    assert "500 in all" in answer.text
    assert len(answer.text) < 5000
