"""A server that is killed in the middle of a cluster run: the run goes on where it was, and ends as if nothing was."""

from __future__ import annotations

import sqlite3
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from datapath_process import ServerProcess, wait_until

from mediatheca.app import build
from mediatheca.flows.tenancy import create_organization
from mediatheca.kernel.documents import Document, VectorIndex
from mediatheca.kernel.scope import Scope
from mediatheca.settings import Settings

INDEX = VectorIndex(
    "text_extractor_v1_planted", "mixpeek://text_extractor@v1/planted", 16, model="planted", weights="1"
)
DOCUMENTS = 3_000
GROUPS = 4
STEPS = ("pending", "fitted", "labelled", "written", "ended")


def seed(data: Path) -> tuple[str, str, str]:
    """A collection of planted groups in a fresh installation: key, namespace, collection."""
    app = build(Settings(data_dir=data, workers=0, log_level="error"))
    try:
        services = app.services
        organization, key = create_organization(services.db, "killed", "killed@example.org")
        with services.db.begin(Scope(organization)) as tx:
            namespace = tx.put("namespace", "ns", "shop", {}).id
        scope = Scope(organization, namespace)
        extractor = {"feature_extractor_name": "text_extractor", "version": "v1", "parameters": {}, "inputs": {}}
        body: dict[str, Any] = {
            "description": None, "source": {"type": "bucket", "bucket_ids": []}, "source_bucket_schemas": {},
            "enabled": True, "metadata": {}, "embedding_task": None, "input_schema": {"properties": {}},
            "feature_extractor": {**extractor, "feature_extractor_id": "text_extractor_v1"},
            "output_schema": {"properties": {}}, "vector_indexes": [asdict(INDEX)], "indexed_fields": {},
        }  # fmt: skip
        with services.db.begin(scope) as tx:
            collection = tx.put("collection", "col", "planted", body).id
            tx.insert("document_tables", [{"collection_id": collection}])
        generator = np.random.default_rng(0)
        made = []
        for number in range(DOCUMENTS):
            vector = np.eye(16)[number % GROUPS] + generator.normal(scale=0.05, size=16)
            payload = {"text": f"topic {'abcd'[number % GROUPS] * 5} number {number}", "topic": number % GROUPS}
            made.append(Document(f"d{number}", collection, payload, {INDEX.name: vector.astype(np.float32)}))
        with services.leases.acquire(scope, collection) as lease:
            services.documents.ensure(collection, (INDEX,))
            services.documents.upsert(collection, made, lease.seq)
            services.leases.commit(lease)
    finally:
        app.close()
    return key, namespace, collection


def step_of(data: Path, run_id: str) -> tuple[str, str]:
    """Status and step of a run, as they are in the database."""
    with sqlite3.connect(f"file:{data / 'mediatheca.db'}?mode=ro", uri=True) as connection:
        query = "SELECT status, json_extract(body, '$.step') FROM cluster_runs WHERE run_id = ?"
        found: tuple[str, str] = connection.execute(query, (run_id,)).fetchone()
    return found


def reached(data: Path, run_id: str, step: str) -> bool:
    """Whether a run has come to a step; a later one counts where a step was over before we looked."""
    status, at = step_of(data, run_id)
    return status not in ("pending", "queued") and STEPS.index(at) >= STEPS.index(step)


def call(server: ServerProcess, key: str, namespace: str, method: str, path: str, body: Any = None) -> Any:
    headers = {"Authorization": f"Bearer {key}", "X-Namespace": namespace}
    answer = httpx.request(method, f"{server.url}/v1{path}", json=body, headers=headers, timeout=120, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("enrich", [True, False], ids=["enriched", "output"])
def test_a_run_survives_being_killed_in_every_step(tmp_path, enrich):
    data = tmp_path / "data"
    key, namespace, collection = seed(data)
    server = ServerProcess(data, workers=0)
    with server:
        config = {"clustering_method": "kmeans", "algorithm_params": {"n_clusters": GROUPS}}
        body = {"collection_ids": [collection], "vector_config": config, "enrich_source_collection": enrich}
        cluster = call(server, key, namespace, "POST", "/clusters", body)["cluster_id"]
        task = call(server, key, namespace, "POST", f"/clusters/{cluster}/execute")
        run_id = task["additional_data"]["run_id"]
        for step in ("pending", "fitted", "labelled"):
            wait_until(lambda step=step: reached(data, run_id, step), pause_s=0.002)
            server.kill()
            assert step != "pending" or step_of(data, run_id)[0] == "processing", "it was killed in its midst"
            server.start()
        path = f"/clusters/{cluster}/executions/{run_id}"
        run = wait_until(lambda: (r := call(server, key, namespace, "GET", path))["status"] == "completed" and r)
        assert (run["num_clusters"], run["num_points"]) == (GROUPS, DOCUMENTS)
        assert sorted(entry["num_members"] for entry in run["centroids"]) == [DOCUMENTS // GROUPS] * GROUPS
        listed = call(server, key, namespace, "POST", f"/clusters/{cluster}/executions/list", {})
        assert listed["total_count"] == 1
        assert call(server, key, namespace, "GET", f"/tasks/{task['task_id']}")["status"] == "COMPLETED"
        where = collection if enrich else run["output_collection_ids"][0]
        documents, offset = [], 0
        while page := call(
            server, key, namespace, "POST", f"/collections/{where}/documents/list", {"limit": 1000, "offset": offset}
        )["results"]:
            documents += page
            offset += len(page)
        check = check_enriched if enrich else check_output
        check(documents)


def check_enriched(documents: list[dict[str, Any]]) -> None:
    assert len(documents) == DOCUMENTS
    clusters = {topic: {d["cluster_id"] for d in documents if d["topic"] == topic} for topic in range(GROUPS)}
    assert all(len(found) == 1 for found in clusters.values())
    assert len({next(iter(found)) for found in clusters.values()}) == GROUPS


def check_output(documents: list[dict[str, Any]]) -> None:
    assert len(documents) == DOCUMENTS + GROUPS
    members = [d for d in documents if not d["is_centroid"]]
    assert len({d["source_document_id"] for d in members}) == DOCUMENTS
    assert len({d["cluster_id"] for d in members}) == GROUPS
