"""Normalising scores and picking for diversity: the published vectors, and what must hold for any scores."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage_runs import NORMALISED, STEADY

from mediatheca.kernel.diversity import by_blocks, by_values, by_vectors, mmr, weighted
from mediatheca.kernel.normalise_scores import l2, min_max, normalise, softmax, z_score

SCORES = [0.92, 0.90, 0.40]
RELEVANCE = [0.95, 0.90, 0.82, 0.40]  # a b c d
SIMILAR = np.array([[1, 0.98, 0.30, 0.1], [0.98, 1, 0.32, 0.1], [0.30, 0.32, 1, 0.2], [0.1, 0.1, 0.2, 1]])


@pytest.mark.parametrize(("method", "expected"), NORMALISED)
def test_every_method_gives_the_known_numbers(method, expected):
    assert normalise(method, SCORES) == pytest.approx(expected, abs=1e-6)
    assert normalise(method, []) == []


def test_equal_scores_and_a_single_one_have_a_defined_place():
    assert min_max([0.3]) == [1.0]
    assert min_max([0.3, 0.3]) == [1.0, 1.0]
    assert z_score([0.3, 0.3]) == [0.0, 0.0]
    assert softmax([0.3, 0.3]) == [0.5, 0.5]
    assert l2([0.0, 0.0]) == [0.0, 0.0]


def test_known_ends_of_the_scale_let_all_scores_be_low():
    assert min_max([0.2, 0.1], low=0, high=1) == pytest.approx([0.2, 0.1])
    assert min_max([5, -5], low=0, high=1) == [1.0, 0.0]
    assert min_max([0.5, 0.25], high=1) == pytest.approx([1 / 3, 0.0])
    assert min_max([2.0, 3.0], low=4) == [0.0, 0.0]


@STEADY
@given(st.lists(st.floats(-1e6, 1e6), max_size=20), st.sampled_from(["min_max", "z_score", "softmax", "l2"]))
def test_normalising_never_turns_two_scores_round(scores, method):
    made = normalise(method, scores)
    for one, other in pairwise(range(len(scores))):
        assert scores[one] <= scores[other] or made[one] >= made[other]


@pytest.mark.parametrize(("balance", "expected"), [(0.7, "acbd"), (0.5, "acdb"), (0.3, "adcb")])
def test_mmr_picks_in_the_known_order(balance, expected):
    picked = mmr(RELEVANCE, lambda index: SIMILAR[index], balance, 4)
    assert "".join("abcd"[place] for place, _ in picked) == expected
    if balance == 0.7:
        assert [score for _, score in picked] == pytest.approx([0.665, 0.484, 0.336, 0.220], abs=1e-9)


@STEADY
@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=30).map(lambda values: sorted(values, reverse=True)),
    st.floats(0, 1),
    st.integers(1, 40),
    st.integers(0, 5),
)
def test_mmr_agrees_with_the_definition_computed_in_full(relevance, balance, count, seed):
    matrix = np.random.default_rng(seed).normal(size=(len(relevance), 4))
    full = by_vectors(matrix, "cosine", 1)
    similarity = np.stack([full(place) for place in range(len(relevance))]).astype(float)
    expected: list[int] = []
    while len(expected) < min(count, len(relevance)):
        best, best_value = -1, -np.inf
        for place, score in enumerate(relevance):
            if place in expected:
                continue
            nearest = max((similarity[other, place] for other in expected), default=0.0)
            nearest = max(nearest, 0.0)
            value = balance * score - (1 - balance) * nearest
            if value > best_value:
                best, best_value = place, value
        expected.append(best)
    picked = mmr(relevance, full, balance, count)
    assert [place for place, _ in picked] == expected
    values = [value for _, value in picked]
    assert all(earlier >= later for earlier, later in pairwise(values))


def test_similarities_by_rows_and_by_the_whole_matrix_are_the_same():
    matrix = np.random.default_rng(0).normal(size=(200, 16))
    for metric in ("cosine", "dot", "euclidean"):
        rows, whole = by_vectors(matrix, metric, 5), by_vectors(matrix, metric, 500)
        assert rows(7) == pytest.approx(whole(7), abs=1e-4)
    assert by_vectors(matrix, "cosine", 5)(7)[7] == pytest.approx(1.0, abs=1e-5)
    assert by_vectors(matrix, "euclidean", 5)(7)[7] == pytest.approx(1.0, abs=1e-2)


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_a_candidate_without_a_vector_is_like_nothing(metric):
    similar = by_vectors(np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]), metric, 3)
    assert similar(1).tolist() == [0.0, 0.0, 0.0]
    assert similar(0)[1] == 0.0


def test_fields_are_alike_where_their_values_are_equal_and_known():
    similar = by_values([["x", "x", "y", None, None], [[1], [1], [1], [2], None]], [3, 1])
    assert similar(0).tolist() == [1.0, 1.0, 0.25, 0.0, 0.0]
    assert similar(4).tolist() == [0.0] * 5


def test_weights_are_relative_and_spaces_do_not_mix():
    one, other = (lambda index: np.array([1.0, 0.0])), (lambda index: np.array([0.0, 1.0]))
    assert weighted([(3, one), (1, other)])(0).tolist() == [0.75, 0.25]
    blocks = [(np.array([0, 2]), lambda index: np.array([0.5, 0.6])), (np.array([1]), lambda index: np.array([0.9]))]
    assert by_blocks(blocks, 4)(2).tolist() == [0.5, 0.0, 0.6, 0.0]
    assert by_blocks(blocks, 4)(3).tolist() == [0.0] * 4
