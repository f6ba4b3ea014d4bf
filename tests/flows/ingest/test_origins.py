"""What `_internal` says of the file or the text that a document was made from."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
from datapath_shop import Shop, content, ok
from mixpeek.models.internal_payload_model import InternalPayloadModel
from tier_shop import processed, reading

from mediatheca.flows.ingest.items import SourceObject
from mediatheca.flows.ingest.origin import Origins, modality

PICTURE = b"\x89PNG\r\n\x1a\n" + b"\0" * 40


def blob(name: str, position: int = 0, **own: Any) -> dict[str, Any]:
    empty = {"inline": None, "store_key": None, "source_url": None, "mime_type": "", "hash": None}
    return {**empty, "property": name, "position": position, **own}


def file(name: str, mime: str, position: int = 0, digest: str | None = "ab" * 32) -> dict[str, Any]:
    return blob(name, position, store_key=f"{name}{position}", mime_type=mime, size_bytes=7, hash=digest)


def origin(paths: list[str], blobs: list[dict[str, Any]], key: str = "", **view: Any) -> dict[str, Any]:
    return Origins(SourceObject({}, blobs, view), paths).of(key)


def text(value: str) -> dict[str, Any]:
    data = value.encode()
    shown = {"modality": "text", "mime_type": "text/plain", "size_bytes": len(data)}
    return {**shown, "content_hash": hashlib.sha256(data).hexdigest()}


def test_a_file_is_told_from_the_text_beside_it_by_its_key() -> None:
    paths, blobs = ["film", "title"], [file("film", "video/mp4"), file("other", "image/png")]
    film = {"modality": "video", "mime_type": "video/mp4", "size_bytes": 7, "content_hash": "ab" * 32}
    assert origin(paths, blobs, "film", title="Grüße") == film
    assert origin(paths, blobs, "title", title="Grüße") == text("Grüße")
    assert origin(paths, blobs, "of the extractor", title="x") == {}  # two sources that have nothing in common
    assert origin(["film"], blobs, "of the extractor") == film


def test_several_files_have_in_common_what_all_of_them_are() -> None:
    blobs = [file("shots", "image/png"), file("shots", "image/jpeg", 1)]
    assert origin(["shots"], blobs) == {"modality": "image"}
    assert origin(["shots"], blobs, "shots#1")["mime_type"] == "image/jpeg"
    assert origin(["shots"], [blobs[0], file("shots", "image/png", 1)]) == {
        "modality": "image", "mime_type": "image/png",
    }  # fmt: skip


def test_addresses_are_kept_and_unknown_things_left_out() -> None:
    url = "https://example.com/a.mp4"
    assert origin(["site"], [], site=url) == {"processing": {"source_url": url}}
    away = blob("film", source_url=url, mime_type="video/mp4")
    assert origin(["film"], [away])["processing"] == {"source_url": url, "detected_mime_type": "video/mp4"}
    assert origin(["film"], [file("film", "application/zip", digest=None)]) == {
        "modality": "other", "mime_type": "application/zip", "size_bytes": 7,
    }  # fmt: skip
    assert origin(["note"], [blob("note", inline="hello")]) == text("hello")
    assert origin(["facts"], [blob("facts", inline={"a": 1}, mime_type="application/json")], facts=3) == {
        "modality": "other", "mime_type": "application/json",
    }  # fmt: skip
    for view in ({}, {"note": None}, {"note": 3}, {"note": " "}, {"note": ["a"]}):
        assert origin(["note"], [], **view) == {}
    assert origin([], []) == {}
    assert origin([], [file("film", "video/mp4")])["modality"] == "video"
    assert origin(["note"], [], note="\ud800 alone")["modality"] == "text"


@pytest.mark.parametrize(
    ("mime", "kind"),
    [("IMAGE/GIF", "image"), ("application/pdf; v=1", "pdf"), ("application/msword", "other"), ("", "other")],
)
def test_a_type_of_files_has_a_modality(mime: str, kind: str) -> None:
    assert modality(mime) == kind


def test_documents_of_every_tier_show_what_they_were_made_from(shop: Shop) -> None:
    thing = content(0, 1)
    shop.create([thing])
    last = reading(shop, "last", [shop.collection])
    assert processed(shop)["status"] == "COMPLETED"
    for document in shop.documents():
        internal = InternalPayloadModel.from_dict(document["_internal"])
        assert internal is not None
        found = {name: getattr(internal, name) for name in text("")}
        assert found == text(thing["text"])
    parts = {row["text"]: row["_internal"] for row in shop.documents(last)}
    assert {part: text(part)["content_hash"] for part in parts} == {p: i["content_hash"] for p, i in parts.items()}


def test_a_stored_file_is_named_with_its_hash(shop: Shop) -> None:
    schema = {"properties": {"picture": {"type": "image"}}}
    bucket = ok(shop.client.post("/v1/buckets", json={"bucket_name": "pictures", "bucket_schema": schema}))["bucket_id"]
    data = base64.b64encode(PICTURE).decode()
    body = {"blobs": [{"property": "picture", "type": "image", "data": f"data:image/png;base64,{data}"}]}
    ok(shop.client.post(f"/v1/buckets/{bucket}/objects", json=body))
    made = ok(shop.client.post("/v1/collections", json={
        "collection_name": "kept", "source": {"type": "bucket", "bucket_ids": [bucket]},
        "feature_extractor": {"feature_extractor_name": "passthrough_extractor", "field_passthrough": ["picture"]},
    }))["collection_id"]  # fmt: skip
    shop.bucket = bucket
    shop.ended(shop.trigger(made))
    (document,) = shop.documents(made)
    shown = {name: document["_internal"][name] for name in ("modality", "mime_type", "size_bytes", "content_hash")}
    assert shown == {
        "modality": "image", "mime_type": "image/png", "size_bytes": len(PICTURE),
        "content_hash": hashlib.sha256(PICTURE).hexdigest(),
    }  # fmt: skip
    path = f"/v1/collections/{made}/documents/list"
    for kind, count in (("image", 1), ("video", 0)):
        filters = {"field": "_internal.modality", "operator": "eq", "value": kind}
        assert len(ok(shop.client.post(path, json={"filters": filters}))["results"]) == count
