"""A server that is killed in the middle of a run, again and again: every file is one object in the end."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from datapath_process import ServerProcess, wait_until
from store_gate import store_gate

from s3_server import s3_server
from store_folders import BUCKET, S3Files

FILES = 300
AHEAD = 40
"""More than a run reads before it has taken what it read."""


@pytest.fixture(scope="module")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("s3")) as url:
        yield url


def taken(data: Path) -> int:
    """Files in the ledger."""
    with sqlite3.connect(f"file:{data / 'mediatheca.db'}?mode=ro", uri=True) as connection:
        return int(connection.execute("SELECT count(*) FROM sync_items").fetchone()[0])


def ok(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_killed_run_goes_on_and_takes_every_file_once(s3_endpoint: str, tmp_path: Path) -> None:
    files = S3Files(s3_endpoint, f"{uuid.uuid4().hex}/films")
    for number in range(FILES):
        files.put(f"{number % 7}/{number:03}.txt", f"text {number}".encode())
    data = tmp_path / "data"
    settings = {"workers": 1, "fetch_allow": "127.0.0.1/32", "lease_s": 2}
    with store_gate(s3_endpoint) as gate, ServerProcess(data, **settings) as server:
        namespace = ok(server.client().post("/v1/namespaces", json={"namespace_name": "main"}))["namespace_id"]
        client = server.client(namespace)
        schema = {"properties": {"content": {"type": "text"}}}
        bucket = ok(client.post("/v1/buckets", json={"bucket_name": "things", "bucket_schema": schema}))["bucket_id"]
        extractor = {
            "feature_extractor_name": "passthrough_extractor",
            "version": "v1",
            "field_passthrough": ["source_path"],
        }
        made = {
            "collection_name": "texts",
            "source": {"type": "bucket", "bucket_ids": [bucket]},
            "feature_extractor": extractor,
        }
        ok(client.post("/v1/collections", json=made))
        connection = {"bucket": BUCKET, **files.config, "endpoint_url": gate.url, "credentials": files.credentials}
        path = f"/v1/buckets/{bucket}/syncs"
        body = {"provider": "s3", "connection": connection, "source_path": files.folder, "batch_size": 5}
        sync = ok(client.post(path, json=body))["sync_config_id"]
        job = ok(client.post(f"{path}/{sync}/trigger"))["sync_job_id"]
        for least in (60, 150, 240):
            gate.allow(least + AHEAD)  # the run cannot end before it is killed
            wait_until(lambda least=least: taken(data) >= least, pause_s=0.002)  # type: ignore[misc]
            server.kill()
            assert taken(data) < FILES
            server.start()
        gate.allow(FILES)
        client = server.client(namespace)
        look = f"{path}/{sync}/jobs/{job}"
        ended = wait_until(lambda: ok(client.get(look))["status"] != "running" and ok(client.get(look)), pause_s=0.2)
        assert ended["status"] == "completed", ended
        assert (ended["files_synced"], ended["files_failed"]) == (FILES, 0)
        assert ended["resumed_via"] == "lease_expired"
        with sqlite3.connect(f"file:{data / 'mediatheca.db'}?mode=ro", uri=True) as database:
            fetch = database.execute
            assert fetch("SELECT count(*), count(DISTINCT idempotency_key) FROM objects").fetchone() == (FILES, FILES)
            assert fetch("SELECT count(*), count(DISTINCT object_id) FROM sync_items").fetchone() == (FILES, FILES)
            batched = fetch("SELECT count(*), count(DISTINCT object_id) FROM batch_objects").fetchone()
            assert batched == (FILES, FILES)
        listed = "/v1/collections/texts/documents/list"
        wait_until(lambda: ok(client.post(listed, json={"limit": 1}))["pagination"]["total"] == FILES, pause_s=0.2)
        again = ok(client.post(f"{path}/{sync}/trigger"))["sync_job_id"]
        look = f"{path}/{sync}/jobs/{again}"
        second = wait_until(lambda: ok(client.get(look))["status"] != "running" and ok(client.get(look)), pause_s=0.1)
        assert (second["files_synced"], second["files_verified"]) == (0, FILES)
    assert not list((data / "scratch").glob("sync-*"))
