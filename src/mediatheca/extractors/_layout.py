"""The blocks of a page in reading order: paragraphs, lists, tables, forms, figures. By geometry alone, no model.

1. Tables come first: their words take no part in what follows.
2. The rest is cut into bands (from top to bottom) and columns: a column begins where a gutter runs through a band.
3. In a column, lines belong together while they are near, of one size, and not indented too far.

Recursive cutting at white space: Nagy, Seth (1984), "Hierarchical representation of optically scanned documents".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, zip_longest
from statistics import fmean, median
from typing import Literal, TypeAlias

from mediatheca.extractors._boxes import Box, Ruling, Word, area, inside, intersection, spans, union
from mediatheca.extractors._lines import (
    Fragment,
    Line,
    flowing,
    fragments_of,
    garbled,
    is_right_to_left,
    lines_of,
    usual_gap,
)
from mediatheca.extractors._tables import Table, aligned_tables, as_text, ruled_tables

ObjectType: TypeAlias = Literal["paragraph", "table", "form", "list", "header", "footer", "figure"]

_MAX_CUTS = 8
"""Columns within columns."""
_GUTTER = 8.0
_SIZE_STEP = 1.3
"""A line of a font this much larger or smaller is another block: a heading."""
_FIGURE_SHARE = 0.01
_FIGURE_SIDE = 24.0
_BACKGROUND = 0.9
_ITEM = re.compile(r"(?:[•‣◦▪●○■□–—*·\-\uf0b7\uf0a7]|\(?(?:\d{1,3}|[a-zA-Z]|[ivxIVX]{1,5})[.)])\s+\S")


@dataclass(slots=True)
class Block:
    """Something on a page that belongs together."""

    kind: ObjectType
    box: Box
    text: str = ""
    cells: list[list[str]] | None = None
    """Of a table, by row."""
    size: float = 0.0
    """Height of its font, points."""
    garbled: float = 0.0
    """Share of characters that cannot be read."""
    confidence: float = 1.0
    """Of a recogniser of text; 1 where none took part."""
    lines: list[Line] = field(default_factory=list, repr=False)


@dataclass(slots=True)
class _Piece(Fragment):
    """What is put in order: a line of a column, or a whole table or figure."""

    block: Block | None = None


def blocks_of(
    words: Sequence[Word],
    rulings: Sequence[Ruling],
    pictures: Sequence[Box],
    page: tuple[float, float],
    vertical_threshold: float,
    horizontal_threshold: float,
    fields: Sequence[Box] = (),
) -> list[Block]:
    """The blocks of a page in reading order.

    Args:
        words: in the order of the file or of a recogniser.
        page: width and height.
        vertical_threshold: points that lines of one block lie apart at most.
        horizontal_threshold: points that left edges of lines of one block differ at most.
        fields: boxes of form fields.
    """
    tables = ruled_tables(rulings, words)
    rest = _without(words, tables)
    fragments = fragments_of(rest)
    aligned = aligned_tables(lines_of(fragments))
    if aligned:
        fragments = fragments_of(_without(rest, aligned))
    fixed = [_table(table) for table in (*tables, *aligned)]
    fixed += [Block("figure", box) for box in _figures(pictures, page)]
    pieces = [_Piece(fragment.words, fragment.box) for fragment in fragments]
    pieces += [_Piece([], block.box, block) for block in fixed]
    backwards = is_right_to_left(words)
    blocks: list[Block] = []
    size = median(word.size for word in words) if words else 0.0
    for column in _columns(pieces, size, backwards):
        blocks += _in_column(column, vertical_threshold, horizontal_threshold)
    return [_as_form(block, fields) for block in blocks]


def _without(words: Sequence[Word], tables: Sequence[Table]) -> list[Word]:
    taken = {id(word) for table in tables for word in table.words}
    return [word for word in words if id(word) not in taken] if taken else list(words)


def _table(table: Table) -> Block:
    text = as_text(table.cells)
    sizes = [word.size for word in table.words]
    return Block(
        "table", table.box, text, table.cells, median(sizes), garbled(text), fmean(w.confidence for w in table.words)
    )


def _figures(pictures: Sequence[Box], page: tuple[float, float]) -> list[Box]:
    """Pictures of some size that are not the page's background; pieces of one are put together."""
    whole = page[0] * page[1]
    boxes = [box for box in pictures if min(box[2] - box[0], box[3] - box[1]) >= 1 and area(box) < _BACKGROUND * whole]
    merged: list[Box] = []
    for box in boxes[:2000]:
        for index, other in enumerate(merged):
            if intersection(_grown(box, 1), other) > 0:
                merged[index] = union((box, other))
                break
        else:
            merged.append(box)
    large = (box for box in merged if area(box) >= _FIGURE_SHARE * whole)
    return [box for box in large if min(box[2] - box[0], box[3] - box[1]) >= _FIGURE_SIDE]


