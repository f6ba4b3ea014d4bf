"""Pages without text: recognised, and laid out like pages with text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mediatheca.extractors import ExtractContext
from mediatheca.extractors._boxes import Box, Word
from mediatheca.extractors._layout import Block, blocks_of
from mediatheca.extractors._pages import Page, PageError
from mediatheca.kernel.desk import Desk
from mediatheca.kernel.models import TextReader
from mediatheca.kernel.steps import Step, step

MAX_FIGURES = 20
_READ = Step("ocr", 1)
_UNREADABLE = 0.3
"""Share of unreadable characters from which a page's text is worth less than what a recogniser reads."""


def read_picture(pixels: npt.NDArray[np.uint8], reader: TextReader, desk: Desk) -> list[dict[str, Any]]:
    """The lines in a picture: `text`, `box` (four corners in pixels), `confidence`. The same picture is read once."""
    digest = hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()
    parts = [digest, list(pixels.shape), reader.info.weights]
    lines: list[dict[str, Any]] = step(desk, _READ, parts, lambda: [_plain(line) for line in reader.read(pixels)])
    return lines


def _plain(line: Any) -> dict[str, Any]:
    return {"text": line.text, "box": [list(point) for point in line.box], "confidence": line.confidence}


@dataclass(frozen=True, slots=True)
class PageReader:
    """Reads pages of PDFs: their text, or what a recogniser finds where there is none worth its name."""

    context: ExtractContext
    reader: TextReader | None
    """None: pages without text are errors."""
    dpi: float
    vertical_threshold: float = 15.0
    horizontal_threshold: float = 50.0

    def read(self, page: Page) -> tuple[list[Block], bool]:
        """The blocks of a page in reading order, and whether they were recognised.

        Raises:
            PageError: it has no text, and there is nothing to read it with.
        """
        blocks = page.text_blocks(self.vertical_threshold, self.horizontal_threshold) if page.has_text else []
        if page.is_blank or (blocks and not _is_unreadable(blocks)):
            return blocks, False
        if self.reader is None:
            if blocks:
                return blocks, False
            raise PageError("a scanned page: it has no text, and nothing is set to read it (ocr_model)")
        return self._recognised(page, self.reader) or figures(page), True

    def _recognised(self, page: Page, reader: TextReader) -> list[Block]:
        pixels = page.render(self.dpi)
        with self.context.timed("model"):
            lines = read_picture(pixels, reader, self.context.desk)
        scale = pixels.shape[1] / page.width
        words = [
            Word(line["text"], _box(line["box"], scale), number, _height(line["box"], scale), line["confidence"])
            for number, line in enumerate(lines)
            if line["text"].strip()
        ]
        size = page.width, page.height
        return blocks_of(words, page.rulings, (), size, self.vertical_threshold, self.horizontal_threshold)


def figures(page: Page) -> list[Block]:
    """The pictures of a page on which nothing is written."""
    return [Block("figure", box) for box in page.pictures[:MAX_FIGURES]]


def _is_unreadable(blocks: Sequence[Block]) -> bool:
    letters = sum(len(block.text) for block in blocks)
    return sum(block.garbled * len(block.text) for block in blocks) > _UNREADABLE * max(letters, 1)


def _box(corners: Sequence[Sequence[float]], scale: float) -> Box:
    xs, ys = [x / scale for x, _ in corners], [y / scale for _, y in corners]
    return min(xs), min(ys), max(xs), max(ys)


def _height(corners: Sequence[Sequence[float]], scale: float) -> float:
    """Of the writing, also where it is slanted: the shorter pair of sides."""
    (x0, y0), (x1, y1), _, (x3, y3) = corners
    return min(float(np.hypot(x1 - x0, y1 - y0)), float(np.hypot(x3 - x0, y3 - y0))) / scale
