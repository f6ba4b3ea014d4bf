"""Bulk creation: a thousand objects in one transaction, each with its own outcome."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from helpers import failed, ok, places
from server import Tenant


@pytest.fixture
def path(bucket: str) -> str:
    return f"/v1/buckets/{bucket}/objects"


def bulk(client: httpx.Client, path: str, objects: list[Any], query: str = "") -> dict[str, Any]:
    return dict(ok(client.post(f"{path}/batch{query}", json={"objects": objects})))


def test_a_thousand_objects_are_created_in_one_request(client: httpx.Client, path: str, tenant: Tenant) -> None:
    picture = b"\xff\xd8\xff" + b"p" * 14_000
    objects = [
        {
            "title": f"t{n}",
            "blobs": [{"property": "photo", "data": base64.b64encode(picture + str(n).encode()).decode()}],
        }
        for n in range(1000)
    ]
    answer = bulk(client, path, objects)
    assert (answer["total_requested"], answer["succeeded_count"], answer["failed_count"]) == (1000, 1000, 0)
    assert [row["object_index"] for row in answer["succeeded"]] == list(range(1000))
    assert len({row["object_id"] for row in answer["succeeded"]}) == 1000
    assert ok(client.get(path))["total"] == 1000
    last = ok(client.get(f"{path}/{answer['succeeded'][-1]['object_id']}"))
    assert httpx.get(last["blobs"][0]["presigned_url"]).content == picture + b"999"


def test_good_rows_are_kept_and_bad_ones_say_why(client: httpx.Client, path: str) -> None:
    objects: list[Any] = [{"title": "a"}, {"title": 5, "price": "x"}, "nonsense", {"title": "b"}]
    answer = bulk(client, path, objects)
    assert [row["object_index"] for row in answer["succeeded"]] == [0, 3]
    assert [row["object_index"] for row in answer["failed"]] == [1, 2]
    assert {".".join(map(str, error["loc"])) for error in answer["failed"][0]["errors"]} == {"body.title", "body.price"}
    assert answer["failed"][0]["error_type"] == "ValidationError"


def test_when_every_row_is_bad_the_request_is(client: httpx.Client, path: str) -> None:
    error = failed(client.post(f"{path}/batch", json={"objects": [{"title": 1}, {"title": 2}]}), 422)
    assert places(error) == {"body.objects.0.title", "body.objects.1.title"}
    assert [row["object_index"] for row in error["details"]["failed"]] == [0, 1]


@pytest.mark.parametrize("objects", [[], None, {}, [{}] * 1001])
def test_the_number_of_rows_is_bounded(client: httpx.Client, path: str, objects: Any) -> None:
    assert places(failed(client.post(f"{path}/batch", json={"objects": objects}), 422)) == {"body.objects"}


def test_rows_of_one_request_see_each_other(client: httpx.Client) -> None:
    schema = {"properties": {"sku": {"type": "string"}, "text": {"type": "text"}}}
    key = {"fields": ["sku"], "default_policy": "upsert"}
    ok(client.post("/v1/buckets", json={"bucket_name": "keyed", "bucket_schema": schema, "unique_key": key}))
    path = "/v1/buckets/keyed/objects"
    objects = [
        {"sku": "a", "x": 1, "blobs": [{"property": "text", "data": "first"}]},
        {"sku": "a", "y": 2, "blobs": [{"property": "text", "data": "second"}]},
        {"sku": "b", "idempotency_key": "i"},
        {"sku": "c", "idempotency_key": "i"},
    ]
    rows = bulk(client, path, objects)["succeeded"]
    assert rows[0]["object_id"] == rows[1]["object_id"]
    assert rows[3]["object_id"] == rows[2]["object_id"]
    assert rows[3]["replayed_by"] == "idempotency_key"
    seen = ok(client.get(f"{path}/{rows[0]['object_id']}"))
    assert (seen["x"], seen["y"], len(seen["blobs"])) == (1, 2, 1)
    assert seen["blobs"][0]["properties"]["data"] == "second"
    answer = bulk(client, path, [{"sku": "a", "z": 1}, {"sku": "new"}], "?policy=insert")
    assert [(row["object_index"], row["error_type"]) for row in answer["failed"]] == [(0, "AlreadyExistsError")]


def test_references_are_not_fetched_in_bulk(client: httpx.Client, path: str, web: Any) -> None:
    answer = bulk(client, path, [{"blobs": [{"property": "photo", "url": web.url("/x.jpg")}]}])
    assert (answer["succeeded"][0]["status"], web.asked) == ("PENDING", [])


def test_concurrent_upserts_of_one_key_make_one_object(client: httpx.Client, tenant: Tenant, namespace: str) -> None:
    schema = {"properties": {"sku": {"type": "string"}, "text": {"type": "text"}}}
    key = {"fields": ["sku"], "default_policy": "upsert"}
    ok(client.post("/v1/buckets", json={"bucket_name": "keyed", "bucket_schema": schema, "unique_key": key}))

    def write(number: int) -> str:
        with tenant.client(namespace) as own:
            blob = {"property": "text", "data": "same content " * 2000}
            body = {"sku": "one", f"f{number}": number, "blobs": [blob]}
            return str(ok(own.post("/v1/buckets/keyed/objects", json=body))["object_id"])

    with ThreadPoolExecutor(12) as pool:
        ids = set(pool.map(write, range(48)))
    assert len(ids) == 1
    seen = ok(client.get(f"/v1/buckets/keyed/objects/{ids.pop()}"))
    assert all(seen[f"f{number}"] == number for number in range(48))
    assert httpx.get(seen["blobs"][0]["presigned_url"]).text == "same content " * 2000


def test_shared_files_survive_deletes_and_creates_at_the_same_time(
    client: httpx.Client, path: str, tenant: Tenant, namespace: str
) -> None:
    body = {"blobs": [{"property": "text", "data": "shared " * 4000}]}

    def churn(number: int) -> str | None:
        with tenant.client(namespace) as own:
            made = str(ok(own.post(path, json=body))["object_id"])
            if number % 3:
                assert own.delete(f"{path}/{made}").status_code == 204
                return None
            return made

    with ThreadPoolExecutor(8) as pool:
        kept = [ident for ident in pool.map(churn, range(60)) if ident]
    for ident in kept:
        url = ok(client.get(f"{path}/{ident}"))["blobs"][0]["presigned_url"]
        assert httpx.get(url).text == "shared " * 4000
