"""More than five hundred spoiled files, each given to every extractor that takes files, in one batch of a real server.

What must hold whatever they do: the batch ends; every file ends with documents, without any, or on the failed-object
list with a reason; the good ones among them come through; no process outgrows its memory, and none is left behind.
"""

from __future__ import annotations

import base64
import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from spoiled_corpus import File, corpus

from helpers import ok
from mediatheca.settings import Settings
from server import Server, new_tenant

MEMORY_MB = 1024
ITEM_TIMEOUT_S = 5
BATCH_LIMIT_S = 900
ENDED = ("COMPLETED", "COMPLETED_WITH_ERRORS", "FAILED", "CANCELED")
PHASES = {"input", "extract", "result", "timeout", "memory", "crash", "object", "fetch"}
NO_MODELS = {"run_transcription": False, "run_transcription_embedding": False, "run_multimodal_embedding": False}
EXTRACTORS: dict[str, dict[str, Any]] = {
    # extractor: its input, its parameters (light: what is tested is how files are read), and the kinds it must take
    "image_extractor": {"input": "image", "takes": {"image", "pdf"}},
    "multimodal_extractor": {
        "input": "video",
        "takes": {"video", "audio", "image"},
        "parameters": {"split_method": "scene", **NO_MODELS},
    },
    "audio_fingerprint_extractor": {"input": "audio", "takes": {"audio"}},
    "document_graph_extractor": {
        "input": "pdf",
        "takes": {"pdf"},
        "parameters": {"run_text_embedding": False, "ocr_model": "tesseract", "render_dpi": 72},
    },
    "text_extractor": {
        "input": "text",
        "takes": {"text", "pdf"},
        "parameters": {"embedding_model": "all_minilm_l6_v2", "split_by": "characters", "chunk_size": 2000},
    },
    "universal_extractor": {
        "input": "file",
        "takes": {"pdf", "text"},
        "parameters": {"extract_text": False, "generate_description": False},
        "given": ["pdf", "text", "other"],  # its model of pictures is the slowest of all
    },
}


@dataclass
class Watch:
    """The largest extraction process of this one that was ever seen, by tenths of a second."""

    largest_mb: float = 0.0
    over: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._watch)
        thread.start()
        try:
            yield
        finally:
            self.over.set()
            thread.join()

    def _watch(self) -> None:
        while not self.over.wait(0.1):
            for pid in children():
                with contextlib.suppress(OSError, StopIteration):
                    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                    found = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon:"))
                    self.largest_mb = max(self.largest_mb, found)


def children() -> set[int]:
    """Extraction processes of this process."""
    found = set()
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, IndexError):
            if folder.name.isdigit() and "runner_child" in (folder / "cmdline").read_text():
                status = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(status[1]) == os.getpid() and status[0] != "Z":
                    found.add(int(folder.name))
    return found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    settings = Settings(
        data_dir=tmp_path / "data",
        workers=2,
        chunk_size=1000,  # the heaviest extractor divides it by its weight
        item_timeout_s=ITEM_TIMEOUT_S,
        worker_memory_mb=MEMORY_MB,
        log_level="critical",
    )
    made = Server(settings)
    yield made
    made.close()


