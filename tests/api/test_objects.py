"""Objects: every way to give content, every check, and what happens to files and derived documents."""

from __future__ import annotations

import base64
import hashlib
import io
from typing import Any

import httpx
import pytest

from helpers import failed, ok, places, wait_for
from mediatheca.testing import media
from server import Tenant


def jpeg(color: str = "red", size: int = 8) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (size, size), color).save(buffer, "JPEG")
    return buffer.getvalue()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture
def path(bucket: str) -> str:
    return f"/v1/buckets/{bucket}/objects"


@pytest.fixture
def keyed(client: httpx.Client) -> str:
    """A bucket with a unique key and no default policy."""
    schema = {"properties": {"sku": {"type": "string"}, "shop": {"type": "integer"}, "text": {"type": "text"}}}
    body = {"bucket_name": "keyed", "bucket_schema": schema, "unique_key": {"fields": ["sku", "shop"]}}
    ok(client.post("/v1/buckets", json=body))
    return "/v1/buckets/keyed/objects"


def stored(tenant: Tenant) -> list[str]:
    return [info.key for info in tenant.server.app.services.blobs.list(f"{tenant.organization_id}/")]


# ---- content


@pytest.mark.parametrize(
    ("blob", "size", "mime"),
    [
        ({"property": "text", "data": "héllo"}, 6, "text/plain"),
        ({"property": "text", "content": "https://stays.a/text"}, 20, "text/plain"),
        ({"property": "text", "type": "text", "data": "data:text/plain;base64,aGVsbG8="}, 5, "text/plain"),
        ({"property": "text", "data": "data:,a%20b"}, 3, "text/plain"),
        ({"property": "title", "type": "text", "data": "a string takes a text blob"}, 26, "text/plain"),
        ({"property": "photo", "type": "image", "data": b64(jpeg())}, len(jpeg()), "image/jpeg"),
        ({"property": "photo", "data": f"data:image/png;base64,{b64(jpeg())}"}, len(jpeg()), "image/jpeg"),
        ({"property": "photo", "content": b64(jpeg())}, len(jpeg()), "image/jpeg"),
        ({"property": "price", "type": "float", "data": 2.5}, 3, "application/json"),
        ({"property": "tags", "data": '["a","b"]'}, 9, "application/json"),
    ],
)
def test_content_comes_in_every_form(
    client: httpx.Client, path: str, blob: dict[str, Any], size: int, mime: str
) -> None:
    made = ok(client.post(path, json={"blobs": [blob]}))
    assert (made["status"], made["error"]) == ("PENDING", None)
    details = made["blobs"][0]["details"]
    assert (details["size_bytes"], details["mime_type"]) == (size, mime)
    assert len(details["hash"]) == len("sha256:") + 64


@pytest.mark.parametrize(
    ("blob", "place"),
    [
        ({"property": "nope", "data": "x"}, "blobs.0.property"),
        ({"data": "x"}, "blobs.0.property"),
        ({"property": "text"}, "blobs.0"),
        ({"property": "text", "data": "x", "content": "y"}, "blobs.0"),
        ({"property": "photo", "data": "not base64!"}, "blobs.0.data"),
        ({"property": "photo", "data": ""}, "blobs.0.data"),
        ({"property": "photo", "type": "audio", "data": b64(jpeg())}, "blobs.0.type"),
        ({"property": "photo", "url": "photo.jpg"}, "blobs.0.url"),
        ({"property": "photo", "url": "s3://bucket/key.jpg"}, "blobs.0.url"),
        ({"property": "photo", "upload_id": "upl_unknown"}, "blobs.0.upload_id"),
        ({"property": "text", "data": "x", "checksum": "md5:1"}, "blobs.0.checksum"),
        ({"property": "text", "data": "x", "checksum": "0" * 64}, "blobs.0.checksum"),
        ({"property": "text", "data": {"a": 1}}, "blobs.0.data"),
        ({"property": "tags", "data": "[1,"}, "blobs.0.data"),
        ({"property": "tags", "data": [1, "b"]}, "blobs.0.data.0"),
        ("text", "blobs.0"),
    ],
)
def test_a_bad_blob_is_named_and_nothing_is_stored(
    client: httpx.Client, path: str, tenant: Tenant, blob: Any, place: str
) -> None:
    error = failed(client.post(path, json={"title": "t", "blobs": [blob]}), 422)
    assert places(error) == {f"body.{place}"}
    assert ok(client.get(path))["results"] == []
    assert stored(tenant) == []


