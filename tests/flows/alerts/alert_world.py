"""A composed application with a collection of documents, and alerts over it without the detour through HTTP."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mediatheca.app import build
from mediatheca.flows.alerts.percolator import Percolator
from mediatheca.flows.documents import Change
from mediatheca.flows.tenancy import create_organization
from mediatheca.kernel.documents import Document, VectorIndex
from mediatheca.kernel.scope import Scope
from mediatheca.settings import Settings
from mediatheca.stores.db.tx import Record

DIMENSIONS = 8
SPOTS = VectorIndex("spots", "spots", DIMENSIONS, "cosine", False, "", "", ())
FIELDS = {"title": "text", "body": "text", "price": "float", "code": "keyword"}
_numbers = itertools.count(1)
Written = tuple[dict[str, Any], np.ndarray | None]
"""Payload and vector."""


class AlertWorld:
    """One application; `fresh` makes a namespace of its own in it."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.app = build(Settings(data_dir=folder, workers=0, log_level="error", **settings))
        self.services = self.app.services
        self.services.indexer.start()
        self.organization, _ = create_organization(self.services.db, "alerts", "alerts@example.org")
        self.fresh()

    def close(self) -> None:
        self.app.close()

    def fresh(self) -> None:
        with self.services.db.begin(Scope(self.organization)) as tx:
            made = tx.put("namespace", "ns", f"alerts {next(_numbers)}", {"description": None})
        self.scope = Scope(self.organization, made.id)
        self.collection = self.new_collection("goods")
        self.percolator = self.restarted()

    def restarted(self) -> Percolator:
        """As after a restart: nothing is known of earlier documents."""
        services = self.services
        self.percolator = Percolator(services.db, services.indexer, services.plans, services.replayer)
        return self.percolator

    def new_collection(self, name: str, metric: str = "cosine") -> str:
        index = VectorIndex(**{**asdict(SPOTS), "metric": metric})
        body = {
            "description": None,
            "source": {"type": "bucket", "bucket_ids": []},
            "feature_extractor": {"feature_extractor_name": "passthrough_extractor", "version": "v1"},
            "vector_indexes": [asdict(index)],
            "indexed_fields": FIELDS,
        }
        with self.services.db.begin(self.scope) as tx:
            made = tx.put("collection", "col", name, body)
            tx.insert("document_tables", [{"collection_id": made.id}])
        return made.id

    def record(self, collection: str) -> Record:
        with self.services.db.read(self.scope) as tx:
            return tx.get("collection", collection)

    def write(
        self, documents: Mapping[str, tuple[dict[str, Any], np.ndarray | None]], collection: str = ""
    ) -> list[str]:
        """Documents by id: payload and vector."""
        target = self.record(collection or self.collection)

        def change(ident: str, payload: dict[str, Any], vector: np.ndarray | None) -> Change:
            vectors = {} if vector is None else {SPOTS.name: np.asarray(vector, np.float32)}
            return Change(ident, lambda held: Document(ident, target.id, payload, vectors))

        changes = [change(ident, *document) for ident, document in documents.items()]
        for outcome in self.services.writer.write(self.scope, "test", target, changes):
            outcome.result()
        return list(documents)

    def delete(self, ids: Sequence[str]) -> None:
        self.services.writer.delete(self.scope, "test", self.collection, ids)

    def retriever(self, name: str, *stages: dict[str, Any], collections: Sequence[str] = ()) -> str:
        engine, identifiers = self.services.retrieve, list(collections) or [self.collection]
        body = {
            "stages": engine.normalise(list(stages)),
            "collection_ids": identifiers,
            "input_schema": {},
            "budget_limits": None,
            "cache_config": None,
        }
        with self.services.db.begin(self.scope) as tx:
            return tx.put("retriever", "ret", name, body).id

    def alert(self, retriever: str, inputs: dict[str, Any] | None = None, **more: Any) -> str:
        body = {"source": "retriever", "retriever_id": retriever, "inputs": inputs or {}, "enabled": True, **more}
        with self.services.db.begin(self.scope) as tx:
            return tx.put("alert", "alt", f"alert {next(_numbers)}", body).id

    def percolate(self, ids: Sequence[str], collection: str = "") -> dict[str, set[str]]:
        """Alert → the documents that match it."""
        found = self.percolator.percolate(self.scope, collection or self.collection, ids)
        assert not [made.error for made in found if made.error]
        return {made.alert.id: {m.document_id for m in made.matches} for made in found if made.matches}

    def run(self, retriever: str, inputs: dict[str, Any]) -> set[str]:
        """Everything that the retriever finds right now."""
        found = self.services.plans.get(self.scope, retriever)
        ran = self.services.replayer.run(self.scope, found, inputs, 500)
        assert ran.error is None, ran.error
        return set(ran.ids)


def search(value: Any = "{{INPUT.vector}}", **more: Any) -> dict[str, Any]:
    return {"feature_uri": "spots", "query": {"input_mode": "vector", "value": value}, **more}


def words(value: str = "{{INPUT.text}}", **more: Any) -> dict[str, Any]:
    return {"lexical": True, "query": {"input_mode": "text", "value": value}, **more}


def stage(*searches: dict[str, Any], **parameters: Any) -> dict[str, Any]:
    return {
        "stage_name": "search",
        "config": {"stage_id": "feature_search", "parameters": {"searches": list(searches), **parameters}},
    }


def step(stage_id: str, **parameters: Any) -> dict[str, Any]:
    return {"stage_name": stage_id, "config": {"stage_id": stage_id, "parameters": parameters}}
