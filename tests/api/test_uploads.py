"""Uploads: announce, PUT without a key, confirm against what was announced."""

from __future__ import annotations

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from helpers import failed, ok, places
from server import Tenant


def jpeg(color: str = "red") -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def path(bucket: str) -> str:
    return f"/v1/buckets/{bucket}/uploads"


def announce(client: httpx.Client, path: str, **more: Any) -> dict[str, Any]:
    body = {"filename": "photo.jpg", "content_type": "image/jpeg", **more}
    return dict(ok(client.post(path, json=body)))


def stored(tenant: Tenant) -> list[str]:
    return [info.key for info in tenant.server.app.services.blobs.list(f"{tenant.organization_id}/")]


@pytest.mark.parametrize("short", [False, True])
def test_the_documented_way_works_with_both_confirm_paths(
    client: httpx.Client, path: str, bucket: str, short: bool
) -> None:
    made = announce(client, path)
    assert (made["status"], made["blob_property"]) == ("PENDING", "photo")
    assert made["upload_id"].startswith("upl_")
    put = httpx.put(made["presigned_url"], content=jpeg())
    etag = ok(put)["etag"]
    confirm = f"/v1/uploads/{made['upload_id']}/confirm" if short else f"{path}/{made['upload_id']}/confirm"
    done = ok(client.post(confirm, json={"etag": put.headers["etag"], "file_size_bytes": len(jpeg())}))
    assert (done["status"], done["etag"]) == ("COMPLETED", etag)
    assert done["file_hash"] == hashlib.sha256(jpeg()).hexdigest()
    seen = ok(client.get(f"/v1/buckets/{bucket}/objects/{done['object_id']}"))
    blob = seen["blobs"][0]
    assert (blob["property"], blob["details"]["filename"], blob["details"]["mime_type"]) == (
        "photo",
        "photo.jpg",
        "image/jpeg",
    )
    assert httpx.get(blob["presigned_url"]).content == jpeg()


def test_confirming_again_gives_the_same_object(client: httpx.Client, path: str, bucket: str) -> None:
    made = announce(client, path)
    httpx.put(made["presigned_url"], content=jpeg())
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: client.post(f"{path}/{made['upload_id']}/confirm"), range(6)))
    assert len({ok(answer)["object_id"] for answer in answers}) == 1
    assert ok(client.get(f"/v1/buckets/{bucket}/objects"))["total"] == 1


@pytest.mark.parametrize(
    ("said", "claim", "word"),
    [
        ({"file_size_bytes": 5}, {}, "file_size_bytes"),
        ({}, {"file_size_bytes": 5}, "file_size_bytes"),
        ({}, {"etag": "wrong"}, "etag"),
        ({"file_hash": "0" * 64}, {}, "file_hash"),
    ],
)
def test_what_arrives_must_be_what_was_announced(
    client: httpx.Client, path: str, tenant: Tenant, said: dict[str, Any], claim: dict[str, Any], word: str
) -> None:
    made = announce(client, path, **said)
    httpx.put(made["presigned_url"], content=jpeg())
    error = failed(client.post(f"{path}/{made['upload_id']}/confirm", json=claim), 400)
    assert word in error["message"]
    seen = ok(client.get(f"{path}/{made['upload_id']}"))
    assert (seen["status"], word in seen["message"]) == ("FAILED", True)
    assert stored(tenant) == []
    failed(client.post(f"{path}/{made['upload_id']}/confirm"), 409)


def test_confirming_before_the_file_arrives_says_so_and_may_be_repeated(client: httpx.Client, path: str) -> None:
    made = announce(client, path)
    assert "PUT" in failed(client.post(f"{path}/{made['upload_id']}/confirm"), 400)["message"]
    httpx.put(made["presigned_url"], content=jpeg())
    ok(client.post(f"{path}/{made['upload_id']}/confirm"))


@pytest.mark.parametrize("name", ["../etc/passwd", "/etc/passwd", "a\\..\\b", "", "x" * 256, "a\nb", " a"])
def test_a_file_name_must_be_plain(client: httpx.Client, path: str, name: str) -> None:
    body = {"filename": name, "content_type": "image/jpeg"}
    assert places(failed(client.post(path, json=body), 422)) == {"body.filename"}


def test_bad_announcements_name_every_field(client: httpx.Client, path: str) -> None:
    body = {"filename": "a.jpg", "presigned_url_expiration": 5, "file_hash": "x", "file_size_bytes": -1}
    expected = {"content_type", "presigned_url_expiration", "file_hash", "file_size_bytes"}
    assert places(failed(client.post(path, json=body), 422)) == {f"body.{name}" for name in expected}
    failed(client.post(path, json={"filename": "a", "content_type": "b", "file_size_bytes": 10**15}), 413)


def test_a_property_is_inferred_or_asked_for(client: httpx.Client, path: str) -> None:
    assert announce(client, path, filename="a.txt", content_type="text/plain")["blob_property"] == "text"
    body = {"filename": "a.mp3", "content_type": "audio/mpeg"}
    assert places(failed(client.post(path, json=body), 422)) == {"body.blob_property"}
    assert places(failed(client.post(path, json={**body, "blob_property": "nope"}), 422)) == {"body.blob_property"}
    assert announce(client, path, **body, create_object_on_confirm=False)["blob_property"] is None


