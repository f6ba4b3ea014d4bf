"""BM25 by hand."""

from __future__ import annotations

import math

import pytest

from mediatheca.kernel.lexical import Bm25, bm25


def test_a_rarer_word_a_shorter_text_and_more_of_the_word_score_higher() -> None:
    texts = [["red", "fox"], ["red", "red"], ["red", "fox", "and", "more", "words"], ["blue"]]
    scores = bm25(["red"], texts)
    assert scores[1] > scores[0] > scores[2] > scores[3] == 0
    assert bm25(["fox"], texts)[0] > scores[0]


def test_the_score_is_the_formula() -> None:
    (score, _) = bm25(["red"], [["red", "red", "fox"], ["blue"]])
    weight = math.log(1 + (2 - 1 + 0.5) / (1 + 0.5))
    assert score == pytest.approx(weight * 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 3 / 2)))


def test_texts_without_words_count_for_nothing_and_words_of_a_query_count_once() -> None:
    texts = [["red", "fox"], ["blue"]]
    assert bm25(["red"], [*texts, [], []])[:2] == bm25(["red"], texts)
    assert bm25(["red", "red"], texts) == bm25(["red"], texts)
    assert bm25([], texts) == [0, 0]
    assert bm25(["red"], []) == []


def test_only_texts_that_hold_a_word_have_a_score() -> None:
    ranking: Bm25[str] = Bm25([1, 2])
    assert [ranking.add("a", {1: 2, 9: 1}), ranking.add("b", {9: 4}), ranking.add("c", {})] == [True, False, False]
    assert ranking.scores().keys() == {"a"}
