"""Films end to end: "find the rocket" gives the segment with its start and end, and its clip is cut to the frame."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from helpers import failed, ok, wait_for
from mediatheca.extractors import Source
from mediatheca.extractors._video import Clip
from mediatheca.flows import clip_room, clips
from mediatheca.testing.media import Scene, clip, photo, picture, tone
from server import Server, new_tenant

SCENES = [Scene("chelsea.png", 2), Scene("rocket.jpg", 2.4), Scene("coffee.png", 2)]
VISUAL = "mixpeek://multimodal_extractor@v1/vertex_multimodal_embedding"
ENDED = ("COMPLETED", "COMPLETED_WITH_ERRORS", "FAILED", "CANCELED")


class Cinema:
    """A namespace with one film in a collection of its scenes."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.tenant = new_tenant(server)
        self.client = self.tenant.client()
        space = ok(self.client.post("/v1/namespaces", json={"namespace_name": "cinema"}))
        self.client.headers["X-Namespace"] = space["namespace_id"]
        schema = {"properties": {"name": {"type": "string"}, "film": {"type": "video"}}}
        made = ok(self.client.post("/v1/buckets", json={"bucket_name": "films", "bucket_schema": schema}))
        self.bucket = made["bucket_id"]
        self.put("trip", clip(SCENES, 25, (320, 240), tone(6)))
        config = {
            "feature_extractor_name": "multimodal_extractor",
            "version": "v1",
            "parameters": {"split_method": "scene", "run_transcription": False},
            "input_mappings": {"video": "film"},
            "field_passthrough": ["name"],
        }
        body = {"collection_name": "scenes", "source": {"bucket_ids": [self.bucket]}, "feature_extractor": config}
        self.collection = ok(self.client.post("/v1/collections", json=body))["collection_id"]
        self.ingest()

    def put(self, name: str, data: bytes) -> None:
        blob = {"property": "film", "type": "video", "data": f"data:video/mp4;base64,{base64.b64encode(data).decode()}"}
        ok(self.client.post(f"/v1/buckets/{self.bucket}/objects", json={"name": name, "blobs": [blob]}))

    def ingest(self) -> None:
        batch = self.client.post(f"/v1/collections/{self.collection}/trigger").json()["batch_id"]
        path, until = f"/v1/buckets/{self.bucket}/batches/{batch}", time.monotonic() + 240
        while (state := ok(self.client.get(path)))["status"] not in ENDED and time.monotonic() < until:
            time.sleep(0.05)
        assert state["status"] == "COMPLETED", state

    def find(self, query: Any, uri: str = VISUAL) -> list[dict[str, Any]]:
        stage = {"stage_id": "feature_search", "parameters": {"searches": [{"feature_uri": uri, "query": query}]}}
        body = {"collection_identifiers": [self.collection], "stages": [stage], "inputs": {}}
        documents: list[dict[str, Any]] = ok(self.client.post("/v1/retrievers/execute", json=body))["documents"]
        return documents

    def download(self, document_id: str) -> httpx.Response:
        return self.client.get(f"/v1/collections/{self.collection}/documents/{document_id}/download")


@pytest.fixture(scope="module")
def cinema(server: Server) -> Iterator[Cinema]:
    made = Cinema(server)
    yield made
    made.client.close()


def test_find_the_rocket_gives_the_segment_with_its_start_and_end(cinema: Cinema) -> None:
    for uri in (VISUAL, "mixpeek://multimodal_extractor@v1/multimodal_embedding"):
        first = cinema.find({"input_mode": "text", "value": "a rocket"}, uri)[0]
        assert first["start_time"] == pytest.approx(2, abs=0.081)
        assert first["end_time"] == pytest.approx(4.4, abs=0.081)
        assert (first["name"], first["segment_index"]) == ("trip", 1)


def test_a_picture_or_a_film_as_query_finds_its_segment(cinema: Cinema) -> None:
    still = "data:image/jpeg;base64," + base64.b64encode(picture(photo("coffee.png"))).decode()
    assert cinema.find({"input_mode": "content", "value": still})[0]["segment_index"] == 2
    moving = "data:video/mp4;base64," + base64.b64encode(clip(SCENES[:1], 10, (160, 120))).decode()
    assert cinema.find({"input_mode": "content", "value": moving})[0]["segment_index"] == 0


def test_a_document_names_its_thumbnail_and_the_film_it_is_from(cinema: Cinema) -> None:
    first = cinema.find({"input_mode": "text", "value": "a rocket"})[0]
    path = f"/v1/collections/{cinema.collection}/documents/{first['document_id']}"
    shown = ok(cinema.client.get(path, params={"return_presigned_urls": True}))
    assert cinema.client.get(shown["thumbnail_url"]).content.startswith(b"\xff\xd8\xff")
    film = cinema.client.get(shown["source_video_url"])
    assert film.status_code == 200
    assert b"ftyp" in film.content[:16]


