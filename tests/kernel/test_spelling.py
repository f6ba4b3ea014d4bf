"""Typos: which words are near, in which order, and which are never touched."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import OSA

from mediatheca.kernel.spelling import (
    Vocabulary,
    allowed_edits,
    correctable,
    corrected,
    cut_words,
    spellings,
    vocabulary_of,
)

WORDS = ("harbour", "harbours", "harbor", "arbour", "barbour", "haarlem", "whale", "while", "whole", "shale", "Wal")
STEADY = settings(max_examples=150, deadline=None, derandomize=True, database=None)
word = st.text("abcdeghlorsu", min_size=3, max_size=9)


def spelled(text, fuzziness="auto", known=WORDS):
    vocabulary = Vocabulary(known)
    return spellings(text, fuzziness, vocabulary, vocabulary.__contains__, lambda w: 1 if w in known else 0)


@STEADY
@given(st.lists(word, min_size=1, max_size=40), word, st.integers(1, 2))
def test_near_words_are_exactly_those_within_the_distance(known, asked, edits):
    vocabulary = Vocabulary(known)
    found = {(n, other) for n, others in vocabulary.near(asked, edits).items() for other in others}
    assert found == {(n, other) for other in set(known) if 0 < (n := OSA.distance(asked, other)) <= edits}


@STEADY
@given(st.lists(word, max_size=40), st.text("abcde", min_size=1, max_size=3))
def test_completions_are_exactly_the_longer_words_with_that_beginning(known, prefix):
    found = Vocabulary(known).starting(prefix, 100)
    assert set(found) == {w for w in known if w.startswith(prefix) and w != prefix}
    assert [len(w) for w in found] == sorted(len(w) for w in found)


def test_words_may_be_added_at_any_time():
    vocabulary = Vocabulary(["whale"])
    assert vocabulary.near("whlae", 1) == {1: ["whale"]}
    assert vocabulary.add(["whale", "whaled"]) == ["whaled"]
    assert vocabulary.near("whlaed", 1) == {1: ["whaled"]}
    assert len(vocabulary) == 2


def test_only_words_of_letters_are_corrected():
    assert correctable("harbour")
    for other in ("ab", "ab12", "1234", "ab_cd", "狐は速い", "ภาษาไทย", "a" * 40):
        assert not correctable(other)
    assert vocabulary_of("AB-1234 costs 12.5 don't x harbour_2") == {"costs", "don"}


def test_words_beside_digits_are_left_alone():
    assert spelled("harbuor-12").corrections == {}
    assert spelled("harbuor 12").corrections == {"harbuor": "harbour"}


def test_short_words_have_no_typos_and_longer_ones_more():
    assert [allowed_edits("x" * n, "auto") for n in (3, 4, 5, 6, 12)] == [0, 1, 1, 2, 2]
    assert [allowed_edits("x" * n, 2) for n in (3, 4, 5, 12)] == [1, 1, 2, 2]
    assert [allowed_edits("x" * n, 1) for n in (3, 12)] == [1, 1]
    assert allowed_edits("harbour", 0) == 0


def test_a_word_that_stands_somewhere_is_left_as_it_is():
    found = spelled("whale harbour")
    assert [bucket.groups for bucket in found.buckets] == [(("whale",), ("harbour",))]
    assert found.corrections == {}


def test_buckets_go_from_exact_to_two_typos():
    levels = {bucket.level: bucket.groups for bucket in spelled("harbour", 2).buckets}
    assert levels[0] == (("harbour",),)
    assert levels[1] == (("harbours",),)
    assert set(levels[2][0]) == {"harbor", "barbour", "arbour"}
    assert levels[2][0][0] == "harbor"  # a typo in the first letter is rarer


def test_only_the_missing_word_of_a_query_is_replaced():
    found = spelled("whale hrabour")
    assert found.buckets[0].groups == (("whale",), ("harbour",))
    assert found.corrections == {"hrabour": "harbour"}
    assert found.buckets[0].level == 2


def test_a_query_of_nothing_has_nothing_to_correct():
    for text in ("", "   ", "!?", "🦊"):
        assert spelled(text).corrections == {}


def test_the_suggestion_keeps_everything_else():
    assert corrected("Where is the Hrabour?!", {"hrabour": "harbour"}) == "Where is the harbour?!"


def test_a_text_is_cut_at_a_number_of_different_words():
    assert cut_words("a b A b c d", 2) == ("a b A b ", 4)
    assert cut_words("a b", 2) == ("a b", 2)
    assert cut_words("", 2) == ("", 0)
