"""The rules of exact search in a document store; a part of `mediatheca.testing.documents`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mediatheca.kernel.documents import Metric, Vector, VectorIndex
from mediatheca.kernel.errors import ValidationError
from mediatheca.stores.documents.base import DocumentStore
from mediatheca.testing.document_data import (
    COLLECTION,
    DENSE,
    MULTI,
    DocumentTable,
    dense,
    ids,
    make,
)


class NearestRules(DocumentTable):
    """What `DocumentStore.nearest` promises."""

    @pytest.mark.parametrize("metric", ["cosine", "dot", "euclid"])
    def test_nearest_agrees_with_a_scan_in_numpy(self, store: DocumentStore, metric: Metric) -> None:
        index = VectorIndex(DENSE.name, DENSE.feature_uri, 4, metric)
        matrix = np.random.default_rng(2).normal(size=(300, 4)).astype(np.float32)
        store.upsert(COLLECTION, [make(f"{i:03d}", vectors={DENSE.name: v}) for i, v in enumerate(matrix)], 1)
        store.upsert(COLLECTION, [make("none")], 2)
        query = np.array([0.3, -1, 0.5, 0.1], np.float32)
        wide = matrix.astype(np.float64)
        scores = {
            "dot": wide @ query,
            "cosine": wide @ query / np.linalg.norm(wide, axis=1) / np.linalg.norm(query),
            "euclid": 1 / (1 + np.linalg.norm(wide - query, axis=1)),
        }[metric]
        order = np.argsort(-scores)[:20]
        near = store.nearest(COLLECTION, index, query, 20)
        assert ids([d for _, d in near]) == [f"{i:03d}" for i in order]
        np.testing.assert_allclose([s for s, _ in near], scores[order], atol=1e-6)
        assert len(store.nearest(COLLECTION, index, query, 1000)) == 300

    @pytest.mark.parametrize("metric", ["cosine", "dot", "euclid"])
    def test_nearest_of_a_multi_vector_is_max_sim(self, store: DocumentStore, metric: Metric) -> None:
        index = VectorIndex(MULTI.name, MULTI.feature_uri, 3, metric, multi=True)
        store.ensure(COLLECTION, [DENSE, index])
        rng = np.random.default_rng(3)
        stored = {f"{i:02d}": rng.normal(size=(rng.integers(1, 6), 3)).astype(np.float32) for i in range(40)}
        store.upsert(COLLECTION, [make(k, vectors={MULTI.name: v}) for k, v in stored.items()] + [make("x")], 1)
        query = rng.normal(size=(2, 3)).astype(np.float32)
        expected = {k: _max_sim(query, v, metric) for k, v in stored.items()}
        near = store.nearest(COLLECTION, index, query, 10)
        best = sorted(expected, key=lambda k: -expected[k])[:10]
        assert ids([d for _, d in near]) == best
        np.testing.assert_allclose([s for s, _ in near], [expected[k] for k in best], rtol=1e-5)

    def test_equal_scores_are_ordered_by_id(self, store: DocumentStore) -> None:
        store.upsert(COLLECTION, [make(i, vectors=dense(1, 1, 1, 1)) for i in "dbca"], 1)
        assert ids([d for _, d in store.nearest(COLLECTION, DENSE, np.ones(4, np.float32), 4)]) == list("abcd")

    @pytest.mark.parametrize("query", [np.ones(3), np.ones((2, 4)), np.array([1, 2, 3, np.nan])])
    def test_a_query_that_does_not_fit_is_refused(self, store: DocumentStore, query: Any) -> None:
        with pytest.raises(ValidationError, match="vector"):
            store.nearest(COLLECTION, DENSE, query, 3)


def _max_sim(query: Vector, tokens: Vector, metric: Metric) -> float:
    """MaxSim as the index engine defines it, written the slow way."""
    a, b = query.astype(np.float64), tokens.astype(np.float64)
    if metric == "euclid":
        return float(1 / (1 + np.sqrt(sum(min(((x - y) ** 2).sum() for y in b) for x in a))))
    if metric == "cosine":
        a, b = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in (a, b))
    return float(sum(max(float(x @ y) for y in b) for x in a))
