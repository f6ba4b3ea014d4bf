"""Cutting a text into chunks. Every chunk knows where it lies in the text: `text[start:end]` is the chunk."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Span: TypeAlias = tuple[int, int]
"""Start and end in code points."""

SplitBy: TypeAlias = Literal["none", "characters", "words", "sentences", "paragraphs", "pages", "markdown"]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a text; the last three belong to Markdown."""

    text: str
    start: int
    end: int
    heading_path: tuple[str, ...] = ()
    kind: Literal["", "section", "code"] = ""
    code_language: str = ""


def split(text: str, by: SplitBy, size: int, overlap: int = 0) -> Iterator[Chunk]:
    """Chunks of `size` units, each beginning with the last `overlap` units of the one before.

    Units: characters, words (a CJK character counts as one), sentences, paragraphs (blank line between them), pages
    (form feed between them). `none`: the whole text. `markdown`: sections and code blocks, cut at `size` characters.
    Chunks carry no white space at their ends; a text of nothing but white space has none.
    """
    if by == "markdown":
        from mediatheca.extractors._markdown import split_markdown

        yield from split_markdown(text, size, overlap)
        return
    for start, end in _spans(text, by, size, overlap):
        yield from trimmed(text, start, end)


def _spans(text: str, by: SplitBy, size: int, overlap: int) -> Iterator[Span]:
    if by == "none":
        return iter([(0, len(text))])
    if by == "characters":
        return character_windows(0, len(text), size, overlap)
    return _windows(_UNITS[by](text), size, overlap)


def trimmed(text: str, start: int, end: int) -> Iterator[Chunk]:
    """The chunk of a span without white space at its ends, or nothing."""
    piece = text[start:end]
    body = piece.strip()
    if body:
        start += len(piece) - len(piece.lstrip())
        yield Chunk(body, start, start + len(body))


def character_windows(start: int, end: int, size: int, overlap: int) -> Iterator[Span]:
    """Spans of at most `size` characters over a longer one."""
    while True:
        yield start, min(start + size, end)
        if start + size >= end:
            return
        start += size - overlap


def _windows(units: Sequence[Span], size: int, overlap: int) -> Iterator[Span]:
    """Spans over `size` units each; the last one is never only a repetition of the one before."""
    for first in range(0, len(units), size - overlap):
        last = min(first + size, len(units)) - 1
        yield units[first][0], units[last][1]
        if last == len(units) - 1:
            return


_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\s\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
_BLANK = re.compile(r"\n[ \t\r]*\n\s*")

_END = re.compile(r"(?<![.!?…؟۔।])[.!?…؟۔।]++[\"'”’»)\]]*+(?=\s)|[。！？｡]+[」』”’）]*|\n[ \t\r]*\n")
_BEFORE = re.compile(r"([\w.]+)$")
_SMALL = re.compile(r"\s*[\"'“„‘«(\[¿¡-]*[a-zà-öø-ÿ]")

_ENGLISH = (
    "mr mrs ms dr prof st sr jr vs etc fig figs vol pp approx dept est inc ltd corp gen col sgt capt rev hon cf eq eds "
    "jan feb apr jun jul aug sep sept oct nov dec e.g i.e u.s u.k u.n a.m p.m ph.d"
)
_GERMAN = "bzw ca usw vgl abb bd hrsg evtl ggf sog inkl zzgl geb gest hr dipl bspw z.b d.h u.a i.d.r o.ä s.o s.u"
_ROMANCE = "sra srta ud uds pág págs núm av avda dra dña ee.uu mme mlle env p.ex sig sigg dott ecc n.b p.s"
_ABBREVIATIONS = frozenset(f"{_ENGLISH} {_GERMAN} {_ROMANCE}".split())
_BEFORE_NUMBERS = frozenset({"no", "nos", "nr", "art", "abs", "ed", "str", "mar", "ex"})
"""Words of their own, but abbreviations where a number follows: `No. 5`."""


def _sentences(text: str) -> list[Span]:
    """Ends at a stop, unless an abbreviation, initial or number owns it, or small letters follow."""
    spans: list[Span] = []
    start = 0
    for match in _END.finditer(text):
        if _is_end(text, start, match):
            spans.append((start, match.end()))
            start = match.end()
    if start < len(text):
        spans.append((start, len(text)))
    return [span for span in spans if not text[slice(*span)].isspace()]


def _is_end(text: str, start: int, match: re.Match[str]) -> bool:
    mark = match.group()
    if mark[0] in "\n。！？｡":
        return True
    if _SMALL.match(text, match.end()):
        return False
    before = _BEFORE.search(text, max(start, match.start() - 24), match.start())
    if mark[0] != "." or mark.startswith("..") or before is None:
        return True
    return not _abbreviated(before.group(1), text[match.end() : match.end() + 2].strip().isdigit())


def _abbreviated(word: str, number_follows: bool) -> bool:
    """`Dr`, `z.B`, one letter as in `J. R.` or `z. B.`, or a short number as in `3. Oktober`."""
    if word.isdigit():
        return len(word) <= 2
    plain = word.lower().strip(".")
    initial = len(word) == 1 and word.isalpha()
    return initial or plain in _ABBREVIATIONS or (number_follows and plain in _BEFORE_NUMBERS)


def _between(pattern: re.Pattern[str]) -> Callable[[str], list[Span]]:
    """Units that lie between matches of a pattern; empty ones are left out."""

    def spans(text: str) -> list[Span]:
        cuts = [0, *(edge for match in pattern.finditer(text) for edge in match.span()), len(text)]
        pairs = zip(cuts[::2], cuts[1::2], strict=True)
        return [(start, end) for start, end in pairs if text[start:end].strip()]

    return spans


_UNITS: dict[str, Callable[[str], Sequence[Span]]] = {
    "words": lambda text: [match.span() for match in _WORD.finditer(text)],
    "sentences": _sentences,
    "paragraphs": _between(_BLANK),
    "pages": _between(re.compile(r"\f")),
}
