"""Markdown into sections and code blocks, each with the path of headings above it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from mediatheca.extractors._splitting import Chunk, Span, character_windows, trimmed

_HEADING = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
_UNDERLINE = re.compile(r" {0,3}(=+|-{2,})[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}+|~{3,}+)[ \t]*+([^`\s]*+)[^`]*$")
_PARAGRAPH = re.compile(r"\n[ \t\r]*\n")


@dataclass(frozen=True, slots=True)
class _Block:
    """A stretch of the text: a section's prose, or the inside of a code fence."""

    span: Span
    path: tuple[str, ...]
    code: bool = False
    language: str = ""

    @property
    def kind(self) -> Literal["section", "code"]:
        return "code" if self.code else "section"


def split_markdown(text: str, size: int, overlap: int) -> Iterator[Chunk]:
    """Sections (heading line included) and code blocks; longer than `size` characters, they are cut between paragraphs.

    A section of nothing but its heading is left out, the path of those below tells it; a text of nothing but headings
    is one chunk.
    """
    found = False
    for block in _blocks(text):
        if not block.code and _only_heading(text[slice(*block.span)]):
            continue
        for start, end in _pieces(text, block, size, overlap):
            for chunk in trimmed(text, start, end):
                found = True
                yield replace(chunk, heading_path=block.path, kind=block.kind, code_language=block.language)
    if not found:
        for chunk in trimmed(text, 0, len(text)):
            yield replace(chunk, kind="section")


def _only_heading(section: str) -> bool:
    lines = [line for line in section.splitlines() if line.strip()]
    if len(lines) == 2 and _UNDERLINE.match(lines[1]):
        return True
    return not lines or (len(lines) == 1 and _HEADING.match(lines[0]) is not None)


class _Reader:
    """Walks the lines once; knows the open fence, the headings above, and where the current block began."""

    def __init__(self) -> None:
        self.path: list[tuple[int, str]] = []
        self.start = 0
        self.fence = ""
        self.language = ""
        self.previous: tuple[int, str] = (0, "")
        """Where the line before began, and its text: it is the heading when this one underlines it."""

    def block(self, end: int, code: bool = False) -> _Block:
        made = _Block((self.start, end), tuple(title for _, title in self.path), code, self.language if code else "")
        self.start = end
        return made

    def enter(self, level: int, title: str) -> None:
        while self.path and self.path[-1][0] >= level:
            self.path.pop()
        self.path.append((level, title.strip()))


def _blocks(text: str) -> Iterator[_Block]:
    reader, position = _Reader(), 0
    for line in text.splitlines(keepends=True):
        yield from _line(reader, position, position + len(line), line.rstrip("\r\n"))
        reader.previous = (position, line.strip())
        position += len(line)
    yield reader.block(len(text), code=bool(reader.fence))


def _line(reader: _Reader, start: int, end: int, line: str) -> Iterator[_Block]:
    fence = _FENCE.match(line)
    if reader.fence:
        if fence and fence.group(1).startswith(reader.fence) and not fence.group(2):
            yield reader.block(start, code=True)
            reader.fence, reader.start = "", end
    elif fence:
        yield reader.block(start)
        reader.fence, reader.language, reader.start = fence.group(1), fence.group(2), end
    elif heading := _HEADING.match(line):
        yield reader.block(start)
        reader.enter(len(heading.group(1)), heading.group(2) or "")
    elif (underline := _UNDERLINE.match(line)) and _can_be_title(reader.previous[1]):
        if reader.previous[0] > reader.start:
            yield reader.block(reader.previous[0])
        reader.enter(1 if underline.group(1)[0] == "=" else 2, reader.previous[1])


def _can_be_title(line: str) -> bool:
    return bool(line) and not line.startswith(("#", ">", "-", "*", "|", "=", "```", "~~~"))


def _pieces(text: str, block: _Block, size: int, overlap: int) -> Iterator[Span]:
    """Whole paragraphs as long as they fit; a paragraph longer than `size` is cut by characters, with overlap."""
    start, end = block.span
    if end - start <= size:
        yield start, end
        return
    cuts = [match.end() for match in _PARAGRAPH.finditer(text, start, end)]
    begin = start
    for cut, following in zip([*cuts, end], [*cuts[1:], end, end], strict=False):
        if following - begin > size or cut == end:
            yield from character_windows(begin, cut, size, overlap)
            begin = cut
            if cut == end:
                return