def _grown(box: Box, by: float) -> Box:
    return box[0] - by, box[1] - by, box[2] + by, box[3] + by


def _columns(pieces: Sequence[_Piece], size: float, backwards: bool, depth: int = 0) -> Iterator[list[_Piece]]:
    """Columns in reading order: bands from top to bottom, in each the columns from left to right (or right to left)."""
    for band in _bands(pieces, size):
        gutters = band.gutters(size)
        if not gutters or depth >= _MAX_CUTS:
            yield band.pieces
            continue
        columns: list[list[_Piece]] = [[] for _ in range(len(gutters) + 1)]
        for piece in band.pieces:
            columns[sum(piece.box[0] >= gutter for gutter in gutters)].append(piece)
        for column in reversed(columns) if backwards else columns:
            yield from _columns(column, size, backwards, depth + 1)


@dataclass(slots=True)
class _Band:
    """A stretch of a page or column from one white stripe to another."""

    pieces: list[_Piece]
    covered: list[tuple[float, float]]
    """What is not white from top to bottom: intervals of x."""
    top: float
    bottom: float

    def gutters(self, size: float) -> list[float]:
        """Right edges of the white stripes that run from top to bottom: wide ones, for a single line very wide."""
        return self.gaps(size if self.bottom - self.top > 1.8 * size else 3 * size)

    def gaps(self, width: float) -> list[float]:
        """Right edges of the white stripes of at least a width."""
        width = max(_GUTTER, width)
        return [right[0] for left, right in pairwise(self.covered) if right[0] - left[1] >= width]

    def with_(self, row: _Band) -> _Band:
        """Both, one below the other."""
        return _Band(
            [*self.pieces, *row.pieces],
            spans([*self.covered, *row.covered], 0.01),
            min(self.top, row.top),
            max(self.bottom, row.bottom),
        )


def _bands(pieces: Sequence[_Piece], size: float) -> Iterator[_Band]:
    """Neighbouring rows as long as one gutter runs through all of them, or none through any."""
    band: _Band | None = None
    rows = list(_rows(pieces))
    for row, below in zip_longest(rows, rows[1:]):
        both = row if band is None else band.with_(row)
        if band is None or _goes_on(band, row, both, size) or _is_plain(band, row, below, both, size):
            band = both
        else:
            yield band
            band = row
    if band is not None:
        yield band


def _goes_on(band: _Band, row: _Band, both: _Band, size: float) -> bool:
    """A gutter runs through both, and one of them shows by itself that it is one."""
    return bool(both.gutters(size)) and bool(band.gutters(size) or row.gaps(size))


def _is_plain(band: _Band, row: _Band, below: _Band | None, both: _Band, size: float) -> bool:
    """No gutter in either, nor between them."""
    return not (both.gutters(size) or band.gutters(size) or _begins_columns(row, below, size))


def _begins_columns(row: _Band, below: _Band | None, size: float) -> bool:
    """A single line with a gap may be anything; with the next one, whose gap is at the same place, it is columns."""
    if row.gutters(size):
        return True
    return bool(below is not None and row.gaps(size) and below.gaps(size) and row.with_(below).gutters(size))


def _rows(pieces: Sequence[_Piece]) -> Iterator[_Band]:
    """Pieces between white stripes that run across."""
    row: list[_Piece] = []
    bottom = 0.0
    for piece in sorted(pieces, key=lambda each: each.box[1]):
        if row and piece.box[1] >= bottom:
            yield _row(row)
            row = []
        bottom = max(bottom, piece.box[3]) if row else piece.box[3]
        row.append(piece)
    if row:
        yield _row(row)