def test_every_offending_field_is_named_at_once(client: httpx.Client, path: str) -> None:
    body = {
        "title": 5,
        "metadata": {"price": "cheap", "status": "x"},
        "tags": ["a", 2],
        "_internal": {},
        "blobs": [{"property": "text"}],
        "skip_duplicates": "yes",
    }
    error = failed(client.post(path, json=body), 422)
    assert places(error) == {
        "body.title", "body.metadata.price", "body.metadata.status", "body.tags.1", "body._internal", "body.blobs.0",
        "body.skip_duplicates",
    }  # fmt: skip


def test_required_enum_default_and_nested_properties_are_kept(client: httpx.Client) -> None:
    properties = {
        "name": {"type": "string", "required": True},
        "color": {"type": "string", "enum": ["red", "blue"], "default": "red"},
        "size": {"type": "object", "properties": {"w": {"type": "integer", "required": True}, "h": {"type": "number"}}},
        "born": {"type": "date"},
        "seen": {"type": "datetime"},
        "sold": {"type": "boolean"},
    }
    ok(client.post("/v1/buckets", json={"bucket_name": "rules", "bucket_schema": {"properties": properties}}))
    path = "/v1/buckets/rules/objects"
    bad = {"color": "green", "size": {"h": "tall"}, "born": "yesterday", "seen": "2026-13-01", "sold": 1}
    assert places(failed(client.post(path, json=bad), 422)) == {
        "body.name", "body.color", "body.size.w", "body.size.h", "body.born", "body.seen", "body.sold",
    }  # fmt: skip
    good = {"name": "n", "size": {"w": 1}, "born": "2026-01-31", "seen": "2026-01-31T12:00:00Z", "sold": False}
    assert ok(client.post(path, json=good))["color"] == "red"
    ok(client.post(path, json={"blobs": [{"property": "name", "type": "text", "data": "a blob fills it too"}]}))


def test_own_fields_are_kept_at_the_top_and_in_metadata(client: httpx.Client, path: str) -> None:
    body = {"title": "t", "anything": {"goes": [1, None]}, "metadata": {"price": 1.5, "color": "red"}}
    made = ok(client.post(path, json=body))
    seen = ok(client.get(f"{path}/{made['object_id']}"))
    assert (seen["anything"], seen["price"], seen["metadata"]) == ({"goes": [1, None]}, 1.5, body["metadata"])


def test_metadata_of_blobs_is_lifted_and_never_wins(client: httpx.Client, path: str) -> None:
    blobs = [
        {"property": "text", "data": "a", "metadata": {"lang": "en", "title": "blob", "status": "x"}},
        {"property": "text", "data": "b", "metadata": {"lang": "de", "page": 2}},
    ]
    made = ok(client.post(path, json={"title": "root", "blobs": blobs}))
    assert (made["title"], made["lang"], made["page"], made["status"]) == ("root", "en", 2, "PENDING")


def test_a_media_property_given_as_a_field_becomes_a_blob(client: httpx.Client, path: str) -> None:
    made = ok(client.post(path, json={"photo": b64(jpeg())}))
    assert [blob["property"] for blob in made["blobs"]] == ["photo"]
    assert "photo" not in made


def test_a_declared_type_that_the_content_contradicts_fails_the_object(
    client: httpx.Client, path: str, bucket: str
) -> None:
    made = ok(client.post(path, json={"blobs": [{"property": "photo", "data": b64(b"%PDF-1.7\n%more")}]}))
    assert made["status"] == "FAILED"
    assert "application/pdf" in made["error"]
    assert ok(client.get(f"/v1/buckets/{bucket}"))["failed_object_count"] == 1


def test_a_recording_without_a_picture_is_taken_as_a_video(client: httpx.Client) -> None:
    schema = {"properties": {"film": {"type": "video"}}}
    ok(client.post("/v1/buckets", json={"bucket_name": "films", "bucket_schema": schema}))
    sound = media.wav(media.silence(0.1))
    made = ok(client.post("/v1/buckets/films/objects", json={"blobs": [{"property": "film", "data": b64(sound)}]}))
    assert (made["status"], made["error"], made["blobs"][0]["details"]["mime_type"]) == ("PENDING", None, "audio/x-wav")


