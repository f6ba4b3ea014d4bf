"""Recordings and PDFs as queries over HTTP: piece by piece, every document says by which piece it was found."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from helpers import failed, ok, wait_for
from mediatheca.testing.media import noise, pdf, photo, picture, tone, wav
from server import Server, new_tenant

SOUND = "mixpeek://audio_fingerprint_extractor@v1/laion_clap_htsat_v1"
LOOKS = "mixpeek://image_extractor@v1/google_siglip_base_v1"
WORDS = "mixpeek://text_extractor@v1/multilingual_e5_large_instruct_v1"
FIRST, SECOND, THIRD = (
    ("bees", "Bees are kept in hives of wood, and in summer they make honey.", "coffee.png"),
    ("bank", "The central bank raised its interest rate by half a percent.", "rocket.jpg"),
    ("driver", "To install the driver, restart the computer.", "chelsea.png"),
)
ENDED = ("COMPLETED", "COMPLETED_WITH_ERRORS", "FAILED", "CANCELED")


def uri(data: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


class Archive:
    """A namespace of sounds, pictures and texts, a collection of each."""

    def __init__(self, server: Server) -> None:
        self.client = new_tenant(server).client()
        space = ok(self.client.post("/v1/namespaces", json={"namespace_name": "archive"}))
        self.client.headers["X-Namespace"] = space["namespace_id"]
        kinds = {"name": "string", "body": "text", "photo": "image", "sound": "audio", "file": "pdf"}
        schema = {"properties": {name: {"type": kind} for name, kind in kinds.items()}}
        made = ok(self.client.post("/v1/buckets", json={"bucket_name": "archive", "bucket_schema": schema}))
        self.bucket = made["bucket_id"]
        for (name, body, shown), sound in zip((FIRST, SECOND), (tone(5, 440), noise(5, 0.2)), strict=True):
            blobs = [
                {"property": "body", "type": "text", "data": body},
                {"property": "photo", "type": "image", "data": uri(picture(photo(shown)), "image/jpeg")},
                {"property": "sound", "type": "audio", "data": uri(wav(sound), "audio/wav")},
            ]
            ok(self.client.post(f"/v1/buckets/{self.bucket}/objects", json={"name": name, "blobs": blobs}))
        self.collections = {
            SOUND: self.collection("audio_fingerprint_extractor", {"audio": "sound"}),
            LOOKS: self.collection("image_extractor", {"image": "photo"}),
            WORDS: self.collection("text_extractor", {"text": "body"}),
        }

    def collection(self, extractor: str, mapped: dict[str, str]) -> str:
        config = {"feature_extractor_name": extractor, "version": "v1", "input_mappings": mapped}
        config |= {"field_passthrough": ["name"]}
        body = {"collection_name": extractor, "source": {"bucket_ids": [self.bucket]}, "feature_extractor": config}
        made = str(ok(self.client.post("/v1/collections", json=body))["collection_id"])
        batch = self.client.post(f"/v1/collections/{made}/trigger").json()["batch_id"]
        path = f"/v1/buckets/{self.bucket}/batches/{batch}"
        assert wait_for(lambda: (state := ok(self.client.get(path))["status"]) in ENDED and state) == "COMPLETED"
        return made

    def upload(self, data: bytes) -> str:
        body = {"filename": "file.pdf", "content_type": "application/pdf", "blob_property": "file"}
        made = ok(self.client.post(f"/v1/buckets/{self.bucket}/uploads", json=body))
        assert httpx.put(made["presigned_url"], content=data).status_code == 200
        return str(made["upload_id"])

    def ask(self, feature: str, value: str, *more: dict[str, Any], **parameters: Any) -> httpx.Response:
        search = {"feature_uri": feature, "query": {"input_mode": "content", "value": value}}
        stage = {"stage_id": "feature_search", "parameters": {"searches": [search], **parameters}}
        body = {"collection_identifiers": [self.collections[feature]], "stages": [stage, *more], "inputs": {}}
        return self.client.post("/v1/retrievers/execute", json=body)


@pytest.fixture(scope="module")
def archive(server: Server) -> Iterator[Archive]:
    made = Archive(server)
    yield made
    made.client.close()


def best_chunks(body: dict[str, Any], *names: str) -> dict[str, tuple[Any, ...]]:
    """Of each document the place of the piece that found it best."""
    return {
        document["name"]: tuple(document["query_chunks"][0][name] for name in names) for document in body["documents"]
    }


def test_a_recording_finds_what_is_like_each_part_of_it(archive: Archive) -> None:
    both = uri(wav(np.concatenate([tone(5, 440), noise(5, 0.2, 3)])), "audio/wav")
    body = ok(archive.ask(SOUND, both))
    assert best_chunks(body, "start_ms", "end_ms", "page") == {"bees": (0, 5000, None), "bank": (5000, 10_000, None)}
    assert body["warnings"] == []
    then = {"stage_id": "moment_group", "parameters": {"parent_field": "name"}}
    moments = ok(archive.ask(SOUND, both, then))["documents"]
    assert {document["moments"][0]["start_ms"] for document in moments} == {0}
    whole = ok(archive.ask(SOUND, both, auto_preprocess=False))["documents"]
    assert all("query_chunks" not in document for document in whole)


def test_the_pages_of_a_pdf_find_pictures_and_an_upload_does_too(archive: Archive) -> None:
    report = pdf([photo(shown) for _, _, shown in (THIRD, SECOND, FIRST)])
    for value in (uri(report, "application/pdf"), archive.upload(report)):
        body = ok(archive.ask(LOOKS, value))
        assert best_chunks(body, "page", "start_ms") == {"bank": (2, None), "bees": (3, None)}


def test_the_pages_of_a_pdf_find_texts(archive: Archive) -> None:
    report = pdf([text for _, text, _ in (THIRD, SECOND, FIRST)])
    for value in (uri(report, "application/pdf"), base64.b64encode(report).decode(), archive.upload(report)):
        body = ok(archive.ask(WORDS, value))
        assert best_chunks(body, "page", "start_ms") == {"bank": (2, None), "bees": (3, None)}
    only = ok(archive.ask(WORDS, value, query_preprocessing={"max_chunks": 1}))
    assert {"name": "query_chunks", "requested": 3, "applied": 1}.items() <= only["limits"][0].items()
    whole = ok(archive.ask(WORDS, value, auto_preprocess=False))["documents"]
    assert all("query_chunks" not in document for document in whole)


@pytest.mark.parametrize(
    ("feature", "value", "reason"),
    [
        (WORDS, uri(b"%PDF-1.7 nothing of the kind", "application/pdf"), "damaged or no PDF"),
        (WORDS, uri(pdf(["secret"], password="x"), "application/pdf"), "encrypted"),
        (WORDS, uri(pdf([""]), "application/pdf"), "no text to search for"),
        (WORDS, uri(b"", "application/pdf"), "empty"),
        (LOOKS, uri(pdf(["secret"], password="x"), "application/pdf"), "encrypted"),
        (LOOKS, uri(wav(tone(1)), "audio/wav"), "not a picture"),
        (SOUND, uri(b"RIFF\x24\x00\x00\x00WAVEfmt ", "audio/wav"), "cannot be used as a query"),
        (SOUND, uri(pdf(["words"]), "application/pdf"), "not audio or video"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_the_reason(
    archive: Archive, feature: str, value: str, reason: str
) -> None:
    assert reason in failed(archive.ask(feature, value), 422)["message"]
