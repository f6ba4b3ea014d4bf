"""How the new vectors do beside the old, before anybody is searched with them.

On a golden data set both answer every query through the whole retriever, and the metric is compared. Without one, the
nearest neighbours of a sample of documents are compared: overlap says how much of what is found today stays; it does
not say which of the two is right.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mediatheca.flows.evaluation.datasets import grades_of
from mediatheca.flows.evaluation.evaluations import KIND as EVALUATION
from mediatheca.flows.evaluation.evaluations import EvaluationConfig
from mediatheca.flows.indexing import stored_vectors
from mediatheca.flows.migration.plan import Compare, redirected
from mediatheca.flows.migration.state import Pair, pairs_of
from mediatheca.flows.replay import Ran
from mediatheca.flows.retrievers import Compiled
from mediatheca.flows.services import Services
from mediatheca.kernel.documents import Document
from mediatheca.kernel.errors import BadRequestError
from mediatheca.kernel.metrics import judge, means, measure
from mediatheca.kernel.rankings import overlap, rank_biased_overlap
from mediatheca.kernel.scope import Scope
from mediatheca.kernel.search import VectorQuery
from mediatheca.kernel.significance import randomisation
from mediatheca.stages import CollectionView
from mediatheca.stores.db.tx import Record

_SEED = 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is compared. `check` is called between queries and may raise."""

    services: Services
    scope: Scope
    collection: Record
    migration: Record
    check: Callable[[], None]

    def report(self) -> dict[str, Any]:
        """The figures, and `passed`: whether they hold against the threshold of the migration.

        Raises:
            BadRequestError: the evaluation, its retriever or its data set is gone.
        """
        asked = Compare.model_validate(self.migration.body["compare"])
        self.services.indexer.catch_up(self.scope, self.collection.id)
        if asked.evaluation_id is not None:
            return self._golden(asked)
        return {"kind": "sample", **self._neighbours(asked)}

    # ---- neighbours of a sample

    def _neighbours(self, asked: Compare) -> dict[str, Any]:
        documents = self._sample(asked.sample)
        threshold = float(self.migration.body["threshold"])
        found = [self._pair(pair, documents, asked.k) for pair in pairs_of(self.migration)]
        least = min((entry["overlap_at_k"] for entry in found if entry["queries"]), default=1.0)
        return {"k": asked.k, "indexes": found, "threshold": threshold, "passed": least >= threshold}

    def _sample(self, size: int) -> list[Document]:
        """Documents drawn evenly, the same ones each time."""
        chance = random.Random(_SEED)
        drawn: list[str] = []
        for number, ident in enumerate(self.services.indexer.index.ids(self.collection.id)):
            if len(drawn) < size:
                drawn.append(ident)
            elif (place := chance.randrange(number + 1)) < size:
                drawn[place] = ident
        names = {name for pair in pairs_of(self.migration) for name in (pair.old.name, pair.new.name)}
        dead = self.services.indexer.tombstones(self.scope, self.collection.id)
        return self.services.documents.get(self.collection.id, sorted(drawn), tombstones=dead, vectors=names)

    def _pair(self, pair: Pair, documents: Iterable[Document], k: int) -> dict[str, Any]:
        rows = []
        for document in documents:
            if pair.old.name in document.vectors and pair.new.name in document.vectors:
                self.check()
                rows.append((self._near(pair.old.name, document, k), self._near(pair.new.name, document, k)))
        return {
            "from": pair.old.feature_uri,
            "to": pair.new.feature_uri,
            "queries": len(rows),
            "overlap_at_k": _mean(overlap(old, new, k) for old, new in rows),
            "rank_biased_overlap": _mean(rank_biased_overlap(old, new) for old, new in rows),
            "rank_correlation": _mean(rho for old, new in rows if (rho := rank_correlation(old, new)) is not None),
        }

    def _near(self, name: str, document: Document, k: int) -> list[str]:
        query = VectorQuery(name, document.vectors[name], k, exact=True, exclude={document.document_id}, bare=True)
        found = self.services.indexer.index.query(self.collection.id, query)
        return [hit.document_id for hit in found if hit.document_id != document.document_id]

    # ---- a golden data set

    def _golden(self, asked: Compare) -> dict[str, Any]:
        with self.services.db.read(self.scope) as tx:
            evaluation = tx.find(EVALUATION, str(asked.evaluation_id))
            dataset = None if evaluation is None else tx.find("evaluation_dataset", evaluation.body["dataset_id"])
        if evaluation is None or dataset is None:
            raise BadRequestError("the evaluation to compare on, or its data set, was deleted; compare on a sample")
        config = EvaluationConfig.model_validate(evaluation.body["config"])
        now = self.services.plans.get(self.scope, evaluation.body["retriever_id"], config.version)
        if all(view.collection_id != self.collection.id for view in now.plan.collections):
            raise BadRequestError(f"retriever '{now.retriever_id}' of the evaluation does not search this collection")
        then = replace(now, plan=replace(now.plan, collections=self._views(now.plan.collections)))
        queries = [
            query for query in dataset.body["queries"] if query["query_input"] and any(grades_of(query).values())
        ]
        return {"kind": "golden", **self._measured(asked, config, queries, (now, then))}

    def _views(self, views: Sequence[CollectionView]) -> tuple[CollectionView, ...]:
        """The collections as they will be after the switch."""
        body = after_switch(self.collection.body, pairs_of(self.migration))
        vectors = stored_vectors(body)
        return tuple(
            replace(view, vectors=vectors, index_map=body["index_map"])
            if view.collection_id == self.collection.id
            else view
            for view in views
        )

    def _measured(
        self, asked: Compare, config: EvaluationConfig, queries: Sequence[Mapping[str, Any]],
        sides: tuple[Compiled, Compiled],
    ) -> dict[str, Any]:  # fmt: skip
        values: tuple[list[dict[str, float]], list[dict[str, float]]] = ([], [])
        errors: list[str] = []
        for query in queries:
            self.check()
            ran = [self.services.replayer.run(self.scope, side, query["query_input"], max(asked.k, config.depth),
                                              config.match_on) for side in sides]  # fmt: skip
            problem = next((one.error for one in ran if one.error is not None), None)
            if problem is not None:
                errors.append(problem)
                continue
            for held, one in zip(values, ran, strict=True):
                held.append(_scores(one, grades_of(query), asked))
        before, after = means(values[0]), means(values[1])
        gains = [new[asked.metric] - old[asked.metric] for old, new in zip(*values, strict=True)]
        change = after.get(asked.metric, 0.0) - before.get(asked.metric, 0.0)
        threshold = float(self.migration.body["threshold"])
        return {
            "metric": asked.metric, "k": asked.k, "queries": len(gains), "skipped_queries": len(errors),
            "error_message": errors[0] if errors else None, "old": before, "new": after, "change": change,
            "p_value": randomisation(gains, seed=_SEED) if gains else None, "threshold": threshold,
            "passed": bool(gains) and change >= -threshold,
        }  # fmt: skip