def test_without_an_object_the_upload_can_be_used_later(client: httpx.Client, path: str, bucket: str) -> None:
    made = announce(client, path, create_object_on_confirm=False)
    objects = f"/v1/buckets/{bucket}/objects"
    blob = {"property": "photo", "type": "image", "upload_id": made["upload_id"]}
    assert "confirm" in failed(client.post(objects, json={"blobs": [blob]}), 422)["message"]
    httpx.put(made["presigned_url"], content=jpeg())
    assert ok(client.post(f"{path}/{made['upload_id']}/confirm"))["object_id"] is None
    first, second = (ok(client.post(objects, json={"blobs": [blob]}))["object_id"] for _ in range(2))
    client.delete(f"{objects}/{first}")
    assert httpx.get(ok(client.get(f"{objects}/{second}"))["blobs"][0]["presigned_url"]).content == jpeg()


def test_known_content_needs_no_transfer(client: httpx.Client, path: str) -> None:
    first = announce(client, path)
    httpx.put(first["presigned_url"], content=jpeg())
    done = ok(client.post(f"{path}/{first['upload_id']}/confirm"))
    again = announce(client, path, file_hash=hashlib.sha256(jpeg()).hexdigest())
    assert (again["is_duplicate"], again["presigned_url"]) == (True, None)
    assert again["existing_object_id"] == done["object_id"]
    assert again["duplicate_of_upload_id"] == first["upload_id"]
    insisted = announce(client, path, file_hash=hashlib.sha256(jpeg()).hexdigest(), skip_duplicates=False)
    assert (insisted["is_duplicate"], insisted["status"]) == (False, "PENDING")


def test_a_batch_of_uploads_is_announced_and_confirmed(client: httpx.Client, path: str, bucket: str) -> None:
    wishes = [
        {"filename": f"p{n}.jpg", "content_type": "image/jpeg", "object_metadata": {"title": f"t{n}"}} for n in range(3)
    ]
    body = {"uploads": wishes, "shared_object_metadata": {"price": 1.5}}
    made = ok(client.post(f"{path}/batch", json=body))
    assert made["total"] == 3
    for upload in made["uploads"][:2]:
        httpx.put(upload["presigned_url"], content=jpeg())
    confirmations = [{"upload_id": upload["upload_id"]} for upload in made["uploads"]]
    answer = ok(client.post(f"{path}/confirm/batch", json={"confirmations": confirmations}))
    assert (answer["status"], answer["confirmations_count"]) == ("COMPLETED_WITH_ERRORS", 3)
    assert [row["success"] for row in answer["results"]] == [True, True, False]
    assert ok(client.get(f"/v1/tasks/{answer['task_id']}"))["status"] == "COMPLETED_WITH_ERRORS"
    objects = ok(client.get(f"/v1/buckets/{bucket}/objects"))["results"]
    assert sorted((row["title"], row["price"]) for row in objects) == [("t0", 1.5), ("t1", 1.5)]


def test_a_batch_with_one_bad_upload_announces_none(client: httpx.Client, path: str) -> None:
    wishes = [{"filename": "a.jpg", "content_type": "image/jpeg"}, {"filename": "../b", "content_type": "image/jpeg"}]
    assert places(failed(client.post(f"{path}/batch", json={"uploads": wishes}), 422)) == {"body.uploads.1.filename"}
    assert ok(client.post(f"{path}/list"))["results"] == []


def test_uploads_are_listed_with_statistics(client: httpx.Client, path: str) -> None:
    announce(client, path)
    page = ok(client.post(f"{path}/list", json={"return_presigned_urls": True}))
    assert page["results"][0]["presigned_url"]
    assert page["stats"]["uploads_by_status"] == {"PENDING": 1}
    assert ok(client.get(path))["results"][0]["presigned_url"] is None


def test_a_cancelled_upload_takes_its_bytes_with_it(client: httpx.Client, path: str, tenant: Tenant) -> None:
    made = announce(client, path)
    httpx.put(made["presigned_url"], content=jpeg())
    assert client.delete(f"{path}/{made['upload_id']}").status_code == 204
    assert stored(tenant) == []
    failed(client.post(f"{path}/{made['upload_id']}/confirm"), 409)


def test_a_confirmed_upload_cannot_be_cancelled(client: httpx.Client, path: str) -> None:
    made = announce(client, path)
    httpx.put(made["presigned_url"], content=jpeg())
    ok(client.post(f"{path}/{made['upload_id']}/confirm"))
    failed(client.delete(f"{path}/{made['upload_id']}"), 409)


def test_a_taken_unique_key_needs_no_transfer(client: httpx.Client) -> None:
    schema = {"properties": {"sku": {"type": "string"}, "photo": {"type": "image"}}}
    key = {"fields": ["sku"], "default_policy": "insert"}
    ok(client.post("/v1/buckets", json={"bucket_name": "keyed", "bucket_schema": schema, "unique_key": key}))
    made = ok(client.post("/v1/buckets/keyed/objects", json={"sku": "a"}))
    skipped = announce(client, "/v1/buckets/keyed/uploads", object_metadata={"sku": "a"})
    assert (skipped["skipped_unique_key"], skipped["existing_object_id"]) == (True, made["object_id"])


def test_a_file_that_is_something_else_makes_a_failed_object(client: httpx.Client, path: str, bucket: str) -> None:
    made = announce(client, path)
    httpx.put(made["presigned_url"], content=b"%PDF-1.7\nnot a picture")
    done = ok(client.post(f"{path}/{made['upload_id']}/confirm"))
    assert ok(client.get(f"/v1/buckets/{bucket}/objects/{done['object_id']}"))["status"] == "FAILED"