# ---- references


def test_a_reference_is_fetched_at_creation(client: httpx.Client, path: str, web: Any) -> None:
    web.files["/a.jpg"] = (jpeg(), "image/jpeg")
    made = ok(client.post(path, json={"blobs": [{"property": "photo", "type": "image", "data": web.url("/a.jpg")}]}))
    assert made["status"] == "PENDING"
    blob = made["blobs"][0]
    assert (blob["details"]["filename"], blob["details"]["size_bytes"]) == ("a.jpg", len(jpeg()))
    seen = ok(client.get(f"{path}/{made['object_id']}"))["blobs"][0]
    assert httpx.get(seen["presigned_url"]).content == jpeg()


def test_an_unreachable_reference_is_stored_as_failed_with_the_reason(
    client: httpx.Client, path: str, web: Any
) -> None:
    made = ok(client.post(path, json={"blobs": [{"property": "photo", "url": web.url("/missing.jpg")}]}))
    assert made["status"] == "FAILED"
    assert "404" in made["error"]
    assert made["blobs"][0]["url"] == web.url("/missing.jpg")


def test_a_reference_to_a_private_address_is_refused(client: httpx.Client, path: str) -> None:
    error = failed(client.post(path, json={"blobs": [{"property": "photo", "url": "http://10.0.0.1/a.jpg"}]}), 422)
    assert places(error) == {"body.blobs.0.url"}
    assert ok(client.get(path))["results"] == []


def test_without_canonicalize_source_a_reference_stays_one(client: httpx.Client, path: str, web: Any) -> None:
    body = {"canonicalize_source": False, "blobs": [{"property": "photo", "url": web.url("/later.jpg")}]}
    made = ok(client.post(path, json=body))
    assert (made["status"], made["blobs"][0]["details"]["hash"]) == ("PENDING", None)
    assert web.asked == []


# ---- identity


def test_an_idempotency_key_gives_the_first_object_again(client: httpx.Client, path: str) -> None:
    body = {"title": "t", "idempotency_key": "k1"}
    first, second = ok(client.post(path, json=body)), ok(client.post(path, json=body))
    assert second["object_id"] == first["object_id"]
    assert second["replayed_by"] == "idempotency_key"
    assert ok(client.get(path))["total"] == 1


def test_skip_duplicates_finds_the_same_content(client: httpx.Client, path: str) -> None:
    body = {"blobs": [{"property": "photo", "data": b64(jpeg())}], "skip_duplicates": True}
    first, second = ok(client.post(path, json=body)), ok(client.post(path, json=body))
    assert (second["object_id"], second["replayed_by"]) == (first["object_id"], "skip_duplicates")
    ok(client.post(path, json={**body, "skip_duplicates": False}))
    assert ok(client.get(path))["total"] == 2


def test_a_unique_key_without_a_policy_asks_for_one(client: httpx.Client, keyed: str) -> None:
    assert "policy" in failed(client.post(keyed, json={"sku": "a", "shop": 1}), 400)["message"]
    assert places(failed(client.post(f"{keyed}?policy=replace", json={"sku": "a", "shop": 1}), 422)) == {"query.policy"}


def test_the_policies_of_a_unique_key(client: httpx.Client, keyed: str) -> None:
    body = {"sku": "a", "shop": 1, "color": "red"}
    failed(client.post(f"{keyed}?policy=update", json=body), 404)
    made = ok(client.post(f"{keyed}?policy=insert", json=body))
    error = failed(client.post(f"{keyed}?policy=insert", json=body), 409)
    assert error["details"]["existing_id"] == made["object_id"]
    merged = ok(client.post(f"{keyed}?policy=upsert", json={"sku": "a", "shop": 1, "size": 5}))
    assert (merged["object_id"], merged["color"], merged["size"]) == (made["object_id"], "red", 5)
    ok(client.post(f"{keyed}?policy=upsert", json={"sku": "a", "shop": 2}))
    assert places(failed(client.post(f"{keyed}?policy=upsert", json={"sku": "a"}), 422)) == {"body.shop"}


