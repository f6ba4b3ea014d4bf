"""A taxonomy of 1,000 labels over 100,000 documents of 384 dimensions: until written, until searchable, and again.

The application runs in this process with all its parts. Documents are committed through the document store, as an
ingest does; the taxonomy is made, attached and applied through the API.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fastapi.testclient import TestClient

from benchmarks._data import Matrix
from benchmarks._report import Report
from mediatheca.app import App, build
from mediatheca.flows.standalone import DIRECT
from mediatheca.flows.tenancy import create_organization
from mediatheca.kernel.documents import Document, VectorIndex
from mediatheca.kernel.scope import Scope
from mediatheca.settings import Settings
from mediatheca.telemetry import configure_logs

LABELS, DOCUMENTS, DIMENSIONS = 1_000, 100_000, 384
AIM = 2_000
"""Documents a second, on two cores."""
INDEX = VectorIndex("points", "mixpeek://points@v1/points", DIMENSIONS, modalities=())
_CHUNK = 5_000


@dataclass
class Shop:
    """A namespace with things and labels."""

    app: App
    client: TestClient
    scope: Scope

    def call(self, method: str, path: str, body: Any = None) -> Any:
        answer = self.client.request(method, f"/v1{path}", json=body)
        if answer.status_code != 200:
            raise RuntimeError(f"{method} {path}: {answer.status_code} {answer.text}")
        return answer.json()

    def collection(self, name: str, vectors: Matrix, payloads: list[dict[str, Any]]) -> str:
        """A collection with these documents, searchable."""
        services = self.app.services
        extractor = {"feature_extractor_name": "passthrough_extractor", "version": "v1", "parameters": {}, "inputs": {}}
        body = {
            "description": None, "source": {"type": DIRECT, "bucket_ids": [], "source_filters": None},
            "source_bucket_schemas": {}, "enabled": True, "metadata": {}, "embedding_task": None,
            "feature_extractor": {**extractor, "feature_extractor_id": "passthrough_extractor_v1"},
            "input_schema": {"properties": {}}, "output_schema": {"properties": {}},
            "vector_indexes": [asdict(INDEX)], "indexed_fields": {"label": "keyword"},
        }  # fmt: skip
        with services.db.begin(self.scope) as tx:
            made = tx.put("collection", "col", name, body)
            tx.insert("document_tables", [{"collection_id": made.id}])
        for start in range(0, len(vectors), _CHUNK):
            rows = range(start, min(start + _CHUNK, len(vectors)))
            documents = [Document(f"d{n:06}", made.id, payloads[n], {INDEX.name: vectors[n]}) for n in rows]
            with services.leases.acquire(self.scope, made.id) as lease:
                services.documents.ensure(made.id, (INDEX,))
                services.documents.upsert(made.id, documents, lease.seq)
                services.leases.commit(lease)
        services.indexer.catch_up(self.scope, made.id)
        return made.id

    def apply(self, collection_id: str, taxonomy_id: str) -> tuple[float, dict[str, Any]]:
        """Seconds from the request to the end of the task, and what the task counted."""
        began = time.perf_counter()
        body = {"taxonomy_id": taxonomy_id, "batch_size": 5_000}
        task = self.call("POST", f"/collections/{collection_id}/apply-taxonomy", body)["task_id"]
        while True:
            shown = self.call("GET", f"/tasks/{task}")
            if shown["status"] not in ("QUEUED", "PROCESSING"):
                break
            time.sleep(0.05)
        if shown["status"] != "COMPLETED":
            raise RuntimeError(str(shown))
        return time.perf_counter() - began, shown["outputs"][0]


def _open(folder: Path) -> Shop:
    configure_logs("error", json=False)
    app = build(Settings(data_dir=folder, workers=0, log_level="error"))
    app.start()
    organization, key = create_organization(app.services.db, "benchmark", "benchmark@example.org")
    client = TestClient(app.asgi, headers={"Authorization": f"Bearer {key}"})
    namespace = client.post("/v1/namespaces", json={"namespace_name": "shop"}).json()["namespace_id"]
    client.headers["X-Namespace"] = namespace
    return Shop(app, client, Scope(organization, namespace))


def _taxonomy(shop: Shop, labels: str, things: str) -> str:
    search = {"feature_uri": INDEX.name, "query": {"input_mode": "vector", "value": "{{INPUT.v}}"}, "top_k": 5}
    stage = {"stage_id": "feature_search", "parameters": {"searches": [search]}}
    body: dict[str, Any] = {"retriever_name": "labels", "collection_identifiers": [labels], "stages": [stage]}
    retriever = shop.call("POST", "/retrievers", body)["retriever_id"]
    config = {
        "taxonomy_type": "flat", "retriever_id": retriever,
        "input_mappings": [{"input_key": "v", "source_type": "vector", "path": INDEX.name}],
        "source_collection": {
            "collection_id": labels, "enrichment_fields": [{"field_path": "label", "target_field": "kind"}]
        },
    }  # fmt: skip
    made = shop.call("POST", "/taxonomies", {"taxonomy_name": "kinds", "config": config})
    attached = [{"taxonomy_id": made["taxonomy_id"], "execution_mode": "on_demand"}]
    shop.call("PATCH", f"/collections/{things}", {"taxonomy_applications": attached})
    return str(made["taxonomy_id"])


def run(documents: int = DOCUMENTS, labels: int = LABELS) -> Report:
    """Planted labels: accuracy is known."""
    report = Report("taxonomy")
    made = np.random.default_rng(5)
    centres = made.normal(size=(labels, DIMENSIONS)).astype(np.float32)
    chosen = made.integers(0, labels, size=documents)
    points = centres[chosen] + made.normal(scale=0.8, size=(documents, DIMENSIONS)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        shop = _open(Path(folder))
        try:
            _measure(report, shop, centres, points.astype(np.float32), chosen.tolist())
        finally:
            shop.app.close()
    return report


def _measure(report: Report, shop: Shop, centres: Matrix, points: Matrix, chosen: list[int]) -> None:
    side = shop.collection("labels", centres, [{"label": f"label {n}"} for n in range(len(centres))])
    things = shop.collection("things", points, [{"number": n} for n in range(len(points))])
    taxonomy = _taxonomy(shop, side, things)
    seconds, counts = shop.apply(things, taxonomy)
    services = shop.app.services
    began = time.perf_counter()
    services.indexer.catch_up(shop.scope, things)
    behind = time.perf_counter() - began
    number = len(points)
    report.add("documents evaluated and durably written", number / seconds, "/s", f">= {AIM}")
    report.add("the same until searchable", number / (seconds + behind), "/s")
    report.add("enriched", counts["enriched"], "", f">= {number}")
    dead = services.indexer.tombstones(shop.scope, things)
    ids = [f"d{n:06}" for n in range(0, number, max(1, number // 5_000))]
    found = services.documents.get(things, ids, tombstones=dead)
    right = sum(d.payload.get("kind") == f"label {chosen[int(d.document_id[1:])]}" for d in found)
    report.add("planted labels recovered", right / len(found), "", ">= 0.99")
    seconds, counts = shop.apply(things, taxonomy)
    report.add("applied again: documents looked at and left alone", number / seconds, "/s")
    report.add("applied again: unchanged", counts["unchanged"], "", f">= {number}")


if __name__ == "__main__":
    print(run(*map(int, sys.argv[1:])).table())