@dataclass
class World:
    """A bucket of files, a collection for each extractor."""

    client: httpx.Client
    bucket: str
    collections: dict[str, str]

    @classmethod
    def make(cls, client: httpx.Client) -> World:
        extractors = [{"feature_extractor_name": name, "version": "v1"} for name in EXTRACTORS]
        body = {"namespace_name": "spoiled", "feature_extractors": extractors}
        client.headers["X-Namespace"] = ok(client.post("/v1/namespaces", json=body))["namespace_id"]
        schema = {"properties": {"file": {"type": "file"}, "name": {"type": "string"}, "kind": {"type": "string"}}}
        bucket = ok(client.post("/v1/buckets", json={"bucket_name": "files", "bucket_schema": schema}))["bucket_id"]
        made = {name: cls._collection(client, bucket, name) for name in EXTRACTORS}
        return cls(client, bucket, made)

    @staticmethod
    def _collection(client: httpx.Client, bucket: str, name: str) -> str:
        config = {
            "feature_extractor_name": name,
            "version": "v1",
            "input_mappings": {EXTRACTORS[name]["input"]: "file"},
            "parameters": EXTRACTORS[name].get("parameters", {}),
            "field_passthrough": ["name"],
        }
        source: dict[str, Any] = {"type": "bucket", "bucket_ids": [bucket]}
        if "given" in EXTRACTORS[name]:
            source["source_filters"] = {"field": "kind", "operator": "in", "value": EXTRACTORS[name]["given"]}
        body = {"collection_name": name, "source": source, "feature_extractor": config}
        return str(ok(client.post("/v1/collections", json=body))["collection_id"])

    def send(self, files: list[File]) -> dict[str, File]:
        """The files by object id. An empty one is refused when it is sent, with a reason, and left out."""
        sent: dict[str, File] = {}
        for start in range(0, len(files), 50):
            some = files[start : start + 50]
            answer = self.client.post(
                f"/v1/buckets/{self.bucket}/objects/batch", json={"objects": [*map(_object, some)]}
            )
            assert answer.status_code == 200, answer.text[:1000]
            for row in answer.json()["succeeded"]:
                sent[row["object_id"]] = some[row["object_index"]]
            for row in answer.json()["failed"]:
                assert not some[row["object_index"]].data, row
        return sent

    def process(self, ids: list[str]) -> dict[str, Any]:
        """One batch of all objects through all collections; when it has ended."""
        path = f"/v1/buckets/{self.bucket}/batches"
        batch = ok(self.client.post(path, json={"object_ids": ids, "auto_submit": True}))["batch_id"]
        deadline = time.monotonic() + BATCH_LIMIT_S
        while True:
            found = dict(ok(self.client.get(f"{path}/{batch}")))
            if found["status"] in ENDED:
                return found
            assert time.monotonic() < deadline, {key: found.get(key) for key in ("status", "progress")}
            time.sleep(0.5)

    def failures(self, batch_id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        cursor = None
        while True:
            query = {"limit": 1000, **({"cursor": cursor} if cursor else {})}
            path = f"/v1/buckets/{self.bucket}/batches/{batch_id}/failed-documents"
            page = ok(self.client.get(path, params=query))
            found += page["results"]
            cursor = page["pagination"]["next_cursor"]
            if not cursor:
                return found

    def made(self, collection: str) -> Counter[str]:
        """Documents by the name of their file."""
        counted: Counter[str] = Counter()
        cursor = None
        while True:
            body = {"limit": 500, **({"cursor": cursor} if cursor else {})}
            page = ok(self.client.post(f"/v1/collections/{collection}/documents/list", json=body))
            counted.update(row["name"] for row in page["results"])
            cursor = page["pagination"]["next_cursor"]
            if not cursor:
                return counted


def _object(file: File) -> dict[str, Any]:
    uri = f"data:{file.mime_type};base64,{base64.b64encode(file.data).decode()}"
    return {"name": file.name, "kind": file.kind, "blobs": [{"property": "file", "data": uri}]}


@pytest.mark.timeout(1200)
def test_spoiled_files_cost_nobody_but_themselves(server: Server) -> None:
    with new_tenant(server).client() as client:
        client.timeout = httpx.Timeout(120)
        world, watch = World.make(client), Watch()
        with watch.running():
            sent = world.send(list(corpus()))
            assert len([file for file in sent.values() if not file.healthy]) >= 500
            batch = world.process(list(sent))
        failures = world.failures(batch["batch_id"])
        assert batch["status"] == "COMPLETED_WITH_ERRORS"
        _every_file_is_accounted_for(world, sent, failures)
        _healthy_files_came_through(world, sent, failures)
        assert watch.largest_mb < MEMORY_MB * 1.2
    server.app.services.runner.close()
    assert _gone(children())


def _every_file_is_accounted_for(world: World, sent: dict[str, File], failures: list[dict[str, Any]]) -> None:
    names = {collection: name for name, collection in world.collections.items()}
    told: dict[tuple[str, str], dict[str, Any]] = {}
    for row in failures:
        if row.get("outcome", "failed") == "failed":
            told[names[row["collection_id"]], row["object_id"]] = row
        assert len(row["reason"]) > 10
    wrong = [row for row in told.values() if row["phase"] not in PHASES]
    assert not wrong, wrong[:3]
    for name, collection in world.collections.items():
        made = world.made(collection)
        with_documents = {ident for ident, file in sent.items() if made[file.name]}
        failed = {ident for extractor, ident in told if extractor == name}
        assert not with_documents & failed
        assert failed <= set(sent)


def _healthy_files_came_through(world: World, sent: dict[str, File], failures: list[dict[str, Any]]) -> None:
    for name, collection in world.collections.items():
        made = world.made(collection)
        lost = [f.name for f in sent.values() if f.healthy and f.kind in EXTRACTORS[name]["takes"] and not made[f.name]]
        reasons = [
            row for row in failures if row["collection_id"] == collection and sent[row["object_id"]].name in lost
        ]
        assert not lost, (name, lost, reasons)


def _gone(pids: set[int]) -> bool:
    deadline = time.monotonic() + 120
    while pids & children():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
