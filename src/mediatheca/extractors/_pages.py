"""PDF pages through PDFium: words with boxes, drawn lines, pictures, form fields, and pixels.

PDFium parses hostile files and is not thread safe: one thread a process, and a process that may be killed.
Coordinates are those of `_boxes`, as the page is shown (its rotation applied).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mediatheca.extractors import ItemError, Source
from mediatheca.extractors._boxes import Box, Ruling, Word, area, both
from mediatheca.extractors._drawings import drawings
from mediatheca.extractors._layout import Block, blocks_of

MAX_PAGES = 500
MAX_BYTES = 512 << 20
MAX_CHARACTERS = 200_000
"""Of one page: a page of a dense newspaper has 30,000."""
MAX_RENDERED = 40_000_000
"""Pixels of a rendered page."""
MAX_RENDERED_SIDE = 20_000
_HEADER_WITHIN = 1024
_WIDGET = 20
_PASSWORD = 4
_HYPHENS = "\x02\ufffe"
"""What PDFium gives for a hyphen at the end of a line that it takes for a division."""
_TOKEN = re.compile(rf"[^\s{_HYPHENS}]+[{_HYPHENS}]?|[\r\n]+")
_LIGATURES = str.maketrans(
    {"\ufb00": "ff", "\ufb01": "fi", "\ufb02": "fl", "\ufb03": "ffi", "\ufb04": "ffl", "\ufb05": "st", "\ufb06": "st"}
)
_SCAN = 0.5
"""Share of a page that a picture covers when the page is a scan."""


class PageError(Exception):
    """This page cannot be read; the others may. The message says why."""


def is_pdf(head: bytes) -> bool:
    """Whether bytes begin like a PDF: the header may stand behind up to a kilobyte of anything."""
    return b"%PDF-" in head[:_HEADER_WITHIN]


class Pdf:
    """An open PDF. Use `Pdf.open`."""

    def __init__(self, document: Any) -> None:
        self._document = document

    @staticmethod
    @contextmanager
    def open(source: Source, max_pages: int = MAX_PAGES) -> Iterator[Pdf]:
        """Opens a file for the time of a `with`.

        Raises:
            ItemError: empty, not a PDF, encrypted with a password, damaged, without pages, or more than `max_pages`.
        """
        import pypdfium2

        name = source.key or "pdf"
        _check_head(source, name)
        try:
            document = pypdfium2.PdfDocument(source.path if source.path is not None else source.read())
        except pypdfium2.PdfiumError as error:
            raise _refused(error, name) from error
        try:
            with suppress(pypdfium2.PdfiumError):  # fields are then not drawn
                document.init_forms()
            pages = len(document)
            if pages < 1:
                raise ItemError(f"'{name}' has no pages, or its list of pages is broken")
            if pages > max_pages:
                raise ItemError(f"'{name}' has {pages:,} pages: more than the limit of {max_pages:,}; split the file")
            yield Pdf(document)
        finally:
            document.close()

    def __len__(self) -> int:
        return len(self._document)

    @contextmanager
    def page(self, number: int) -> Iterator[Page]:
        """A page by its number from 1.

        Raises:
            PageError: it is broken.
        """
        import pypdfium2

        try:
            page = self._document[number - 1]
        except (pypdfium2.PdfiumError, IndexError) as error:
            raise PageError("the page is broken: it cannot be loaded") from error
        try:
            yield Page(page, number)
        except pypdfium2.PdfiumError as error:
            raise PageError(f"the page is broken: {error}") from error
        finally:
            page.close()

    def title(self) -> str:
        """What the file says of itself; often nothing."""
        return str(self._document.get_metadata_value("Title")).strip()


def _check_head(source: Source, name: str) -> None:
    if source.path is not None:
        with open(source.path, "rb") as file:
            head, size = file.read(_HEADER_WITHIN), file.seek(0, 2)
    elif isinstance(source.value, list | dict):
        raise ItemError(f"'{name}' is a {type(source.value).__name__}, not a PDF")
    else:
        data = source.read()
        head, size = data[:_HEADER_WITHIN], len(data)
    if not size:
        raise ItemError(f"'{name}' is empty (0 bytes)")
    if size > MAX_BYTES:
        raise ItemError(f"'{name}' has {size:,} bytes: more than the limit of {MAX_BYTES:,}")
    if not is_pdf(head):
        raise ItemError(f"'{name}' is not a PDF: no '%PDF-' in its first {_HEADER_WITHIN} bytes")


def _refused(error: Any, name: str) -> ItemError:
    if error.err_code == _PASSWORD:
        return ItemError(f"'{name}' is encrypted: it opens with a password only; remove the password")
    return ItemError(f"'{name}' is damaged or no PDF: {error}")


@dataclass(frozen=True, slots=True)
class FormField:
    """A field to fill in, and what is in it."""

    box: Box
    value: str


class Page:
    """One page. What is asked for is read once."""

    def __init__(self, page: Any, number: int) -> None:
        self._page = page
        self.number = number
        self.width, self.height = (float(side) for side in page.get_size())
        if not (math.isfinite(self.width) and math.isfinite(self.height)) or min(self.width, self.height) <= 0:
            raise PageError(f"the page has no size ({self.width} × {self.height} points)")
        self._shown = _Shown(page.get_bbox(), page.get_rotation())

    @cached_property
    def words(self) -> list[Word]:
        """In the order of the file. Characters that stand for nothing (a broken font) are in them.

        Raises:
            PageError: more than `MAX_CHARACTERS`.
        """
        textpage = self._page.get_textpage()
        try:
            return _Words(textpage, self._shown).read()
        finally:
            textpage.close()

    @property
    def has_text(self) -> bool:
        """Whether there is a text layer."""
        return bool(self.words)

    @cached_property
    def _drawn(self) -> tuple[list[Ruling], list[Box], int]:
        return drawings(self._page, self._shown)

    @property
    def rulings(self) -> list[Ruling]:
        return self._drawn[0]

    @property
    def pictures(self) -> list[Box]:
        """Boxes of pictures, cut at the edges of the page."""
        width, height = self.width, self.height
        cut = ((max(x0, 0.0), max(y0, 0.0), min(x1, width), min(y1, height)) for x0, y0, x1, y1 in self._drawn[1])
        return [box for box in cut if area(box) > 0]

    @property
    def is_blank(self) -> bool:
        """Nothing is drawn on it, not even a line."""
        return not self._drawn[2]

    @property
    def is_scan(self) -> bool:
        """No text layer, and pictures cover half of it."""
        whole = self.width * self.height
        return not self.has_text and sum(map(area, self.pictures)) > _SCAN * whole

    @cached_property
    def fields(self) -> list[FormField]:
        """Form fields."""
        import pypdfium2.raw as pdfium

        found = []
        for index in range(min(pdfium.FPDFPage_GetAnnotCount(self._page), 2000)):
            annotation = pdfium.FPDFPage_GetAnnot(self._page, index)
            if not annotation:
                continue
            rectangle = pdfium.FS_RECTF()
            if pdfium.FPDFAnnot_GetSubtype(annotation) == _WIDGET and pdfium.FPDFAnnot_GetRect(annotation, rectangle):
                box = self._shown.box(rectangle.left, rectangle.bottom, rectangle.right, rectangle.top)
                found.append(FormField(box, _value(annotation)))
            pdfium.FPDFPage_CloseAnnot(annotation)
        return found

    def text_blocks(self, vertical_threshold: float = 15.0, horizontal_threshold: float = 50.0) -> list[Block]:
        """Paragraphs, lists, tables, figures in reading order."""
        return blocks_of(
            self.words + self.field_words(),
            self.rulings,
            self.pictures,
            (self.width, self.height),
            vertical_threshold,
            horizontal_threshold,
            [field.box for field in self.fields],
        )

    def field_words(self) -> list[Word]:
        """What is filled in, as words: the text layer does not hold it."""
        return [
            Word(field.value, field.box, line=-1 - number, size=field.box[3] - field.box[1])
            for number, field in enumerate(self.fields)
            if field.value
        ]

    def text(self) -> str:
        """The text in reading order, a blank line between blocks."""
        return "\n\n".join(block.text for block in self.text_blocks() if block.text)

    def scale(self, dpi: float) -> float:
        """Pixels a point when rendered at `dpi`: less where the page would be larger than the limits."""
        limit = math.sqrt(MAX_RENDERED / (self.width * self.height))
        return min(dpi / 72, limit, MAX_RENDERED_SIDE / max(self.width, self.height))

    def render(self, dpi: float) -> npt.NDArray[np.uint8]:
        """RGB pixels, shape (height, width, 3), at most `MAX_RENDERED`."""
        bitmap = self._page.render(scale=self.scale(dpi), rev_byteorder=True)
        try:
            return np.ascontiguousarray(bitmap.to_numpy()[:, :, :3])
        finally:
            bitmap.close()


def _value(annotation: Any) -> str:
    """Of a text field; a checked box is an x."""
    import ctypes

    import pypdfium2.raw as pdfium

    size = min(pdfium.FPDFAnnot_GetStringValue(annotation, b"V", None, 0), 1 << 16)
    if size <= 2:
        return ""
    buffer = (ctypes.c_ushort * (size // 2))()
    pdfium.FPDFAnnot_GetStringValue(annotation, b"V", buffer, size)
    return " ".join(bytes(buffer).decode("utf-16-le", "replace").rstrip("\0").split())


class _Shown:
    """From the page's own coordinates (origin at the bottom left, not rotated) to those it is shown in."""

    def __init__(self, bounds: tuple[float, float, float, float], rotation: int) -> None:
        self._bounds = bounds
        self._rotation = rotation

    def point(self, x: float, y: float) -> tuple[float, float]:
        left, bottom, right, top = self._bounds
        if self._rotation == 90:
            return y - bottom, x - left
        if self._rotation == 180:
            return right - x, y - bottom
        if self._rotation == 270:
            return top - y, right - x
        return x - left, top - y

    def box(self, left: float, bottom: float, right: float, top: float) -> Box:
        if not self._rotation:
            x, _, _, y = self._bounds
            return left - x, y - top, right - x, y - bottom
        (x0, y0), (x1, y1) = self.point(left, bottom), self.point(right, top)
        return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


