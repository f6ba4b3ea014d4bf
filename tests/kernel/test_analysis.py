"""Languages of text fields, and words that stand next to each other."""

from __future__ import annotations

from collections import Counter

import pytest

from mediatheca.kernel.analysis import Analysis, language_of, phrase_share
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.highlights import Style, lexical_fragments
from mediatheca.kernel.lexical import rank_texts
from mediatheca.kernel.search import TextQuery

STOP = {"the", "of"}


def stems(text: str) -> Counter[str]:
    """A toy language: plural endings and two stop words."""
    return Counter(word.rstrip("s") for word in text.lower().split() if word not in STOP)


ANALYSIS = Analysis(lambda text: Counter(text.lower().split()), {"body": stems})


@pytest.mark.parametrize(("raw", "name"), [("en", "english"), ("English", "english"), ("multilingual", ""), (None, "")])
def test_a_language_is_known_by_name_and_code(raw, name):
    assert language_of(raw, "language") == name


@pytest.mark.parametrize("raw", ["klingon", 5, ["en"], "eng"])
def test_an_unknown_language_is_refused_with_those_known(raw):
    with pytest.raises(ValidationError, match=r"language.*english"):
        language_of(raw, "language")


def test_the_share_of_neighbours_counts_pairs_in_their_order():
    assert phrase_share(["a", "b", "c"], [["x", "a", "b", "c"]]) == 1.0
    assert phrase_share(["a", "b", "c"], [["b", "a"], ["b", "c", "a"]]) == 0.5
    assert phrase_share(["a", "b"], [["b", "a"]]) == 0.0
    assert phrase_share(["a"], [["a"]]) == 0.0
    assert phrase_share(["a", "b"], []) == 0.0


def test_stop_words_are_silent_only_where_every_field_says_so():
    assert ANALYSIS.silent("the", ["body"])
    assert not ANALYSIS.silent("the", ["body", "title"])
    assert not ANALYSIS.silent("fox", ["body"])
    assert ANALYSIS.keys("body", "the Foxes of Boxes") == ANALYSIS.keys("body", "foxe boxe")


def ranked(query: TextQuery, *texts: str) -> list[int]:
    def read():
        return ((n, {"body": [text]}, lambda: True) for n, text in enumerate(texts))

    found, _ = rank_texts(query, ["body"], read, ANALYSIS)
    return [entry.key for entry in found]


def test_texts_without_an_index_are_ranked_by_the_words_of_their_language():
    assert ranked(TextQuery("cats", 9), "a cat", "the dog") == [0]
    assert ranked(TextQuery("the cats", 9, minimum=2), "a cat", "the dog") == [0]
    assert ranked(TextQuery("the", 9, fuzziness="auto"), "then", "he") == []
    assert ranked(TextQuery("cats dogz", 9, fuzziness="auto"), "the cat", "the dogs") == [0, 1]


def test_neighbouring_words_lift_a_text_without_an_index_too():
    texts = ("cat dog dog cat here", "dog cat cat dog dog", "cat bird")
    plain, lifted = ranked(TextQuery("dogs cats", 9), *texts), ranked(TextQuery("dogs cats", 9, phrase=9.0), *texts)
    assert sorted(plain) == sorted(lifted)
    assert ranked(TextQuery("cats birds", 1, phrase=9.0), *texts) == [2]


def test_fragments_mark_words_that_are_alike():
    def alike(word: str) -> str | None:
        return next(iter(stems(word)), None)

    (fragment,) = lexical_fragments("The cats of London", ["cat", "the"], Style(), alike)
    assert fragment["fragment"] == "The <em>cats</em> of London"
    assert lexical_fragments("The cats of London", ["cat"], Style()) == []
