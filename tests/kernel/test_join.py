"""The bulk join gives what comparing every pair gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediatheca.kernel.documents import Metric
from mediatheca.kernel.join import NONE, top_matches, unit_rows


def one_by_one(query: np.ndarray, label: np.ndarray, metric: Metric) -> float:
    query, label = query.astype(np.float64), label.astype(np.float64)
    if metric == "euclid":
        return float(1 / (1 + np.linalg.norm(query - label)))
    product = float(query @ label)
    lengths = float(np.linalg.norm(query) * np.linalg.norm(label))
    return product if metric == "dot" else product / lengths if lengths else 0.0


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclid"])
@pytest.mark.parametrize("k", [1, 3, 40, 60])
def test_the_join_agrees_with_comparing_every_pair(metric: Metric, k: int) -> None:
    rng = np.random.default_rng(7)
    queries = rng.standard_normal((50, 16)).astype(np.float32)
    labels = rng.standard_normal((40, 16)).astype(np.float32)
    rows, scores = top_matches(queries, labels, k, metric=metric, block=16)
    assert rows.shape == scores.shape == (50, k)
    for at, query in enumerate(queries):
        truth = [one_by_one(query, label, metric) for label in labels]
        best = sorted(truth, reverse=True)[:k]
        found = [row for row in rows[at].tolist() if row != NONE]
        assert len(found) == len(set(found)) == len(best)
        # Some are as near to each other as single precision is to the truth: which of them is first, a processor says.
        np.testing.assert_allclose([truth[row] for row in found], best, rtol=0, atol=1e-6)
        np.testing.assert_allclose(scores[at, : len(best)], best, rtol=1e-4, atol=1e-5)
        assert (rows[at, 40:] == NONE).all()


@given(
    st.lists(st.lists(st.integers(-1, 1), min_size=2, max_size=2), min_size=1, max_size=12),
    st.integers(1, 5),
    st.integers(1, 4),
)
def test_equal_scores_come_by_row(labels: list[list[int]], k: int, block: int) -> None:
    matrix = np.array(labels, np.float32)
    rows, scores = top_matches(np.array([[1, 0], [0, 1], [0, 0]], np.float32), matrix, k, metric="dot", block=block)
    for at, query in enumerate(([1, 0], [0, 1], [0, 0])):
        truth = [float(np.dot(query, label)) for label in labels]
        order = sorted(range(len(labels)), key=lambda row: (-truth[row], row))[:k]
        assert [row for row in rows[at].tolist() if row != NONE] == order
        assert scores[at, : len(order)].tolist() == [truth[row] for row in order]


def test_what_is_below_the_floor_is_no_match() -> None:
    labels = np.array([[1, 0], [0, 1], [-1, 0]], np.float32)
    rows, scores = top_matches(np.array([[2, 0], [0, 0]], np.float32), labels, 3, floor=0.5)
    assert rows.tolist() == [[0, NONE, NONE], [NONE, NONE, NONE]]
    assert scores.tolist() == [[1, 0, 0], [0, 0, 0]]


def test_nothing_joined_with_nothing_is_nothing() -> None:
    empty, some = np.empty((0, 3), np.float32), np.ones((2, 3), np.float32)
    assert top_matches(empty, some, 2)[0].shape == (0, 2)
    assert top_matches(some, empty, 2)[0].tolist() == [[NONE, NONE]] * 2
    with pytest.raises(ValueError, match="one width"):
        top_matches(some, np.ones((2, 4), np.float32), 1)


def test_a_zero_row_stays_zero() -> None:
    unit = unit_rows(np.array([[3, 4], [0, 0]], np.float32))
    assert unit.round(5).tolist() == np.array([[0.6, 0.8], [0, 0]], np.float32).round(5).tolist()
