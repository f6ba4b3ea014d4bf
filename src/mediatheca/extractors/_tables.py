"""Tables: where lines are drawn around cells, and where columns stand aligned without any."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean

import numpy as np
import numpy.typing as npt

from mediatheca.extractors._boxes import Box, Ruling, Word, inside, overlap, union
from mediatheca.extractors._lines import Line, flowing, fragments_of, lines_of

MAX_RULINGS = 1500
"""Merged lines of one page; a drawing with more is no table."""
MAX_CELLS = 5000
_TOUCH = 3.0
_LEVEL = 2.0
_SMALLEST = 6.0
"""Points that a row or column has at least."""
_ALIGNED = 4.0
_ROWS = 3
_CELL_WORDS = {2: 4.0, 3: 6.0}
"""Columns → words of a cell on average at most: two columns of prose are no table."""


@dataclass(slots=True)
class Table:
    """Cells by row. A cell that spans others has its text in the first, the others are empty."""

    box: Box
    cells: list[list[str]]
    words: list[Word] = field(default_factory=list)


def ruled_tables(rulings: Sequence[Ruling], words: Sequence[Word]) -> list[Table]:
    """Tables with drawn lines: at least two cells, in at least one of which something is written."""
    across = _merged([ruling for ruling in rulings if ruling.horizontal])
    down = _merged([ruling for ruling in rulings if not ruling.horizontal])
    if not across or not down or len(across) + len(down) > MAX_RULINGS:
        return []
    found = (_grid([across[i] for i in rows], [down[j] for j in columns]) for rows, columns in _connected(across, down))
    tables = [_filled(grid, words) for grid in found if grid is not None]
    return [table for table in tables if table.words]


def _merged(rulings: Sequence[Ruling]) -> list[Ruling]:
    """Pieces of one line put together: cells are often drawn one by one."""
    made: list[Ruling] = []
    for ruling in sorted(rulings, key=lambda each: (round(each.at / _LEVEL), each.start)):
        last = made[-1] if made else None
        if last and abs(last.at - ruling.at) <= _LEVEL and ruling.start <= last.end + _TOUCH:
            made[-1] = Ruling(last.horizontal, last.at, last.start, max(last.end, ruling.end))
        else:
            made.append(ruling)
    return made


def _connected(across: Sequence[Ruling], down: Sequence[Ruling]) -> Iterator[tuple[list[int], list[int]]]:
    """Groups of lines that cross or touch each other: numbers of horizontal and of vertical ones."""
    meets = _meetings(across, down)
    left = set(range(len(across)))
    while left:
        rows, columns = {left.pop()}, set[int]()
        while True:
            reached = set(np.flatnonzero(meets[sorted(rows)].any(axis=0)).tolist())
            if reached == columns:
                break
            columns = reached
            rows |= set(np.flatnonzero(meets[:, sorted(columns)].any(axis=1)).tolist())
        left -= rows
        yield sorted(rows), sorted(columns)


def _meetings(across: Sequence[Ruling], down: Sequence[Ruling]) -> npt.NDArray[np.bool_]:
    """Shape (horizontal, vertical): which meet."""
    y, x0, x1 = (np.array(values)[:, None] for values in zip(*((r.at, r.start, r.end) for r in across), strict=True))
    x, y0, y1 = (np.array(values)[None] for values in zip(*((r.at, r.start, r.end) for r in down), strict=True))
    within = (x >= x0 - _TOUCH) & (x <= x1 + _TOUCH) & (y >= y0 - _TOUCH) & (y <= y1 + _TOUCH)
    result: npt.NDArray[np.bool_] = within
    return result


@dataclass(slots=True)
class _Grid:
    xs: list[float]
    ys: list[float]
    across: Sequence[Ruling]
    down: Sequence[Ruling]

    @property
    def box(self) -> Box:
        return self.xs[0], self.ys[0], self.xs[-1], self.ys[-1]


def _grid(across: Sequence[Ruling], down: Sequence[Ruling]) -> _Grid | None:
    """The lines as rows and columns; None for a single cell (a frame) or too many."""
    xs, ys = _levels(ruling.at for ruling in down), _levels(ruling.at for ruling in across)
    cells = (len(xs) - 1) * (len(ys) - 1)
    return _Grid(xs, ys, across, down) if len(xs) > 1 and len(ys) > 1 and 2 <= cells <= MAX_CELLS else None


def _levels(values: Iterator[float]) -> list[float]:
    """Places of lines, those that lie too near for a row or column between them counted once."""
    made: list[float] = []
    for value in sorted(values):
        if not made or value - made[-1] >= _SMALLEST:
            made.append(value)
    return made


def _filled(grid: _Grid, words: Sequence[Word]) -> Table:
    """The words of each cell. Cells without a line between them are one."""
    rows, columns = len(grid.ys) - 1, len(grid.xs) - 1
    owner = _owners(grid, rows, columns)
    held: dict[int, list[Word]] = {}
    for word in words:
        if inside(word.box, grid.box):
            row = min(bisect_right(grid.ys, (word.box[1] + word.box[3]) / 2) - 1, rows - 1)
            column = min(bisect_right(grid.xs, (word.box[0] + word.box[2]) / 2) - 1, columns - 1)
            held.setdefault(owner[row * columns + column], []).append(word)
    cells = [[_text(held.get(row * columns + column, [])) for column in range(columns)] for row in range(rows)]
    return Table(grid.box, cells, [word for found in held.values() for word in found])


def _owners(grid: _Grid, rows: int, columns: int) -> list[int]:
    """For each cell the number of the first one that it is joined with."""
    owner = list(range(rows * columns))

    def root(cell: int) -> int:
        while owner[cell] != cell:
            cell = owner[cell]
        return cell

    for cell, other in _open_sides(grid, columns):
        first, second = sorted((root(cell), root(other)))
        owner[second] = first
    return [root(cell) for cell in range(rows * columns)]


def _open_sides(grid: _Grid, columns: int) -> Iterator[tuple[int, int]]:
    """Pairs of neighbouring cells without a line between them."""
    last_x, last_y = grid.xs[-1], grid.ys[-1]
    for row, (top, bottom) in enumerate(pairwise(grid.ys)):
        for column, (left, right) in enumerate(pairwise(grid.xs)):
            cell = row * columns + column
            if right != last_x and not _drawn(grid.down, right, (top + bottom) / 2):
                yield cell, cell + 1
            if bottom != last_y and not _drawn(grid.across, bottom, (left + right) / 2):
                yield cell, cell + columns


def _drawn(rulings: Sequence[Ruling], at: float, through: float) -> bool:
    return any(abs(ruling.at - at) < _SMALLEST and ruling.start <= through <= ruling.end for ruling in rulings)


def _text(words: Sequence[Word]) -> str:
    return flowing(lines_of(fragments_of(words))) if words else ""


def aligned_tables(lines: Sequence[Line]) -> list[Table]:
    """Tables without drawn lines: at least three rows one below the other whose cells begin, end or centre alike."""
    found, start = [], 0
    while start < len(lines):
        end = start + 1
        while end < len(lines) and _follows(lines[start], lines[end - 1], lines[end]):
            end += 1
        if end - start >= _ROWS and _is_table(lines[start:end]):
            found.append(_of_lines(lines[start:end]))
            start = end
        else:
            start += 1
    return found


def _follows(first: Line, before: Line, line: Line) -> bool:
    if len(first.fragments) < 2 or len(line.fragments) != len(first.fragments):
        return False
    if line.box[1] - before.box[3] > 2 * max(line.size, before.size):
        return False
    pairs = zip(before.fragments, line.fragments, strict=True)
    return all(_is_aligned(above.box, below.box) for above, below in pairs)


def _is_aligned(above: Box, below: Box) -> bool:
    edges = (above[0] - below[0], above[2] - below[2], (above[0] + above[2] - below[0] - below[2]) / 2)
    return min(map(abs, edges)) <= _ALIGNED and overlap(above[0], above[2], below[0], below[2]) > 0


def _is_table(lines: Sequence[Line]) -> bool:
    columns = len(lines[0].fragments)
    mean = fmean(len(fragment.words) for line in lines for fragment in line.fragments)
    return mean <= _CELL_WORDS[min(columns, 3)]


def _of_lines(lines: Sequence[Line]) -> Table:
    cells = [[fragment.text for fragment in line.fragments] for line in lines]
    return Table(union(line.box for line in lines), cells, [word for line in lines for word in line.words])


def as_text(cells: Sequence[Sequence[str]]) -> str:
    """A table as text: a line each row, cells between bars."""
    return "\n".join(" | ".join(cell.replace("\n", " ") for cell in row) for row in cells)
