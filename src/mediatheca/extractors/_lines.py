"""Words into fragments, fragments into lines, lines into text; from left to right and from right to left."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from mediatheca.extractors._boxes import Box, Word, both, overlap

_WIDE_GAP = 1.3
"""Of the font's height: wider than any space between words of justified prose, narrower than a gutter."""
_SAME_LINE = 0.5
_CJK = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]")
_WIDE_SPACE = re.compile(rf"(?<={_CJK.pattern}) (?={_CJK.pattern})")
_GARBLED = re.compile(r"[\ufffd\ue000-\uf8ff\U000f0000-\U0010ffff\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]|\(cid:\d+\)")


@dataclass(slots=True)
class Fragment:
    """Words side by side without a wide gap: a line of a column, a cell of a row."""

    words: list[Word]
    box: Box

    @property
    def text(self) -> str:
        return joined(self.words)

    @property
    def size(self) -> float:
        """Height of its font, points."""
        return _usual_size(self.words) or self.box[3] - self.box[1]


@dataclass(slots=True)
class Line:
    """Fragments of one baseline, in reading order."""

    fragments: list[Fragment]
    box: Box

    @property
    def words(self) -> list[Word]:
        return [word for fragment in self.fragments for word in fragment.words]

    @property
    def text(self) -> str:
        return joined(self.words)

    @property
    def size(self) -> float:
        return _usual_size(self.words) or self.box[3] - self.box[1]


def _usual_size(words: Sequence[Word]) -> float:
    """The font of most words: bullets and raised numbers have others."""
    return median(word.size for word in words) if words else 0.0


def fragments_of(words: Sequence[Word]) -> list[Fragment]:
    """Words that follow each other on one line of the file, cut where a wide gap lies between them."""
    made: list[Fragment] = []
    for word in words:
        if made and _continues(made[-1].words[-1], word):
            last = made[-1]
            last.words.append(word)
            last.box = both(last.box, word.box)
        else:
            made.append(Fragment([word], word.box))
    return made


def _continues(before: Word, word: Word) -> bool:
    if before.line != word.line or before.hyphenated:
        return False
    if overlap(before.box[1], before.box[3], word.box[1], word.box[3]) < _SAME_LINE:
        return False
    size = max(before.size, word.size) or word.box[3] - word.box[1]
    gap = max(word.box[0] - before.box[2], before.box[0] - word.box[2])
    return gap <= _WIDE_GAP * size


def lines_of(fragments: Iterable[Fragment]) -> list[Line]:
    """Fragments of about one height become a line; lines from top to bottom."""
    lines: list[Line] = []
    for fragment in sorted(fragments, key=lambda each: (each.box[1] + each.box[3]) / 2):
        line = next((line for line in lines[-3:] if _on(line, fragment)), None)
        if line is None:
            lines.append(Line([fragment], fragment.box))
        else:
            line.fragments.append(fragment)
            line.box = both(line.box, fragment.box)
    for line in lines:
        if len(line.fragments) == 1:
            continue
        backwards = is_right_to_left(line.words)
        line.fragments.sort(key=lambda each: -each.box[2] if backwards else each.box[0])
    return sorted(lines, key=lambda line: line.box[1])


def _on(line: Line, fragment: Fragment) -> bool:
    nearest = line.fragments[-1].box
    return overlap(nearest[1], nearest[3], fragment.box[1], fragment.box[3]) >= _SAME_LINE


def is_right_to_left(words: Iterable[Word]) -> bool:
    """Whether most letters are of scripts such as Arabic and Hebrew."""
    balance = 0
    for word in words:
        if word.text.isascii():
            balance -= any(char.isalpha() for char in word.text)
        else:
            balance += 1 if unicodedata.bidirectional(word.text[0]) in ("R", "AL") else -1
    return balance > 0


def joined(words: Sequence[Word]) -> str:
    """Words of one line with spaces between them, but not between Chinese or Japanese characters."""
    text = " ".join(word.text for word in words)
    return text if text.isascii() else _WIDE_SPACE.sub("", text)


def flowing(lines: Sequence[Line]) -> str:
    """Lines of a paragraph as one text; words divided at the end of a line are put together."""
    text, divided = "", False
    for line in lines:
        following = line.text
        if divided or _is_divided(text, following):
            text = text.removesuffix("-") + following
        else:
            text += following if not text or _touches(text, following) else f" {following}"
        words = line.words
        divided = bool(words) and words[-1].hyphenated
    return text


def _is_divided(text: str, following: str) -> bool:
    return len(text) > 2 and text[-1] == "-" and text[-2].islower() and following[:1].islower()


def _touches(text: str, following: str) -> bool:
    return bool(_CJK.match(text[-1]) and _CJK.match(following))


def garbled(text: str) -> float:
    """Share of characters that stand for nothing readable: a font without a table of its characters."""
    return min(len(_GARBLED.findall(text)) / len(text), 1.0) if text else 0.0


def usual_gap(lines: Sequence[Line]) -> float:
    """The median distance between a line and the one below it, points; 0 for a single line."""
    gaps = [below.box[1] - above.box[3] for above, below in pairwise(lines)]
    near = [gap for gap, line in zip(gaps, lines, strict=False) if gap < 2 * line.size]
    return median(near) if near else 0.0
