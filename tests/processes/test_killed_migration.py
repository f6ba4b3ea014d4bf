"""A server that is killed while a collection changes its model: at every step it goes on, and no document is lost."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import httpx
import pytest
from datapath_process import ServerProcess, wait_until

OLD, NEW = "multilingual_e5_small", "all_minilm_l6_v2"
TEXTS = 120
SETTLED = ("ready", "switched", "completed", "failed", "cancelled")


def stored(data: Path) -> dict[str, Any]:
    """The record of the migration, past the server."""
    with sqlite3.connect(f"file:{data / 'mediatheca.db'}?mode=ro", uri=True) as connection:
        row = connection.execute("SELECT body FROM resources WHERE kind = 'collection_migration'").fetchone()
    found: dict[str, Any] = json.loads(row[0])
    return found


class Driver:
    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self._pid = 0
        self._client: httpx.Client

    def call(self, method: str, path: str, body: Any = None) -> Any:
        if self._pid != self.server.pid:  # a client for each start: one for each look would run out of descriptors
            self._pid, self._client = self.server.pid, self.server.client("main")
        answered: httpx.Response = self._client.request(method, f"/v1{path}", json=body)
        assert answered.status_code in (200, 202), answered.text
        return answered.json()

    def prepare(self) -> None:
        """A collection of texts that differ in one number each."""
        made = self.server.client().post("/v1/namespaces", json={"namespace_name": "main"})
        assert made.status_code == 200, made.text
        schema = {"properties": {"text": {"type": "text"}, "number": {"type": "integer"}}}
        self.bucket = self.call("POST", "/buckets", {"bucket_name": "texts", "bucket_schema": schema})["bucket_id"]
        self.collection = self.call("POST", "/collections", {
            "collection_name": "texts",
            "source": {"type": "bucket", "bucket_ids": [self.bucket]},
            "feature_extractor": {
                "feature_extractor_name": "text_extractor",
                "parameters": {"embedding_model": OLD},
                "input_mappings": {"text": "text"},
                "field_passthrough": ["number"],
            },
        })["collection_id"]  # fmt: skip
        for start in range(0, TEXTS, 100):
            numbers = range(start, min(start + 100, TEXTS))
            rows = [{"text": f"invoice number {n} of the year {1700 + n}", "number": n} for n in numbers]
            self.call("POST", f"/buckets/{self.bucket}/objects/batch", {"objects": rows})
        batch = self.call("POST", f"/collections/{self.collection}/trigger")["batch_id"]
        path = f"/buckets/{self.bucket}/batches/{batch}"
        wait_until(lambda: self.call("GET", path)["status"] == "COMPLETED")

    def numbers(self) -> list[int]:
        """Of every document that a search of the old name finds; each must be there once."""
        search = {
            "feature_uri": f"mixpeek://text_extractor@v1/{OLD}",
            "query": {"input_mode": "text", "text": "invoice"},
            "top_k": TEXTS + 10,
        }
        stage = {"stage_id": "feature_search", "parameters": {"searches": [search]}}
        body = {"collection_identifiers": [self.collection], "stages": [stage], "limit": 500}
        found = self.call("POST", "/retrievers/execute", body)["documents"]
        return sorted(document["number"] for document in found)


def kill(server: ServerProcess, driver: Driver, step: str) -> None:
    """In the middle of a step; what was found before is found after the restart."""
    if step == "build":
        wait_until(lambda: (m := stored(server.data))["progress"]["built"] > 0 or m["status"] in SETTLED, pause_s=0.002)
    server.kill()
    server.start()
    wait_until(lambda: driver.numbers() == list(range(TEXTS)))


@pytest.mark.parametrize(
    ("killed", "steps", "model"),
    [
        (("build", "switch", "finish"), ("build", "switch", "finish"), NEW),
        (("rollback",), ("build", "switch", "rollback"), OLD),
    ],
    ids=["forwards", "backwards"],
)
def test_steps_that_are_killed_are_done_in_the_end(
    tmp_path: Path, killed: tuple[str, ...], steps: tuple[str, ...], model: str
) -> None:
    data = tmp_path / "data"
    ends = {"build": "ready", "switch": "switched", "rollback": "ready", "finish": "completed"}
    with ServerProcess(data, plugins="", workers=1) as server:
        driver = Driver(server)
        driver.prepare()
        path = f"/collections/{driver.collection}"
        asked = {"embedding_model": NEW, "compare": {"sample": 5}}
        ident = driver.call("POST", f"{path}/migrate", asked)["migration_id"]
        for step in steps:
            if step != "build":
                driver.call("POST", f"{path}/migrations/{ident}/{step}")
            if step in killed:
                kill(server, driver, step)
            found = wait_until(lambda: (m := stored(data))["status"] in SETTLED and m)
            assert (found["status"], found["error_message"]) == (ends[step], None)
        assert driver.numbers() == list(range(TEXTS))
        indexes = driver.call("GET", path)["vector_indexes"]
        assert [entry["name"] for entry in indexes] == [f"text_extractor_v1_{model}"]
