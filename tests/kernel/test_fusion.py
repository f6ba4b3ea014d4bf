"""Fusion: the published numbers, and a total order."""

from __future__ import annotations

import random

import pytest

from mediatheca.kernel.fusion import dbsf_scale, fuse, min_max

A = [("a", 0.92), ("b", 0.90), ("c", 0.40)]
B = [("c", 0.31), ("a", 0.30), ("d", 0.10)]


@pytest.mark.parametrize(
    ("strategy", "weights", "expected"),
    [
        ("rrf", None, [("a", 0.032522), ("c", 0.032266), ("b", 0.016129), ("d", 0.015873)]),
        ("rrf", [0.7, 0.3], [("a", 0.016314), ("c", 0.016029), ("b", 0.011290), ("d", 0.004762)]),
        ("dbsf", None, [("a", 1.190931), ("c", 0.910835), ("b", 0.590513), ("d", 0.307721)]),
        ("minmax", None, [("a", 1.952381), ("c", 1.0), ("b", 0.961538), ("d", 0.0)]),
        ("weighted", [0.7, 0.3], [("a", 0.734), ("b", 0.630), ("c", 0.373), ("d", 0.030)]),
        ("max", None, [("a", 0.92), ("b", 0.90), ("c", 0.40), ("d", 0.10)]),
    ],
)
def test_every_strategy_gives_the_reference_numbers(strategy, weights, expected):
    fused = fuse(strategy, [A, B], weights)
    assert [(entry.key, round(entry.score, 6)) for entry in fused] == expected


def test_a_fused_entry_keeps_rank_raw_score_and_contribution_of_every_ranking():
    top = fuse("rrf", [A, B])[0]
    assert (top.ranks, top.raw) == ({0: 1, 1: 2}, {0: 0.92, 1: 0.30})
    assert sum(top.contributions.values()) == pytest.approx(top.score)


def test_k_changes_the_weight_of_ranks():
    assert fuse("rrf", [A], k=1)[0].score == pytest.approx(0.5)


def test_ties_go_to_the_earliest_ranking_then_the_key():
    fused = fuse("rrf", [[("z", 1.0)], [("b", 1.0)], [("a", 1.0)]])
    assert [entry.key for entry in fused] == ["z", "b", "a"]
    assert [entry.key for entry in fuse("max", [[("b", 0.5), ("a", 0.5)]])] == ["b", "a"]


def test_the_order_does_not_depend_on_the_order_of_work():
    rng = random.Random(1)
    rankings = [[(f"k{n}", 1.0) for n in rng.sample(range(50), 30)] for _ in range(3)]
    keys = [entry.key for entry in fuse("rrf", rankings)]
    assert len(keys) == len(set(keys))
    assert keys == [entry.key for entry in fuse("rrf", rankings)]


def test_a_single_score_or_equal_scores_are_never_zero():
    assert dbsf_scale([0.2]) == [0.5]
    assert dbsf_scale([0.2, 0.2]) == [0.5, 0.5]
    assert min_max([0.3, 0.3]) == [1.0, 1.0]
    assert (dbsf_scale([]), min_max([])) == ([], [])
    assert fuse("dbsf", [[("only", 0.01)]])[0].score == 0.5


def test_an_outlier_is_clipped_to_the_range():
    assert all(0.0 <= value <= 1.0 for value in dbsf_scale([0.0] * 50 + [1000.0]))


def test_a_key_twice_in_one_ranking_counts_once_with_its_best_rank():
    assert fuse("rrf", [[("a", 0.9), ("a", 0.1)]])[0].score == pytest.approx(1 / 61)


def test_weighted_scales_rankings_of_another_kind_first():
    fused = fuse("weighted", [[("a", 0.9), ("b", 0.8)], [("b", 31.0), ("a", 2.0)]], normalize=frozenset({1}))
    assert [(entry.key, entry.score) for entry in fused] == [("b", 1.8), ("a", 0.9)]


def test_no_rankings_give_nothing():
    assert fuse("rrf", []) == []
    assert fuse("rrf", [[], []]) == []