def _scores(ran: Ran, grades: Mapping[str, int], asked: Compare) -> dict[str, float]:
    return measure(judge(ran.ids, grades), list(dict.fromkeys([asked.metric, "ndcg", "recall", "mrr"])), asked.k)


def after_switch(body: Mapping[str, Any], pairs: Sequence[Pair]) -> dict[str, Any]:
    """The body of a collection with every old index replaced by its new one, which its URI leads to from then on."""
    every = {entry["name"]: entry for entry in (*body.get("side_indexes", []), *body["vector_indexes"])}
    news = {pair.old.name: pair.new.name for pair in pairs}
    indexes = [every[news.get(entry["name"], entry["name"])] for entry in body["vector_indexes"]]
    uris = redirected(body.get("index_map") or {}, [(pair.old.feature_uri, pair.new.feature_uri) for pair in pairs])
    side = [every[pair.old.name] for pair in pairs]
    turned = {*news.keys(), *news.values()}  # a turn that is made once more leaves the same
    rest = [entry for entry in body.get("side_indexes", []) if entry["name"] not in turned]
    return {**body, "vector_indexes": indexes, "side_indexes": [*rest, *side], "index_map": uris}


def rank_correlation(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Spearman's rho of the ranks of what both lists have; None below three, where it says nothing."""
    both = [ident for ident in first if ident in set(second)]
    n = len(both)
    if n < 3:
        return None
    place = {ident: rank for rank, ident in enumerate(ident for ident in second if ident in set(both))}
    squares = sum((rank - place[ident]) ** 2 for rank, ident in enumerate(both))
    return 1 - 6 * squares / (n * (n * n - 1))


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None
