"""Rank-biased overlap, what moved, and interleaving."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediatheca.kernel.rankings import moves, overlap, rank_biased_overlap, team_draft

lists = st.lists(st.sampled_from("abcdefghij"), max_size=10, unique=True)


def test_rank_biased_overlap_of_the_paper() -> None:
    """Extrapolated values by hand: the sum of agreement at each depth, geometric weights, the last one extrapolated."""
    first, second, p = list("abcdefg"), list("zcavwxy"), 0.9
    agreements = [0, 0, 2 / 3, 2 / 4, 2 / 5, 2 / 6, 2 / 7]
    wanted = (1 - p) * sum(a * p**d for d, a in enumerate(agreements)) + agreements[-1] * p**7
    assert rank_biased_overlap(first, second, p) == pytest.approx(wanted)


@given(lists, st.floats(0.1, 0.95))
def test_a_list_is_like_itself(ranking: list[str], p: float) -> None:
    assert rank_biased_overlap(ranking, ranking, p) == pytest.approx(1.0)


@given(lists, lists, st.floats(0.1, 0.95))
def test_overlap_is_symmetric_and_bounded(first: list[str], second: list[str], p: float) -> None:
    value = rank_biased_overlap(first, second, p)
    assert 0 <= value <= 1 + 1e-12
    assert value == pytest.approx(rank_biased_overlap(second, first, p))


def test_disjoint_and_empty_lists() -> None:
    assert rank_biased_overlap(["a"], ["b"]) == 0
    assert rank_biased_overlap([], ["b"]) == 0
    assert rank_biased_overlap([], []) == 1
    assert overlap([], [], 5) == 1
    assert overlap(["a", "b"], ["b"], 5) == 0.5


def test_a_swap_at_the_top_weighs_more_than_one_at_the_end() -> None:
    base = list("abcdefgh")
    top, end = ["b", "a", *base[2:]], [*base[:6], "h", "g"]
    assert rank_biased_overlap(base, top) < rank_biased_overlap(base, end)


def test_moves_tell_ranks_and_direction() -> None:
    found = moves(["a", "b", "c", "x"], ["c", "a", "b", "y"], 4)
    assert [entry["document_id"] for entry in found["moved"]] == ["c", "a", "b"]
    assert found["moved"][0] == {"document_id": "c", "rank_a": 3, "rank_b": 1, "change": 2}
    assert found["only_in_a"] == [{"document_id": "x", "rank_a": 4}]
    assert found["only_in_b"] == [{"document_id": "y", "rank_b": 4}]


@given(lists, lists, st.integers(0, 99))
def test_team_draft_shows_each_once_and_is_fair(first: list[str], second: list[str], seed: int) -> None:
    draft = team_draft(first, second, 6, random.Random(seed))
    assert len(draft.shown) == len(set(draft.shown)) == min(6, len(set(first) | set(second)))
    assert not draft.first & draft.second
    assert draft.first <= set(first)
    assert draft.second <= set(second)
    if len(first) >= 6 and len(second) >= 6:
        assert abs(len(draft.first) - len(draft.second)) <= 1
