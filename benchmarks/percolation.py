"""10,000 standing queries and 1,000 new documents: one pass, against running every retriever.

Both find the matches of the same new documents, over the same index, with the engine that serves requests. Brute force
is every alert's retriever run once, its answer cut to the new documents. Each kind of alert is measured alone, and the
mix: 60 % vectors with a floor, 20 % words that must all be there, 20 % vectors with a floor and a condition. Queries
are vectors, so that no embedding is in either figure. `first pass`: nothing is known of earlier documents, as after a
restart; `pass`: of one that follows, the medians of the report.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._report import Report
from mediatheca.app import App, build
from mediatheca.flows.alerts.percolator import Percolator
from mediatheca.flows.documents import Change
from mediatheca.flows.tenancy import create_organization
from mediatheca.kernel.clock import now
from mediatheca.kernel.documents import Document, VectorIndex
from mediatheca.kernel.ids import new_id
from mediatheca.kernel.scope import Scope
from mediatheca.settings import Settings

ALERTS = int(os.environ.get("BENCHMARK_ALERTS", "10000"))
DOCUMENTS = int(os.environ.get("BENCHMARK_DOCUMENTS", "10000"))
BATCH = 1_000
PASSES = 3
DIMENSIONS = 384
TOPICS = 2_000
RETRIEVERS = 50
FLOOR = 0.8
SPOTS = VectorIndex("spots", "spots", DIMENSIONS, "cosine", False, "", "", ())
FIELDS = {"title": "text", "code": "keyword", "price": "float"}
MIX = {"vectors": 6, "words": 2, "vectors and a condition": 2}


def run() -> Report:
    """Every kind alone, then the mix."""
    report = Report("percolation")
    with tempfile.TemporaryDirectory(prefix="mediatheca-benchmark-") as folder:
        for number, kind in enumerate(["mix", *MIX]):
            house = _House(Path(folder) / str(number), seed=number)
            try:
                _measure(report, house, kind)
            finally:
                house.app.close()
    return report


def _measure(report: Report, house: _House, kind: str) -> None:
    alerts = house.alerts(MIX if kind == "mix" else {kind: 1})
    goal = ">= 20"
    for number in range(PASSES + 1):
        ids = house.write(BATCH)
        percolator = house.percolator
        if number == 0:
            percolator.percolate(house.scope, house.collection, [])  # reads the alerts and what they ask
        began = time.perf_counter()
        found = percolator.percolate(house.scope, house.collection, ids)
        taken = time.perf_counter() - began
        name = f"{kind}: {'first pass' if number == 0 else 'pass'}"
        report.add(name, taken, "s")
        matched = {made.alert.id: {match.document_id for match in made.matches} for made in found if made.matches}
        began = time.perf_counter()
        brute = {alert: house.run(*asked) & set(ids) for alert, asked in alerts.items()}
        wanted = time.perf_counter() - began
        report.add(f"{kind}: every retriever run", wanted, "s")
        report.add(f"{name} is so many times faster", wanted / taken, "x", goal if number else "")
        report.add(f"{kind}: matches", sum(map(len, brute.values())), "")
        missed = sum(len(held - matched.get(alert, set())) for alert, held in brute.items())
        extra = sum(len(held - brute.get(alert, set())) for alert, held in matched.items())
        report.add(f"{kind}: missed", missed, "", "<= 0")
        report.add(f"{kind}: found by the pass alone", extra, "", note="beyond what an approximate index sees")


class _House:
    """A server's parts with one collection, its alerts, and documents that keep coming."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.app: App = build(Settings(data_dir=folder, workers=0, log_level="error"))
        services = self.app.services
        self.random = np.random.default_rng(seed)
        self.topics = self.random.normal(size=(TOPICS, DIMENSIONS))
        self.vocabulary = [f"word{n}" for n in range(2_000)]
        share = 1 / np.arange(1, 2_001)
        self.shares = share / share.sum()
        organization, _ = create_organization(services.db, "benchmark", "benchmark@example.org")
        with services.db.begin(Scope(organization)) as tx:
            self.scope = Scope(organization, tx.put("namespace", "ns", "benchmark", {"description": None}).id)
        body = {
            "source": {"type": "bucket", "bucket_ids": []},
            "feature_extractor": {"feature_extractor_name": "passthrough_extractor", "version": "v1"},
            "vector_indexes": [asdict(SPOTS)],
            "indexed_fields": FIELDS,
        }
        with services.db.begin(self.scope) as tx:
            self.record = tx.put("collection", "col", "documents", body)
            tx.insert("document_tables", [{"collection_id": self.record.id}])
        self.collection = self.record.id
        self.percolator = Percolator(services.db, services.indexer, services.plans, services.replayer)
        self._written = 0
        for _ in range(DOCUMENTS // BATCH):
            self.write(BATCH)

    def near(self, count: int) -> np.ndarray:
        """Vectors around the topics."""
        centres = self.topics[self.random.integers(0, TOPICS, count)]
        return (centres + self.random.normal(size=centres.shape) * 0.5).astype(np.float32)

    def write(self, count: int) -> list[str]:
        def change(ident: str, payload: dict[str, Any], vector: np.ndarray) -> Change:
            return Change(ident, lambda held: Document(ident, self.collection, payload, {"spots": vector}))

        ids = [f"document-{self._written + n}" for n in range(count)]
        self._written += count
        changes = [
            change(ident, {"title": " ".join(words), "code": f"code{code}", "price": float(code)}, vector)
            for ident, words, code, vector in zip(
                ids,
                self.random.choice(self.vocabulary, (count, 8), p=self.shares),
                self.random.integers(0, 50, count),
                self.near(count),
                strict=True,
            )
        ]
        self.app.services.writer.write(self.scope, "benchmark", self.record, changes)
        return ids

    def run(self, retriever: str, inputs: dict[str, Any]) -> set[str]:
        services = self.app.services
        ran = services.replayer.run(self.scope, services.plans.get(self.scope, retriever), inputs, 500)
        if ran.error is not None:
            raise RuntimeError(ran.error)
        return set(ran.ids)

    def alerts(self, shares: dict[str, int]) -> dict[str, tuple[str, dict[str, Any]]]:
        """Alert → its retriever and inputs; few retrievers, as people reuse them."""
        kinds = [kind for kind, share in shares.items() for _ in range(share)]
        retrievers = {kind: self._retrievers(kind) for kind in shares}
        made: dict[str, tuple[str, dict[str, Any]]] = {}
        for number in range(ALERTS):
            kind = kinds[number % len(kinds)]
            made[new_id("alt")] = (retrievers[kind][number % RETRIEVERS], self._inputs(kind))
        moment = now()
        rows = [
            {"kind": "alert", "id": ident, "parent": "", "name": ident, "version": 1}
            | {"body": {"source": "retriever", "retriever_id": retriever, "inputs": inputs, "enabled": True}}
            | {"created_at": moment, "updated_at": moment}
            for ident, (retriever, inputs) in made.items()
        ]
        with self.app.services.db.begin(self.scope) as tx:
            for at in range(0, len(rows), 500):
                tx.insert("resources", rows[at : at + 500])
            tx.topics.add("resource:alert")
        return made

    def _inputs(self, kind: str) -> dict[str, Any]:
        if kind == "words":
            return {"text": " ".join(self.random.choice(self.vocabulary, 2, replace=False))}
        inputs: dict[str, Any] = {"vector": self.near(1)[0].tolist()}
        return inputs | ({"code": f"code{self.random.integers(0, 50)}"} if "condition" in kind else {})

    def _retrievers(self, kind: str) -> Sequence[str]:
        search: dict[str, Any] = {
            "feature_uri": "spots", "query": {"input_mode": "vector", "value": "{{INPUT.vector}}"}, "min_score": FLOOR,
        }  # fmt: skip
        parameters: dict[str, Any] = {"searches": [search]}
        if kind == "words":
            words = {"lexical": True, "query": {"value": "{{INPUT.text}}"}, "operator": "and"}
            parameters = {"searches": [words]}
        elif "condition" in kind:
            parameters["filters"] = {"field": "code", "operator": "eq", "value": "{{INPUT.code}}"}
        stage = {"stage_name": "search", "config": {"stage_id": "feature_search", "parameters": parameters}}
        return [self._retriever(f"{kind} {number}", stage) for number in range(RETRIEVERS)]

    def _retriever(self, name: str, stage: dict[str, Any]) -> str:
        services = self.app.services
        body = {"stages": services.retrieve.normalise([stage]), "collection_ids": [self.collection], "input_schema": {}}
        with services.db.begin(self.scope) as tx:
            return tx.put("retriever", "ret", name, body | {"budget_limits": None, "cache_config": None}).id