def test_an_upsert_replaces_the_blobs_it_brings_and_their_files(
    client: httpx.Client, keyed: str, tenant: Tenant
) -> None:
    def body(text: str) -> dict[str, Any]:
        return {"sku": "a", "shop": 1, "blobs": [{"property": "text", "data": text * 20_000}]}

    ok(client.post(f"{keyed}?policy=upsert", json=body("a")))
    [before] = stored(tenant)
    made = ok(client.post(f"{keyed}?policy=upsert", json=body("b")))
    [after] = stored(tenant)
    assert after != before
    seen = ok(client.get(f"{keyed}/{made['object_id']}"))
    assert [blob["property"] for blob in seen["blobs"]] == ["text"]
    assert httpx.get(seen["blobs"][0]["presigned_url"]).text == "b" * 20_000


# ---- files


def test_small_texts_make_no_file_and_large_ones_do(client: httpx.Client, path: str, tenant: Tenant) -> None:
    ok(client.post(path, json={"blobs": [{"property": "text", "data": "s" * (16 << 10)}]}))
    assert stored(tenant) == []
    ok(client.post(path, json={"blobs": [{"property": "text", "data": "l" * ((16 << 10) + 1)}]}))
    [key] = stored(tenant)
    assert hashlib.sha256(b"l" * ((16 << 10) + 1)).hexdigest() in key


def test_files_are_shared_by_content_and_go_with_the_last_object(
    client: httpx.Client, path: str, tenant: Tenant
) -> None:
    body = {"blobs": [{"property": "photo", "data": b64(jpeg("blue"))}]}
    ids = [ok(client.post(path, json=body))["object_id"] for _ in range(3)]
    assert len(stored(tenant)) == 1
    for number, ident in enumerate(ids, start=1):
        assert client.delete(f"{path}/{ident}").status_code == 204
        assert len(stored(tenant)) == (0 if number == 3 else 1)


# ---- reading and changing


def test_objects_are_filtered_sorted_selected_and_paged(client: httpx.Client, path: str) -> None:
    for number in range(5):
        ok(client.post(path, json={"title": f"t{number}", "price": float(number), "key_prefix": f"/p{number % 2}"}))
    rule = {"AND": [{"field": "price", "operator": "gte", "value": 2}]}
    body = {"filters": rule, "sort": {"field": "price", "direction": "desc"}, "limit": 2, "select": ["price"]}
    page = ok(client.post(f"{path}/list", json=body))
    assert [row["price"] for row in page["results"]] == [4, 3]
    assert "title" not in page["results"][0]
    assert (page["total_count"], page["stats"]["total_objects"]) == (3, 5)
    rest = ok(client.post(f"{path}/list", json={**body, "cursor": page["pagination"]["next_cursor"]}))
    assert [row["price"] for row in rest["results"]] == [2]
    assert len(ok(client.post(f"{path}/list", json={"search": "/p1"}))["results"]) == 2


def test_presigned_urls_are_given_on_request_and_stay_the_same_for_a_while(client: httpx.Client, path: str) -> None:
    made = ok(client.post(path, json={"blobs": [{"property": "photo", "data": b64(jpeg())}]}))
    assert "presigned_url" not in ok(client.get(path))["results"][0]["blobs"][0]
    listed = ok(client.post(f"{path}/list", json={"return_presigned_urls": True}))["results"][0]["blobs"][0]
    got = ok(client.get(f"{path}/{made['object_id']}"))["blobs"][0]
    assert listed["presigned_url"].split("exp=")[0] == got["presigned_url"].split("exp=")[0]
    assert httpx.get(got["presigned_url"]).headers["content-type"] == "image/jpeg"


def test_a_patch_merges_and_a_null_removes(client: httpx.Client, path: str) -> None:
    made = ok(client.post(path, json={"title": "t", "color": "red", "metadata": {"size": 1}}))
    one = f"{path}/{made['object_id']}"
    changed = ok(client.patch(one, json={"color": None, "price": 2.5, "size": 2, "key_prefix": "/x"}))
    assert "color" not in changed
    assert (changed["price"], changed["metadata"], changed["key_prefix"]) == (2.5, {"size": 2}, "/x")
    assert changed["updated_at"] > made["updated_at"]
    replaced = ok(client.put(one, json={"metadata": {"shape": "round"}}))
    assert (replaced["metadata"], replaced["shape"], "size" in replaced) == ({"shape": "round"}, "round", False)


