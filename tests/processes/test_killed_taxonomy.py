"""A server that is killed while a taxonomy is applied: it goes on where it was, and ends as if nothing was."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from datapath_process import ServerProcess, wait_until

from mediatheca.app import build
from mediatheca.flows.standalone import direct_collection
from mediatheca.flows.tenancy import create_organization
from mediatheca.kernel.documents import Document
from mediatheca.kernel.scope import Scope
from mediatheca.settings import Settings
from mediatheca.stores.db.tx import Record

DOCUMENTS, LABELS = 6_000, 5
CONFIG = [{"name": "points", "dimension": 16, "metric": "cosine"}]


def seed(data: Path) -> tuple[str, str]:
    """A standalone namespace with planted documents in a fresh installation: key and namespace."""
    app = build(Settings(data_dir=data, workers=0, log_level="error"))
    try:
        services = app.services
        organization, key = create_organization(services.db, "killed", "killed@example.org")
        body = {"mode": "standalone", "vector_configs": CONFIG, "payload_indexes": []}
        with services.db.begin(Scope(organization)) as tx:
            scope = Scope(organization, tx.put("namespace", "ns", "shop", body).id)
        things = direct_collection(services.db, scope, "system")
        assert things is not None
        made = np.random.default_rng(0)
        vectors = np.eye(16)[np.arange(DOCUMENTS) % LABELS] + made.normal(scale=0.05, size=(DOCUMENTS, 16))
        rows = [(f"d{n:05}", {"n": n}, vectors[n]) for n in range(DOCUMENTS)]
        write(app, scope, things, rows)
        with services.db.begin(scope) as tx:
            labels = tx.put("collection", "col", "labels", things.body)
            tx.insert("document_tables", [{"collection_id": labels.id}])
        write(app, scope, labels, [(f"l{n}", {"label": f"label {n}"}, np.eye(16)[n]) for n in range(LABELS)])
    finally:
        app.close()
    return key, scope.namespace_id


def write(app: Any, scope: Scope, collection: Record, rows: list[tuple[str, dict[str, Any], Any]]) -> None:
    services = app.services
    documents = [
        Document(ident, collection.id, payload, {"points": v.astype(np.float32)}) for ident, payload, v in rows
    ]
    with services.leases.acquire(scope, collection.id) as lease:
        services.documents.ensure(collection.id, app.services.indexer.spec(collection.id).vectors)
        services.documents.upsert(collection.id, documents, lease.seq)
        services.leases.commit(lease)


def progress(data: Path) -> tuple[str, str]:
    """Status of the run, and the document up to which it has come."""
    with sqlite3.connect(f"file:{data / 'mediatheca.db'}?mode=ro", uri=True) as connection:
        query = "SELECT status, json_extract(body, '$.after') FROM taxonomy_runs WHERE kind = 'apply'"
        found: tuple[str, str] = connection.execute(query).fetchone()
    return found


def moved(data: Path, before: str) -> bool:
    """Whether the run has come further, or has ended, while nobody looked."""
    status, after = progress(data)
    return after != before or status not in ("queued", "processing")


def test_applying_survives_being_killed_and_counts_every_document_once(tmp_path: Path) -> None:
    data = tmp_path / "data"
    key, namespace = seed(data)
    server = ServerProcess(data, workers=0)

    def call(method: str, path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {key}", "X-Namespace": namespace}
        answer = httpx.request(
            method, f"{server.url}/v1{path}", json=body, headers=headers, timeout=120, trust_env=False
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    with server:
        search = {"feature_uri": "points", "query": {"input_mode": "vector", "value": "{{INPUT.v}}"}, "top_k": 3}
        stage = {"stage_id": "feature_search", "parameters": {"searches": [search]}}
        body = {"retriever_name": "labels", "collection_identifiers": ["labels"], "stages": [stage]}
        retriever = call("POST", "/retrievers", body)["retriever_id"]
        config = {
            "taxonomy_type": "flat",
            "retriever_id": retriever,
            "input_mappings": [{"input_key": "v", "source_type": "vector", "path": "points"}],
            "source_collection": {
                "collection_id": "labels",
                "enrichment_fields": [{"field_path": "label", "target_field": "tags", "merge_mode": "append"}],
            },
        }
        taxonomy = call("POST", "/taxonomies", {"taxonomy_name": "kinds", "config": config})["taxonomy_id"]
        attached = [{"taxonomy_id": taxonomy, "execution_mode": "on_demand"}]
        call("PATCH", "/collections/documents", {"taxonomy_applications": attached})
        asked = {"taxonomy_id": taxonomy, "batch_size": 100}
        task = call("POST", "/collections/documents/apply-taxonomy", asked)["task_id"]
        for _ in range(2):
            before = progress(data)[1]
            wait_until(lambda before=before: moved(data, before), pause_s=0.002)
            server.kill()
            if progress(data)[0] == "completed":
                break
            server.start()
        if not server.running:
            server.start()
        ended = wait_until(lambda: (t := call("GET", f"/tasks/{task}"))["status"] not in ("QUEUED", "PROCESSING") and t)
        assert ended["status"] == "COMPLETED", ended
        assert ended["outputs"][0]["enriched"] == DOCUMENTS
        told = call("GET", f"/analytics/taxonomies/{taxonomy}/labels")
        assert sum(entry["count"] for entry in told["labels"]) == DOCUMENTS
        assert told["total_labels"] == LABELS
        documents: list[dict[str, Any]] = []
        while page := call("POST", "/collections/documents/documents/list", {"limit": 1000, "offset": len(documents)})[
            "results"
        ]:
            documents += page
        assert len(documents) == DOCUMENTS
        assert all(document["tags"] == [f"label {document['n'] % LABELS}"] for document in documents)
