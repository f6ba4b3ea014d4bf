"""A text in pieces: its words, its sentences, and passages of a given size. Pure.

Pieces are spans: `text[start:end]`, in code points, without white space at the ends.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass
from typing import Literal, TypeAlias

Span: TypeAlias = tuple[int, int]

_WORD = re.compile(r"\w+")
_END = re.compile(r"(?<![.!?…])[.!?…]++[\"'»”’)\]]*+\s+|[。！？]+|\n\s*\n|\n(?=\s*[-*•])")
"""Where a sentence ends: at its mark before white space, at a CJK mark, at an empty line or before a list item.
In linear time, whatever stands in a row: no run of marks is tried from its middle."""
_SPACE = re.compile(r"\s")


@dataclass(frozen=True, slots=True)
class TextCutting:
    """How a text is cut: into sentences, or into passages of whole sentences, of at most `size` characters."""

    method: Literal["sentences", "passages"] = "passages"
    size: int = 1000
    overlap: int = 0
    """Characters of a passage that may be repeated from the one before, at most half of it."""

    def spans(self, text: str) -> list[Span]:
        if self.method == "sentences":
            return sentences(text, self.size)
        return passages(text, self.size, min(self.overlap, self.size // 2))


def word_spans(text: str) -> list[Span]:
    """Where the words stand: letters, digits and underscores in a row."""
    return [match.span() for match in _WORD.finditer(text)]


def words(text: str) -> list[str]:
    """The words, in lower case."""
    return _WORD.findall(text.lower())


def sentences(text: str, longest: int = 500) -> list[Span]:
    """The sentences; one of more than `longest` characters is cut at white space, or anywhere without any."""
    found: list[Span] = []
    start = 0
    for match in _END.finditer(text):
        found += _cut(text, start, match.end(), longest)
        start = match.end()
    return found + _cut(text, start, len(text), longest)


def passages(text: str, size: int, overlap: int = 0) -> list[Span]:
    """Runs of whole sentences of at most `size` characters; each begins with up to `overlap` of the one before."""
    parts = sentences(text, size)
    found: list[Span] = []
    first = 0
    while first < len(parts):
        start = parts[first][0]
        last = first
        while last + 1 < len(parts) and parts[last + 1][1] - start <= size:
            last += 1
        found.append((start, parts[last][1]))
        if last + 1 == len(parts):
            break
        first = _begin(parts, last, size, overlap)
    return found


def _begin(parts: list[Span], last: int, size: int, overlap: int) -> int:
    """The sentence the next passage begins with: it must have room for the one after `last`."""
    earliest = max(parts[last][1] - overlap, parts[last + 1][1] - size)
    return min(bisect_left(parts, earliest, key=lambda part: part[0]), last + 1)


def _cut(text: str, start: int, end: int, longest: int) -> list[Span]:
    found: list[Span] = []
    while True:
        start, end = _stripped(text, start, end)
        if end <= start:
            return found
        if end - start <= longest:
            return [*found, (start, end)]
        at = start + longest
        spaces = [match.start() for match in _SPACE.finditer(text, start + longest // 2, at)]
        at = spaces[-1] if spaces else at
        found.append(_stripped(text, start, at))
        start = at


def _stripped(text: str, start: int, end: int) -> Span:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
