"""Pictures of a page and of its blocks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mediatheca.extractors import Artifact
from mediatheca.extractors._boxes import Box
from mediatheca.extractors._pages import Pdf
from mediatheca.extractors._pictures import jpeg, thumbnail

_SHOWN_MARGIN = 4.0
"""Points around a block in its picture."""


class PagePictures:
    """Pictures of one page and its blocks; rendered once for each resolution."""

    def __init__(self, pdf: Pdf, number: int) -> None:
        self._pdf, self._number = pdf, number
        self._rendered: dict[int, tuple[npt.NDArray[np.uint8], float]] = {}
        self._page: Artifact | None = None

    def page(self, dpi: int) -> Artifact:
        if self._page is None:
            pixels, _ = self._render(dpi)
            self._page = Artifact(thumbnail(pixels), "image/jpeg", ".jpg")
        return self._page

    def block(self, dpi: int, box: Box) -> Artifact:
        return Artifact(jpeg(self.crop(dpi, box)), "image/jpeg", ".jpg")

    def crop(self, dpi: int, box: Box) -> npt.NDArray[np.uint8]:
        """A block with a margin; at least one pixel."""
        pixels, scale = self._render(dpi)
        height, width = pixels.shape[:2]
        x0, y0 = (max(int((value - _SHOWN_MARGIN) * scale), 0) for value in box[:2])
        x1, y1 = (int((value + _SHOWN_MARGIN) * scale) + 1 for value in box[2:])
        x0, y0 = min(x0, width - 1), min(y0, height - 1)
        return pixels[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]

    def _render(self, dpi: int) -> tuple[npt.NDArray[np.uint8], float]:
        if dpi not in self._rendered:
            with self._pdf.page(self._number) as page:
                self._rendered[dpi] = page.render(dpi), page.scale(dpi)
        return self._rendered[dpi]
