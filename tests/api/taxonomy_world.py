"""A shop with labels, things to be labelled, and a retriever that finds labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from documents_world import TEXT, URI, Tenant, new_collection

from helpers import wait_for
from mediatheca.kernel.documents import VectorIndex

RAW = VectorIndex("raw_v1_points", "mixpeek://raw@v1/points", 16, modalities=())
"""Vectors that callers write themselves."""


class Labels:
    """One tenant's taxonomies. Texts are embedded by their letters, so labels of other letters are far away."""

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self.call = tenant.call

    def collection(self, name: str, *, fields: dict[str, str] | None = None, **more: Any) -> str:
        """A collection whose vectors are made of its field `text`; `index` for another vector index."""
        index = more.pop("index", TEXT)
        ident = new_collection(
            self.tenant.world.db, self.tenant.scope, name, [index], {"text": "text", "kind": "keyword"}
        )
        with self.tenant.world.db.begin(self.tenant.scope) as tx:
            record = tx.get("collection", ident)
            extractor = {**record.body["feature_extractor"], "inputs": {"text": ["text"]}, **more}
            properties = {key: {"type": kind} for key, kind in (fields or {"text": "string", "kind": "string"}).items()}
            body = {**record.body, "feature_extractor": extractor, "output_schema": {"properties": properties}}
            body["embedding_task"] = None
            tx.change(record, body)
        return ident

    def write(self, collection_id: str, documents: list[dict[str, Any]]) -> None:
        path = f"/namespaces/{self.tenant.scope.namespace_id}/documents/upsert"
        for start in range(0, len(documents), 500):
            part = documents[start : start + 500]
            self.call("POST", path, {"collection_id": collection_id, "documents": part})

    def texts(self, collection_id: str, texts: dict[str, Any]) -> None:
        """Documents by id: a text, or a whole payload with one; embedded as the extractor would."""
        from documents_world import vector_of

        rows = []
        for ident, given in texts.items():
            payload = {"text": given} if isinstance(given, str) else dict(given)
            rows.append({"document_id": ident, **payload, "vectors": {TEXT.name: vector_of(payload["text"])}})
        self.write(collection_id, rows)

    def labels(self, name: str = "labels", **labels: str) -> str:
        """A collection of label documents: label → example text."""
        ident = self.collection(name, fields={"text": "string", "label_name": "string"})
        self.texts(ident, {f"{name}-{key}": {"text": text, "label_name": key} for key, text in labels.items()})
        return ident

    def retriever(self, *collections: str, name: str = "matcher", **search: Any) -> str:
        one = {"feature_uri": URI, "query": {"input_mode": "text", "text": "{{INPUT.query}}"}, "top_k": 20, **search}
        stage = {
            "stage_name": "label_search",
            "stage_type": "filter",
            "config": {"stage_id": "feature_search", "parameters": {"searches": [one], "final_top_k": 20}},
        }
        schema = {"query": {"type": "string"}}
        body = {
            "retriever_name": name,
            "collection_identifiers": list(collections),
            "stages": [stage],
            "input_schema": schema,
        }
        return str(self.call("POST", "/retrievers", body)["retriever_id"])

    def flat(self, name: str = "kinds", **config: Any) -> dict[str, Any]:
        """Creates a flat taxonomy; `collection` and `retriever_id` as in the configuration."""
        made = {
            "taxonomy_type": "flat",
            "input_mappings": [{"input_key": "query", "source_type": "payload", "path": "text"}],
            **config,
        }
        found: dict[str, Any] = self.call("POST", "/taxonomies", {"taxonomy_name": name, "config": made})
        return found

    def attach(self, collection_id: str, taxonomy_id: str, **more: Any) -> None:
        body = {"taxonomy_applications": [{"taxonomy_id": taxonomy_id, "execution_mode": "on_demand", **more}]}
        self.call("PATCH", f"/collections/{collection_id}", body)

    def apply(self, collection_id: str, taxonomy_id: str, **more: Any) -> dict[str, Any]:
        """Apply and wait; gives the ended task."""
        body = {"taxonomy_id": taxonomy_id, **more}
        started = self.call("POST", f"/collections/{collection_id}/apply-taxonomy", body)
        return self.ended(started["task_id"])

    def ended(self, task_id: str) -> dict[str, Any]:
        def done() -> Any:
            task = self.call("GET", f"/tasks/{task_id}")
            return task if task["status"] not in ("QUEUED", "PROCESSING") else None

        found: dict[str, Any] = wait_for(done)
        return found

    def documents(self, collection_id: str) -> dict[str, dict[str, Any]]:
        """By id, as they are shown."""
        found = self.call("POST", f"/collections/{collection_id}/documents/list", {"limit": 1000})["results"]
        return {document["document_id"]: document for document in found}

    def said(self, document: dict[str, Any], taxonomy_id: str, name: str = "label") -> Any:
        return document["_internal"].get(f"_taxonomy_{taxonomy_id}_{name}")


FIELDS = [{"field_path": "label_name", "target_field": "kind"}]
MAPPINGS = [{"input_key": "query", "source_type": "payload", "path": "text"}]


def basic(labels: Labels) -> tuple[str, str, dict[str, Any]]:
    """Label collection, retriever, and a flat taxonomy `kinds` with both."""
    side = labels.labels(fox="fox fox", whale="whale whale")
    retriever = labels.retriever(side)
    source = {"collection_id": side, "enrichment_fields": FIELDS}
    return side, retriever, labels.flat(retriever_id=retriever, source_collection=source)


def refused(labels: Labels, config: dict[str, Any], status: int = 422) -> str:
    body = {"taxonomy_name": "refused", "config": config}
    return str(labels.call("POST", "/taxonomies", body, status)["error"]["message"])


def hierarchy(labels: Labels) -> tuple[str, str, str, str]:
    """Animals, foxes below them, whales below them; and a retriever over all three."""
    animals = labels.labels("animals", animal="fox whale aou")
    foxes = labels.labels("foxes", fox="fox foo oo")
    whales = labels.labels("whales", whale="whale wael")
    return animals, foxes, whales, labels.retriever(animals, foxes, whales, name="all three")


def planted(labels: int, documents: int, seed: int = 7) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Label vectors, document vectors near one each, and which."""
    made = np.random.default_rng(seed)
    centres = made.normal(size=(labels, RAW.dimensions)).astype(np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    chosen = made.integers(0, labels, size=documents)
    points = centres[chosen] + made.normal(scale=0.08, size=(documents, RAW.dimensions)).astype(np.float32)
    return centres, points.astype(np.float32), chosen.tolist()
