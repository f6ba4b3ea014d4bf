"""What is drawn on a PDF page besides text: straight lines and pictures."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any, Protocol

from mediatheca.extractors._boxes import Box, Ruling

MAX_OBJECTS = 20_000
"""Looked at on one page; a map has more lines than any table."""
MAX_SEGMENTS = 20_000
_MAX_DEPTH = 6
_THIN = 2.5
_SHORTEST = 4.0
_STRAIGHT = 0.8
"""Points that the ends of a horizontal or vertical line may differ by."""
_PATH, _IMAGE, _FORM = 2, 3, 5
_LINE_TO, _MOVE_TO = 0, 2
_Matrix = tuple[float, float, float, float, float, float]
_IDENTITY: _Matrix = (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)


class Shown(Protocol):
    """From the page's own coordinates to those it is shown in."""

    def point(self, x: float, y: float) -> tuple[float, float]: ...

    def box(self, left: float, bottom: float, right: float, top: float) -> Box: ...


def drawings(page: Any, shown: Shown) -> tuple[list[Ruling], list[Box], int]:
    """Horizontal and vertical lines, boxes of pictures, and how many things (texts too) are on the page."""
    reader = _Drawings(shown)
    reader.walk(page, _IDENTITY, 0)
    return reader.rulings, reader.pictures, reader.objects


class _Drawings:
    def __init__(self, shown: Shown) -> None:
        import pypdfium2.raw as pdfium

        self._pdfium, self._shown = pdfium, shown
        self.rulings: list[Ruling] = []
        self.pictures: list[Box] = []
        self.objects = 0
        self._segments = 0
        self._edges = tuple(ctypes.c_float() for _ in range(4))
        self._point = ctypes.c_float(), ctypes.c_float()
        self._mode, self._stroke = ctypes.c_int(), ctypes.c_int()

    def walk(self, parent: Any, matrix: _Matrix, depth: int) -> None:
        """The objects of a page, or of a form (a drawing used in drawings)."""
        pdfium = self._pdfium
        if depth:
            count, get = pdfium.FPDFFormObj_CountObjects(parent), pdfium.FPDFFormObj_GetObject
        else:
            count, get = pdfium.FPDFPage_CountObjects(parent), pdfium.FPDFPage_GetObject
        for index in range(min(count, MAX_OBJECTS - self.objects)):
            found = get(parent, index)
            if not found:
                continue
            self.objects += 1
            kind = pdfium.FPDFPageObj_GetType(found)
            if kind == _PATH:
                self._path(found, matrix)
            elif kind == _IMAGE:
                self.pictures.append(self._bounds(found, matrix))
            elif kind == _FORM and depth < _MAX_DEPTH:
                self.walk(found, _times(self._matrix(found), matrix), depth + 1)

    def _matrix(self, found: Any) -> _Matrix:
        raw = self._pdfium.FS_MATRIX()
        if not self._pdfium.FPDFPageObj_GetMatrix(found, raw):
            return _IDENTITY
        return raw.a, raw.b, raw.c, raw.d, raw.e, raw.f

    def _bounds(self, found: Any, matrix: _Matrix) -> Box:
        left, bottom, right, top = self._edges
        self._pdfium.FPDFPageObj_GetBounds(found, left, bottom, right, top)
        corners = [self._shown.point(*_apply(matrix, x.value, y.value)) for x in (left, right) for y in (bottom, top)]
        xs, ys = [x for x, _ in corners], [y for _, y in corners]
        return min(xs), min(ys), max(xs), max(ys)

    def _path(self, found: Any, matrix: _Matrix) -> None:
        x0, y0, x1, y1 = self._bounds(found, matrix)
        if y1 - y0 <= _THIN and x1 - x0 > _SHORTEST:
            self.rulings.append(Ruling(True, (y0 + y1) / 2, x0, x1))
        elif x1 - x0 <= _THIN and y1 - y0 > _SHORTEST:
            self.rulings.append(Ruling(False, (x0 + x1) / 2, y0, y1))
        elif self._is_stroked(found):
            self._lines(found, _times(self._matrix(found), matrix))

    def _is_stroked(self, found: Any) -> bool:
        self._pdfium.FPDFPath_GetDrawMode(found, self._mode, self._stroke)
        return bool(self._stroke.value)

    def _lines(self, found: Any, matrix: _Matrix) -> None:
        for (x0, y0), (x1, y1) in self._pieces(found, matrix):
            if abs(y0 - y1) <= _STRAIGHT and abs(x0 - x1) > _SHORTEST:
                self.rulings.append(Ruling(True, (y0 + y1) / 2, min(x0, x1), max(x0, x1)))
            elif abs(x0 - x1) <= _STRAIGHT and abs(y0 - y1) > _SHORTEST:
                self.rulings.append(Ruling(False, (x0 + x1) / 2, min(y0, y1), max(y0, y1)))

    def _pieces(self, found: Any, matrix: _Matrix) -> Iterator[tuple[tuple[float, float], tuple[float, float]]]:
        """Straight pieces of a path; curves only move the pen."""
        pdfium, (x, y) = self._pdfium, self._point
        start = last = (0.0, 0.0)
        for index in range(min(pdfium.FPDFPath_CountSegments(found), MAX_SEGMENTS - self._segments)):
            self._segments += 1
            segment = pdfium.FPDFPath_GetPathSegment(found, index)
            kind = pdfium.FPDFPathSegment_GetType(segment)
            pdfium.FPDFPathSegment_GetPoint(segment, x, y)
            here = self._shown.point(*_apply(matrix, x.value, y.value))
            if kind == _MOVE_TO:
                start = here
            elif kind == _LINE_TO:
                yield last, here
            last = here
            if pdfium.FPDFPathSegment_GetClose(segment):
                yield last, start
                last = start


def _apply(matrix: _Matrix, x: float, y: float) -> tuple[float, float]:
    a, b, c, d, e, f = matrix
    return a * x + c * y + e, b * x + d * y + f


def _times(inner: _Matrix, outer: _Matrix) -> _Matrix:
    """First `inner`, then `outer`."""
    if outer == _IDENTITY:
        return inner
    a, b, c, d, e, f = inner
    oa, ob, oc, od, oe, of = outer
    return (
        a * oa + b * oc,
        a * ob + b * od,
        c * oa + d * oc,
        c * ob + d * od,
        e * oa + f * oc + oe,
        e * ob + f * od + of,
    )
