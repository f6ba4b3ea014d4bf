"""Sentences, passages and highlights: spans that lie in the text, in order, and lose no word."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediatheca.kernel.highlights import Style, candidate_sentences, lexical_fragments, sentence_fragments
from mediatheca.kernel.passages import passages, sentences, word_spans, words

STEADY = settings(max_examples=200, deadline=None, derandomize=True, database=None)
PROSE = st.text(st.sampled_from("ab. !?\n\t。🦊é-"), max_size=300)


def texts(text, spans):
    return [text[start:end] for start, end in spans]


def test_sentences_end_at_marks_empty_lines_and_list_items():
    text = 'One. Two! "Three?" Four… v2.0 is out\n\nFive\n- six\n- seven 狐は速い。犬も。'
    assert texts(text, sentences(text)) == [
        "One.",
        "Two!",
        '"Three?"',
        "Four…",
        "v2.0 is out",
        "Five",
        "- six",
        "- seven 狐は速い。",
        "犬も。",
    ]


@STEADY
@given(PROSE, st.integers(1, 60))
def test_sentences_hold_every_word_and_are_never_too_long(text, longest):
    spans = sentences(text, longest)
    assert all(0 < end - start <= longest for start, end in spans)
    assert all(a[1] <= b[0] for a, b in pairwise(spans))
    assert "".join("".join(text[a:b] for a, b in spans).split()) == "".join(text.split())


@STEADY
@given(PROSE, st.integers(5, 60), st.integers(0, 30))
def test_passages_cover_the_text_and_go_forward(text, size, overlap):
    spans = passages(text, size, overlap)
    assert all(0 < end - start <= size for start, end in spans)
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(spans))
    covered = {at for start, end in spans for at in range(start, end)}
    assert all(char.isspace() or at in covered for at, char in enumerate(text))


def test_a_passage_repeats_the_end_of_the_one_before():
    text = "One one. Two two. Three three. Four four."
    assert texts(text, passages(text, 28, 10)) == [
        "One one. Two two.",
        "Two two. Three three.",
        "Four four.",
    ]
    assert texts(text, passages(text, 20)) == ["One one. Two two.", "Three three.", "Four four."]
    assert passages("", 20) == []


@pytest.mark.parametrize("text", ["", "   ", "\n\n"])
def test_nothing_has_no_pieces(text):
    assert sentences(text) == passages(text, 10) == word_spans(text) == words(text) == []


def test_a_long_text_is_cut_fast():
    assert len(passages("word " * 200_000, 1000)) >= 1000


def test_the_fragment_with_most_different_words_comes_first():
    text = "The fox ran. The fox saw a fox. A red fox jumped."
    found = lexical_fragments(text, {"red", "fox"}, Style(fragment_size=25, pre="[", post="]"))
    assert [entry["fragment"] for entry in found] == [
        "A [red] [fox] jumped.",
        "The [fox] saw a [fox].",
        "The [fox] ran.",
    ]
    assert len(lexical_fragments(text, {"red", "fox"}, Style(fragment_size=25, number=1))) == 1
    assert lexical_fragments(text, {"whale"}, Style()) == []


def test_text_is_escaped_and_marks_are_not():
    style = Style(pre="<mark>", post="</mark>")
    (found,) = lexical_fragments("<script>fox</script> & co", {"fox"}, style)
    assert found["fragment"] == "&lt;script&gt;<mark>fox</mark>&lt;/script&gt; &amp; co"
    (raw,) = lexical_fragments("<b>fox</b>", {"fox"}, Style(pre="*", post="*", escape=False))
    assert raw["fragment"] == "<b>*fox*</b>"


@STEADY
@given(st.text(max_size=200), st.sets(st.text("abf", min_size=1, max_size=3)))
def test_spans_are_places_of_wanted_words_in_the_text(text, wanted):
    for entry in lexical_fragments(text, wanted, Style()):
        assert all(text[start:end].lower() in wanted for start, end in entry["spans"])


def test_a_sentence_is_marked_as_a_whole():
    text = "One. Two two. Three."
    spans = candidate_sentences(text, Style(), 2)
    assert sentence_fragments(text, [spans[1]], Style(pre="[", post="]")) == [
        {"fragment": "[Two two.]", "spans": [[5, 13]]}
    ]