class _Words:
    """Reads the words of a text page with few calls: three a word, none a character."""

    def __init__(self, textpage: Any, shown: _Shown) -> None:
        import ctypes

        import pypdfium2.raw as pdfium

        self._raw, self._shown = textpage.raw, shown
        self._count, self._rectangle = pdfium.FPDFText_CountRects, pdfium.FPDFText_GetRect
        self._loose = pdfium.FPDFText_GetLooseCharBox
        self._edges = tuple(ctypes.c_double() for _ in range(4))
        self._font = pdfium.FS_RECTF()

    def read(self) -> list[Word]:
        words: list[Word] = []
        line = 0
        for match in _TOKEN.finditer(self._text()):
            token = match.group()
            if token[0] in "\r\n":
                line += 1
                continue
            divided = token[-1] in _HYPHENS
            text = token[:-1] if divided else token
            box = self._box(match.start(), len(text))
            if text and box is not None:
                size = self._size(match.start())
                words.append(Word(text.translate(_LIGATURES), box, line, size, hyphenated=divided))
            line += divided
        return words

    def _text(self) -> str:
        """One character for each of PDFium's, so that places in it are theirs."""
        import ctypes

        import pypdfium2.raw as pdfium

        count = pdfium.FPDFText_CountChars(self._raw)
        if count > MAX_CHARACTERS:
            raise PageError(f"the page has {count:,} characters: more than the limit of {MAX_CHARACTERS:,}")
        if count <= 0:
            return ""
        buffer = (ctypes.c_ushort * (2 * count + 1))()
        written = pdfium.FPDFText_GetText(self._raw, 0, count, buffer)
        text = bytes(buffer)[: 2 * max(written - 1, 0)].decode("utf-16-le", "replace")
        if len(text) == count:
            return text
        codes = (pdfium.FPDFText_GetUnicode(self._raw, place) for place in range(count))
        return "".join(chr(code) if 0 < code < 0x110000 and not 0xD800 <= code < 0xE000 else "\ufffd" for code in codes)

    def _box(self, start: int, length: int) -> Box | None:
        found: Box | None = None
        left, top, right, bottom = self._edges
        for number in range(self._count(self._raw, start, length)):
            if self._rectangle(self._raw, number, left, top, right, bottom):
                box = self._shown.box(left.value, bottom.value, right.value, top.value)
                found = box if found is None else both(found, box)
        return found

    def _size(self, start: int) -> float:
        if not self._loose(self._raw, start, self._font):
            return 0.0
        font = self._font
        box = self._shown.box(font.left, font.bottom, font.right, font.top)
        return box[3] - box[1]