def test_the_clip_of_a_segment_is_cut_to_the_frame_and_kept_for_the_next(cinema: Cinema) -> None:
    document = cinema.find({"input_mode": "text", "value": "a rocket"})[0]
    answer = ok(cinema.download(document["document_id"]))
    assert (answer["start_time"], answer["end_time"]) == (document["start_time"], document["end_time"])
    assert answer["cached"] is False
    file = cinema.client.get(answer["download_url"])
    assert file.headers["content-type"] == "video/mp4"
    with Clip(Source(data=file.content, key="clip")) as made:
        assert len(made.times) == document["end_frame"] - document["start_frame"] + 1
        assert made.info.has_audio
        first, last = made.at([0.0, made.info.duration])
    rocket = photo("rocket.jpg").mean(axis=(0, 1))
    for frame in (first, last):
        assert np.abs(frame.pixels.mean(axis=(0, 1)) - rocket).max() < 40
    assert ok(cinema.download(document["document_id"]))["cached"] is True


def test_clips_go_when_nobody_can_hold_their_address_any_more(cinema: Cinema) -> None:
    document = cinema.find({"input_mode": "text", "value": "a cat"})[0]
    ok(cinema.download(document["document_id"]))
    blobs = cinema.server.app.services.blobs
    held = [info.key for info in blobs.list(clips.PREFIX)]
    assert held
    for key in held:  # of this hour or the one before
        hour = key.split("/")[1]
        blobs.put(key.replace(hour, str(int(hour) - 4), 1), b"old")
    assert clips.sweep_clips(cinema.server.app.services) == len(held)
    assert [info.key for info in blobs.list(clips.PREFIX)] == held


def test_what_is_not_there_or_another_tenants_has_no_clip(cinema: Cinema, server: Server) -> None:
    failed(cinema.download("no-such-document"), 404)
    document = cinema.find({"input_mode": "text", "value": "a rocket"})[0]
    with new_tenant(server).client() as stranger:
        space = ok(stranger.post("/v1/namespaces", json={"namespace_name": "other"}))["namespace_id"]
        stranger.headers["X-Namespace"] = space
        path = f"/v1/collections/{cinema.collection}/documents/{document['document_id']}/download"
        failed(stranger.get(path), 404)


def test_a_document_that_was_written_directly_has_no_file(cinema: Cinema) -> None:
    body = {"document_id": "written", "start_time": 1, "end_time": 2, "source_video_url": "someone/else/blobs/x"}
    ok(cinema.client.post(f"/v1/collections/{cinema.collection}/documents", json=body))
    error = failed(cinema.download("written"), 404)
    assert "source file" in error["message"]


def uncut(cinema: Cinema, number: int) -> str:
    """A document about a stretch that nobody has asked for yet."""
    first = cinema.find({"input_mode": "text", "value": "a rocket"})[0]
    path = f"/v1/collections/{cinema.collection}/documents/{first['document_id']}"
    ok(cinema.client.patch(path, json={"start_time": 0.1 * number, "end_time": 0.1 * number + 0.5}))
    return str(first["document_id"])


def test_clips_that_wait_take_nothing_from_queries_and_others_are_told_to_come_again(cinema: Cinema) -> None:
    room, organization = cinema.server.app.services.clips, cinema.tenant.organization_id
    ident, go = uncut(cinema, 1), threading.Event()

    def stay() -> None:
        with room.turn(organization):
            assert go.wait(240)

    threads = [threading.Thread(target=stay) for _ in range(clip_room.MOST_OF_ORGANIZATION)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: room._inside[organization] == len(threads))
        answer = cinema.download(ident)
        assert "being cut already" in failed(answer, 429)["message"]
        assert int(answer.headers["retry-after"]) > 0
        still = "data:image/jpeg;base64," + base64.b64encode(picture(photo("coffee.png"))).decode()
        assert cinema.find({"input_mode": "content", "value": still})[0]["segment_index"] == 2
    finally:
        go.set()
        for thread in threads:
            thread.join(240)
    assert ok(cinema.download(ident))["cached"] is False


def test_no_clip_is_cut_while_too_much_is_kept(cinema: Cinema, monkeypatch: pytest.MonkeyPatch) -> None:
    ident = uncut(cinema, 2)
    with monkeypatch.context() as patch:
        patch.setattr(clips, "MAX_KEPT_BYTES", 1)
        answer = cinema.download(ident)
        assert "this organization" in failed(answer, 429)["message"]
        assert 0 < int(answer.headers["retry-after"]) <= clips.HOUR_S + 1
    with monkeypatch.context() as patch:
        patch.setattr(clips, "MAX_KEPT_BYTES_ALL", 1)
        assert "this server" in failed(cinema.download(ident), 429)["message"]
    assert ok(cinema.download(ident))["cached"] is False
    with monkeypatch.context() as patch:
        patch.setattr(clips, "MAX_KEPT_BYTES", 1)
        assert ok(cinema.download(ident))["cached"] is True
