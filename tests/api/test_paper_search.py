"""PDFs end to end: put into a bucket, read block by block in a child process, found by words, with page and box."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from helpers import failed, ok
from mediatheca.testing.media import pdf
from server import Server, new_tenant

E5 = "multilingual_e5_large_instruct_v1"
URI = f"mixpeek://document_graph_extractor@v1/{E5}"
ENDED = ("COMPLETED", "COMPLETED_WITH_ERRORS", "FAILED", "CANCELED")
PAGES = [
    "The keeping of bees begins with a place that is dry and sheltered from the wind.",
    "A rocket of three stages carried the first people to the moon in nineteen sixty-nine.",
    "Sourdough bread needs flour, water, salt and a great deal of patience from the baker.",
]


def written(line: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A page as a scanner sees it."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (1240, 1754), (250, 248, 240))
    ImageDraw.Draw(image).text((120, 200), line, (30, 30, 30), ImageFont.load_default(34))
    return np.asarray(image)


class Library:
    """A namespace with a bucket of PDFs and a collection of their blocks."""

    def __init__(self, server: Server) -> None:
        self.client = new_tenant(server).client()
        space = ok(self.client.post("/v1/namespaces", json={"namespace_name": "library"}))
        self.client.headers["X-Namespace"] = space["namespace_id"]
        schema = {"properties": {"name": {"type": "string"}, "file": {"type": "pdf"}}}
        made = ok(self.client.post("/v1/buckets", json={"bucket_name": "papers", "bucket_schema": schema}))
        self.bucket = made["bucket_id"]
        self.collection = ok(self.make("blocks", {}))["collection_id"]
        self.put("manual", pdf(PAGES))
        self.put("scan", pdf([written("Lighthouses warn ships of rocks at night.")]))
        self.put("locked", pdf(["secret"], password="open sesame"))
        self.batch = self.ingest(self.collection)

    def make(self, name: str, parameters: dict[str, Any]) -> Any:
        config = {
            "feature_extractor_name": "document_graph_extractor",
            "version": "v1",
            "parameters": parameters,
            "input_mappings": {"pdf": "file"},
            "field_passthrough": ["name"],
        }
        body = {"collection_name": name, "source": {"bucket_ids": [self.bucket]}, "feature_extractor": config}
        return self.client.post("/v1/collections", json=body)

    def put(self, name: str, data: bytes) -> str:
        address = f"data:application/pdf;base64,{base64.b64encode(data).decode()}"
        blob = {"property": "file", "type": "pdf", "data": address}
        made = ok(self.client.post(f"/v1/buckets/{self.bucket}/objects", json={"name": name, "blobs": [blob]}))
        ident: str = made["object_id"]
        return ident

    def ingest(self, collection: str) -> dict[str, Any]:
        batch = self.client.post(f"/v1/collections/{collection}/trigger").json()["batch_id"]
        path, until = f"/v1/buckets/{self.bucket}/batches/{batch}", time.monotonic() + 240
        while (state := ok(self.client.get(path)))["status"] not in ENDED and time.monotonic() < until:
            time.sleep(0.05)
        found: dict[str, Any] = state
        return found

    def find(self, text: str) -> dict[str, Any]:
        search = {"feature_uri": URI, "query": {"input_mode": "text", "value": text}}
        stage = {"stage_id": "feature_search", "parameters": {"searches": [search]}}
        body = {"collection_identifiers": [self.collection], "stages": [stage], "inputs": {}}
        first: dict[str, Any] = ok(self.client.post("/v1/retrievers/execute", json=body))["documents"][0]
        return first


@pytest.fixture(scope="module")
def library(server: Server) -> Iterator[Library]:
    made = Library(server)
    yield made
    made.client.close()


def test_a_block_is_found_by_what_it_says_with_its_page_and_box(library: Library) -> None:
    found = library.find("flight to the moon")
    assert (found["name"], found["page_number"], found["total_pages"]) == ("manual", 2, 3)
    assert found["text_raw"] == PAGES[1]
    assert found["object_type"] == "paragraph"
    assert 50 < found["bbox"]["x0"] < 60 < found["bbox"]["y0"] < 75


def test_a_scanned_page_is_found_by_what_is_written_on_it(library: Library) -> None:
    found = library.find("towers with a light for boats")
    assert (found["name"], found["text_source"]) == ("scan", "ocr")
    assert "Lighthouses" in found["text_raw"]


def test_a_pdf_is_taken_by_the_extractors_of_texts_and_pictures_when_it_is_mapped(library: Library) -> None:
    for name, field in (("text_extractor", "text"), ("image_extractor", "image")):
        config = {"feature_extractor_name": name, "version": "v1", "input_mappings": {field: "file"}}
        body = {"collection_name": name, "source": {"bucket_ids": [library.bucket]}, "feature_extractor": config}
        made = ok(library.client.post("/v1/collections", json=body))["collection_id"]
        library.ingest(made)
        answer = library.client.post(f"/v1/collections/{made}/documents/list", json={})
        pages = [document.get("total_pages") for document in ok(answer)["results"]]
        assert pages.count(3) == (1 if field == "text" else 3)


def test_pictures_of_page_and_block_are_served(library: Library) -> None:
    from PIL import Image

    document = library.find("flight to the moon")["document_id"]
    path = f"/v1/collections/{library.collection}/documents/{document}"
    shown = ok(library.client.get(path, params={"return_presigned_urls": True}))
    for name in ("thumbnail_url", "segment_thumbnail_url"):
        with Image.open(io.BytesIO(library.client.get(shown[name]).content)) as image:
            assert image.format == "JPEG"


def test_a_file_with_a_password_is_in_the_registry_with_the_reason(library: Library) -> None:
    assert library.batch["status"] == "COMPLETED_WITH_ERRORS"
    (problem,) = library.batch["failed_objects"]
    assert "encrypted" in problem["error"]


@pytest.mark.parametrize(
    ("parameters", "named"),
    [({"layout_detector": "docling"}, "docling"), ({"ocr_model": "no_such_reader"}, "ocr_model")],
)
def test_what_this_installation_cannot_do_is_an_error_when_the_collection_is_made(
    library: Library, parameters: dict[str, Any], named: str
) -> None:
    answer = library.make("never", parameters)
    assert answer.status_code in (422, 503)
    assert named in failed(answer, answer.status_code)["message"]