@pytest.mark.parametrize("body", [{"price": "x"}, {"object_id": "obj_1"}, {"blobs": []}, {"metadata": 5}])
def test_a_bad_patch_changes_nothing(client: httpx.Client, path: str, body: dict[str, Any]) -> None:
    made = ok(client.post(path, json={"title": "t"}))
    failed(client.patch(f"{path}/{made['object_id']}", json={"title": "new", **body}), 422)
    assert ok(client.get(f"{path}/{made['object_id']}"))["title"] == "t"


def test_objects_are_aggregated(client: httpx.Client, path: str) -> None:
    for color, price in (("red", 1.0), ("red", 3.0), ("blue", 5.0)):
        ok(client.post(path, json={"color": color, "price": price}))
    body = {
        "group_by": [{"field": "color"}],
        "aggregations": [{"function": "count", "alias": "n"}, {"function": "avg", "field": "price", "alias": "mean"}],
        "sort_by": "n",
    }
    answer = ok(client.post(f"{path}/aggregate", json=body))
    assert answer["results"][0] == {"group": {"color": "red"}, "metrics": {"n": 2, "mean": 2.0}}
    assert answer["total_groups"] == 2
    ranged = {**body, "group_by": ["price"], "range_buckets": [{"field": "price", "boundaries": [2, 4]}]}
    groups = {
        row["group"]["price"]: row["metrics"]["n"]
        for row in ok(client.post(f"{path}/aggregate", json=ranged))["results"]
    }
    assert groups == {"<=2": 1, "2-4": 1, ">4": 1}
    failed(client.post(f"{path}/aggregate", json={"group_by": ["x"], "aggregations": [{"function": "median"}]}), 422)


# ---- deleting


@pytest.fixture
def derived(client: httpx.Client, bucket: str, path: str) -> tuple[str, list[str]]:
    """A collection with a document of each of two objects."""
    config = {"feature_extractor_name": "passthrough_extractor", "field_passthrough": ["title"]}
    body = {"collection_name": "copies", "source": {"bucket_ids": [bucket]}, "feature_extractor": config}
    collection = ok(client.post("/v1/collections", json=body))["collection_id"]
    ids = [ok(client.post(f"{path}?auto_process=true", json={"title": name}))["object_id"] for name in ("one", "two")]
    wait_for(lambda: len(documents(client, collection)) == 2)
    return collection, ids


def documents(client: httpx.Client, collection: str) -> list[str]:
    return sorted(row["title"] for row in ok(client.post(f"/v1/collections/{collection}/documents/list"))["results"])


def test_a_deleted_object_takes_its_documents_with_it_at_once(
    client: httpx.Client, path: str, derived: tuple[str, list[str]]
) -> None:
    collection, ids = derived
    assert client.delete(f"{path}/{ids[0]}").status_code == 204
    assert documents(client, collection) == ["two"]
    failed(client.get(f"{path}/{ids[0]}"), 404)
    failed(client.delete(f"{path}/{ids[0]}"), 404)


def test_soft_deleted_objects_stay_but_their_documents_are_hidden(
    client: httpx.Client, path: str, derived: tuple[str, list[str]]
) -> None:
    collection, ids = derived
    body = {"object_ids": [ids[1], "obj_unknown"], "reason": "recalled"}
    assert ok(client.post(f"{path}/bulk-soft-delete", json=body)) == {
        "soft_deleted": 1,
        "requested": 2,
        "collections": 1,
    }
    assert documents(client, collection) == ["one"]
    seen = ok(client.get(f"{path}/{ids[1]}"))
    assert (seen["status"], seen["lifecycle_state"]) == ("DEACTIVATED", "disabled")


def test_every_write_leaves_an_event(client: httpx.Client, path: str, tenant: Tenant, namespace: str) -> None:
    from mediatheca.kernel.scope import Scope

    made = ok(client.post(path, json={"title": "t"}))["object_id"]
    ok(client.patch(f"{path}/{made}", json={"title": "u"}))
    client.delete(f"{path}/{made}")
    with tenant.server.app.services.db.read(Scope(tenant.organization_id, namespace)) as tx:
        events = [row["type"] for row in tx.rows("events", {"resource_id": made}, order=("seq",))]
    assert events == ["object.created", "object.updated", "object.deleted"]