def _row(pieces: list[_Piece]) -> _Band:
    box = union(piece.box for piece in pieces)
    return _Band(pieces, spans([(piece.box[0], piece.box[2]) for piece in pieces], 0.01), box[1], box[3])


def _in_column(pieces: Sequence[_Piece], vertical: float, horizontal: float) -> list[Block]:
    """Tables and figures as they are, lines between them as blocks of text."""
    lines = lines_of([piece for piece in pieces if piece.block is None])
    gap = usual_gap(lines)
    groups: list[list[Line]] = []
    for line in lines:
        if groups and _belongs(groups[-1], line, gap, vertical, horizontal):
            groups[-1].append(line)
        else:
            groups.append([line])
    blocks = [_text_block(group) for group in groups]
    blocks += [piece.block for piece in pieces if piece.block is not None]
    return sorted(blocks, key=lambda block: (block.box[1], block.box[0]))


def _belongs(group: Sequence[Line], line: Line, usual: float, vertical: float, horizontal: float) -> bool:
    """Whether a line goes on with the block above it."""
    above = group[-1]
    gap, size = line.box[1] - above.box[3], max(line.size, above.size)
    if gap > vertical or gap > max(usual * 1.6 + 1, 0.35 * size) or gap < -size:
        return False
    if max(line.size, above.size) > _SIZE_STEP * max(min(line.size, above.size), 0.1):
        return False
    if min(abs(line.box[0] - above.box[0]), abs(line.box[2] - above.box[2])) > horizontal:
        return False
    return _is_item(group[0].text) or not _is_item(line.text)


def _is_item(text: str) -> bool:
    return _ITEM.match(text) is not None


def _text_block(lines: list[Line]) -> Block:
    kind: ObjectType = "list" if _is_item(lines[0].text) else "paragraph"
    text = _items(lines) if kind == "list" else flowing(lines)
    return Block(
        kind,
        union(line.box for line in lines),
        text,
        size=median(line.size for line in lines),
        garbled=garbled(text),
        confidence=fmean(word.confidence for line in lines for word in line.words),
        lines=lines,
    )


def _items(lines: Sequence[Line]) -> str:
    """A line each item; lines that go on with one are joined to it."""
    items: list[list[Line]] = []
    for line in lines:
        if _is_item(line.text) or not items:
            items.append([line])
        else:
            items[-1].append(line)
    return "\n".join(flowing(item) for item in items)


def _as_form(block: Block, fields: Sequence[Box]) -> Block:
    """A block with fields to fill in, in it or beside it, is a form."""
    if block.kind in ("figure", "header", "footer") or not fields:
        return block
    near = _grown(block.box, 12)
    return replace(block, kind="form") if any(inside(box, near) or _beside(box, block.box) for box in fields) else block


def _beside(field: Box, box: Box) -> bool:
    """The field stands right of the block, on its height."""
    middle = (field[1] + field[3]) / 2
    return box[1] - 2 <= middle <= box[3] + 2 and -2 <= field[0] - box[2] <= 60


@dataclass(slots=True)
class PageBlocks:
    """The blocks of one page."""

    number: int
    height: float
    blocks: list[Block]


_EDGE = 0.12
"""Of a page's height, at its top and bottom."""
_SAME_SIZE = 4.0
"""Points between sizes of fonts that count as one."""
_DIGITS = re.compile(r"\d+|\b[ivxlc]+\b")


def mark_running(pages: Sequence[PageBlocks]) -> None:
    """Blocks at the top or bottom that are on many pages (numbers aside) become headers and footers."""
    places: dict[tuple[ObjectType, str, int], list[Block]] = {}
    for page in pages:
        for block in page.blocks:
            kind = _edge(block, page.height)
            if kind is not None:
                key = kind, _DIGITS.sub("#", block.text.casefold()), round(block.size / _SAME_SIZE)
                places.setdefault(key, []).append(block)
    least = max(2, min(3, len(pages)), len(pages) // 5)
    for (kind, _, _), blocks in places.items():
        if len(blocks) >= least:
            for block in blocks:
                block.kind = kind


def _edge(block: Block, height: float) -> ObjectType | None:
    if block.kind not in ("paragraph", "list") or len(block.text) > 300:
        return None
    if block.box[3] <= _EDGE * height:
        return "header"
    return "footer" if block.box[1] >= (1 - _EDGE) * height else None
