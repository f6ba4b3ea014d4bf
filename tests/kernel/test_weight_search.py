"""Weights that rank judged documents best, chosen on other queries than those they are measured on."""

from __future__ import annotations

import numpy as np
import pytest

from mediatheca.kernel.fusion import fuse
from mediatheca.kernel.metrics import judge, ndcg
from mediatheca.kernel.weight_search import best, candidates, cross_fitted, named, ndcg_of, trial


@pytest.mark.parametrize("arms", [2, 3, 4, 10])
def test_candidates_sum_to_one_and_begin_with_equal_weights(arms: int) -> None:
    found = candidates(arms, low=0.05, high=0.95)
    assert found.sum(axis=1) == pytest.approx(np.ones(len(found)))
    assert found[0] == pytest.approx(np.full(arms, 1 / arms))
    assert found.min() > 0
    assert len(np.unique(found, axis=0)) == len(found)
    assert np.array_equal(found, candidates(arms, low=0.05, high=0.95))


def test_the_metric_is_that_of_the_fusion_which_serves() -> None:
    generator = np.random.default_rng(2)
    for _ in range(30):
        ids = [f"d{n}" for n in range(12)]
        raw = {i: {arm: float(generator.random()) for arm in "xy" if generator.random() < 0.8} for i in ids}
        found = {ident: scores for ident, scores in raw.items() if scores}
        grades = {ident: int(generator.integers(0, 4)) for ident in ids}
        weights = candidates(2, low=0.05, high=0.95)
        own = {"x": 1.0, "y": 0.5}
        values = ndcg_of(trial(found, own, grades, 5), weights, 5)
        for number in (0, 7, len(weights) - 1):
            rankings = [sorted(((i, s[a]) for i, s in found.items() if a in s), key=lambda p: -p[1]) for a in "xy"]
            used = [w * own[a] for w, a in zip(weights[number], "xy", strict=True)]
            served = [entry.key for entry in fuse("minmax", rankings, used)]
            assert values[number] == pytest.approx(ndcg(judge(served, grades), 5))


def test_the_arm_that_knows_gets_the_weight() -> None:
    found = {f"d{n}": {"good": (1.0 - n / 10) ** 2, "bad": n / 10} for n in range(10)}
    weights = candidates(2, low=0.05, high=0.95)
    values = np.vstack([ndcg_of(trial(found, {"good": 1, "bad": 1}, {"d1": 3}, 10), weights, 10)] * 6)
    chosen = named(weights[best(values)], ["good", "bad"])
    assert chosen["good"] > chosen["bad"]


def test_equal_results_go_to_equal_weights() -> None:
    assert best(np.ones((4, 9))) == 0


def test_no_query_takes_part_in_choosing_its_own_weights() -> None:
    """Query 0 alone likes candidate 1; all others are against it. It gets what the others choose."""
    values = np.array([[0.0, 1.0], *[[0.6, 0.5]] * 9])
    chosen = cross_fitted(values)
    assert chosen[0] == 0
    assert best(np.array([[0.0, 1.0], [0.6, 0.5]])) == 1
    lonely = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert cross_fitted(lonely) == [1, 0]


def test_queries_without_documents_or_judgments_count_nothing() -> None:
    weights = candidates(2, low=0.05, high=0.95)
    assert not ndcg_of(trial({}, {"x": 1, "y": 1}, {"d": 1}, 5), weights, 5).any()
    assert not ndcg_of(trial({"d": {"x": 1.0}}, {"x": 1, "y": 1}, {"d": 0}, 5), weights, 5).any()
