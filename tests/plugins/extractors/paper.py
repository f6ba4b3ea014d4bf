"""PDFs with known content at known places, made with reportlab. Coordinates as on the wire: origin at the top left."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mediatheca.extractors._boxes import Box, area, intersection

WIDTH, HEIGHT = 595.0, 842.0
PROSE = (
    "The survey was carried out in the spring of the second year. All of the instruments had been checked before. "
    "Each site was visited three times by two observers who did not know what the other had written down. "
    "Weather and hour of the day were noted with every count, and so was the state of the water in the ponds. "
)


def shared(box: Any, known: Box) -> float:
    """Intersection over union; `box` as a tuple or as the wire has it."""
    given: Box = tuple(box[name] for name in ("x0", "y0", "x1", "y1")) if isinstance(box, dict) else box
    both = intersection(given, known)
    return both / (area(given) + area(known) - both)


class Paper:
    """A PDF in the making: page after page."""

    def __init__(self, width: float = WIDTH, height: float = HEIGHT, **options: Any) -> None:
        from reportlab.pdfgen.canvas import Canvas

        self._out = io.BytesIO()
        self.height = height
        self.canvas = Canvas(self._out, (width, height), invariant=1, **options)

    def words(self, x: float, y: float, text: str, size: float = 10, font: str = "Helvetica") -> Box:
        """A line whose baseline is at `y`; the box of its font."""
        from reportlab.pdfbase.pdfmetrics import getAscentDescent, stringWidth

        self.canvas.setFont(font, size)
        self.canvas.drawString(x, self.height - y, text)
        ascent, descent = getAscentDescent(font, size)
        return x, y - ascent, x + stringWidth(text, font, size), y - descent

    def lines(self, x: float, y: float, lines: Sequence[str], size: float = 10, leading: float = 12) -> Box:
        """Lines one below the other; the box around them."""
        boxes = [self.words(x, y + number * leading, line, size) for number, line in enumerate(lines)]
        return x, boxes[0][1], max(box[2] for box in boxes), boxes[-1][3]

    def prose(self, x: float, y: float, width: float, text: str = PROSE, size: float = 10) -> Box:
        """A text broken to a width."""
        from reportlab.lib.utils import simpleSplit

        return self.lines(x, y, simpleSplit(text, "Helvetica", size, width), size, size * 1.2)

    def grid(self, x: float, y: float, cells: Sequence[Sequence[str]], column: float = 90, row: float = 20) -> Box:
        """A table with all its lines."""
        width, height = column * len(cells[0]), row * len(cells)
        ys = [self.height - y - number * row for number in range(len(cells) + 1)]
        self.canvas.grid([x + number * column for number in range(len(cells[0]) + 1)], ys)
        self.columns(x + 4, y + row * 0.7, cells, column, row)
        return x, y, x + width, y + height

    def columns(self, x: float, y: float, cells: Sequence[Sequence[str]], column: float, row: float) -> None:
        """Cells without lines; `y` is the baseline of the first row."""
        for number, texts in enumerate(cells):
            for place, text in enumerate(texts):
                self.words(x + place * column, y + number * row, text, 9)

    def picture(self, x: float, y: float, width: float, height: float, pixels: npt.NDArray[np.uint8]) -> Box:
        from PIL import Image
        from reportlab.lib.utils import ImageReader

        made = ImageReader(Image.fromarray(pixels))
        self.canvas.drawImage(made, x, self.height - y - height, width, height)
        return x, y, x + width, y + height

    def next_page(self) -> None:
        self.canvas.showPage()

    def data(self) -> bytes:
        """The file."""
        self.canvas.save()
        return self._out.getvalue()
