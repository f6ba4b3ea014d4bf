"""Cutting texts into chunks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediatheca.extractors._splitting import SplitBy, split

MARKDOWN = """Preface before any heading.

# Guide

## Install #

Run this:

```bash
# not a heading
pip install thing
```

Then restart.

## Empty

### Deep ###
Text below deep.

Second title
============

~~~
no language
~~~
"""


def texts(text: str, by: SplitBy, size: int = 1, overlap: int = 0) -> list[str]:
    return [chunk.text for chunk in split(text, by, size, overlap)]


units: st.SearchStrategy[SplitBy] = st.sampled_from(
    ["none", "characters", "words", "sentences", "paragraphs", "pages", "markdown"]
)
prose = st.text(
    st.one_of(st.sampled_from(list(" \n\t\f.!?#`~=-。¿aA1")), st.characters(exclude_categories=["Cs"])), max_size=200
)


@given(prose, units, st.integers(1, 12), st.integers(0, 11))
def test_every_chunk_lies_where_it_says_and_nothing_is_lost(text: str, by: SplitBy, size: int, overlap: int) -> None:
    chunks = list(split(text, by, size, min(overlap, size - 1)))
    covered: set[int] = set()
    for chunk in chunks:
        assert chunk.text == text[chunk.start : chunk.end] == chunk.text.strip() != ""
        covered.update(range(chunk.start, chunk.end))
    if by != "markdown":  # there, headings and fences are told by heading_path and kind instead
        assert all(i in covered or text[i].isspace() for i in range(len(text)))
    assert [chunk.start for chunk in chunks] == sorted(chunk.start for chunk in chunks)


@given(prose, st.sampled_from(["characters", "words"]), st.integers(2, 9))
def test_overlap_repeats_and_the_last_chunk_is_never_only_a_repetition(text: str, by: SplitBy, size: int) -> None:
    ends = [chunk.end for chunk in split(text, by, size, size - 1)]
    assert len(ends) == len(set(ends)) or by == "characters"  # white space at an edge can trim to the same end


def test_none_is_the_whole_text_without_white_space_at_its_ends() -> None:
    (chunk,) = split("  a text \n", "none", 5)
    assert (chunk.text, chunk.start, chunk.end) == ("a text", 2, 8)


def test_characters_words_and_overlap() -> None:
    assert texts("abcdefg", "characters", 3) == ["abc", "def", "g"]
    assert texts("abcdefg", "characters", 4, 2) == ["abcd", "cdef", "efg"]
    assert texts("one two  three four", "words", 3, 1) == ["one two  three", "three four"]
    assert texts("a b", "words", 10) == ["a b"]


def test_a_chinese_or_japanese_character_counts_as_a_word() -> None:
    assert texts("猫はかわいい cat", "words", 3) == ["猫はか", "わいい", "cat"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("Dr. Smith met J. R. Tolkien. They ate.", ["Dr. Smith met J. R. Tolkien.", "They ate."]),
        ("It costs 3.50 euros. Cheap, e.g. for a gift.", ["It costs 3.50 euros.", "Cheap, e.g. for a gift."]),
        ("See fig. 3 and No. 5 there. He said no. So.", ["See fig. 3 and No. 5 there.", "He said no.", "So."]),
        ("Am 3. Oktober z. B. ist frei. Gut.", ["Am 3. Oktober z. B. ist frei.", "Gut."]),
        ("¿Cómo estás? ¡Bien! Gracias.", ["¿Cómo estás?", "¡Bien!", "Gracias."]),
        ("El Sr. Ruiz vive en EE.UU. desde 1999. Trabaja.", ["El Sr. Ruiz vive en EE.UU. desde 1999.", "Trabaja."]),
        ("今日は晴れ。明日は雨！本当？はい", ["今日は晴れ。", "明日は雨！", "本当？", "はい"]),
        ("「行こう。」彼は言った。", ["「行こう。」", "彼は言った。"]),
        ('He asked "why?" and left. "Go!" she said.', ['He asked "why?" and left.', '"Go!" she said.']),
        ("Wait... what? Hm… well. Done.", ["Wait... what?", "Hm… well.", "Done."]),
        ("Title without stop\n\nA paragraph. Two.", ["Title without stop", "A paragraph.", "Two."]),
        ("क्या हाल है। ठीक।", ["क्या हाल है।", "ठीक।"]),
    ],
)
def test_sentences_end_where_a_reader_would_end_them(text: str, expected: list[str]) -> None:
    assert texts(text, "sentences") == expected


def test_paragraphs_and_pages() -> None:
    assert texts("a\nb\n\n \n\nc", "paragraphs") == ["a\nb", "c"]
    assert texts("a\r\n\r\nb", "paragraphs") == ["a", "b"]
    assert texts("page one\fpage two\f\f", "pages") == ["page one", "page two"]


def test_markdown_keeps_headings_code_and_language() -> None:
    chunks = [(c.text, c.heading_path, c.kind, c.code_language) for c in split(MARKDOWN, "markdown", 1000)]
    assert chunks == [
        ("Preface before any heading.", (), "section", ""),
        ("## Install #\n\nRun this:", ("Guide", "Install"), "section", ""),
        ("# not a heading\npip install thing", ("Guide", "Install"), "code", "bash"),
        ("Then restart.", ("Guide", "Install"), "section", ""),
        ("### Deep ###\nText below deep.", ("Guide", "Empty", "Deep"), "section", ""),
        ("no language", ("Second title",), "code", ""),
    ]


def test_a_markdown_section_longer_than_the_limit_is_cut_between_paragraphs() -> None:
    text = "# T\n\n" + "\n\n".join(["p" * 30] * 4)
    pieces = texts(text, "markdown", 70)
    assert pieces == ["# T\n\n" + "p" * 30 + "\n\n" + "p" * 30, "p" * 30 + "\n\n" + "p" * 30]
    assert all(len(piece) <= 70 for piece in texts("x" * 500, "markdown", 70, 10))


def test_a_fence_that_is_never_closed_runs_to_the_end() -> None:
    chunks = list(split("# A\n```py\nx = 1\n# B\n", "markdown", 100))
    assert [(c.text, c.kind) for c in chunks] == [("x = 1\n# B", "code")]


def test_headings_alone_are_still_a_chunk() -> None:
    assert texts("# Only\n## Headings\n", "markdown", 100) == ["# Only\n## Headings"]


@pytest.mark.parametrize("by", ["sentences", "paragraphs", "words", "markdown"])
@pytest.mark.parametrize("hostile", [". " * 50_000, "\n \n" * 50_000, "a." * 50_000, "#" * 100_000, "`" * 100_000])
@pytest.mark.timeout(120)
def test_hostile_text_takes_no_more_than_linear_time(by: SplitBy, hostile: str) -> None:
    assert sum(len(chunk.text) for chunk in split(hostile, by, 100)) <= len(hostile)
