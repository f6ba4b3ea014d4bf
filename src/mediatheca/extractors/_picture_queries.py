"""Pictures and PDFs as queries of outputs that are made of how things look."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from mediatheca.extractors import TOTAL, ExtractContext, ItemError, Row, Source
from mediatheca.extractors._container import head_of
from mediatheca.extractors._pages import PageError, Pdf, is_pdf
from mediatheca.extractors._pictures import THUMBNAIL_SIDE, decode_picture
from mediatheca.kernel.documents import Vector
from mediatheca.kernel.extras import missing
from mediatheca.kernel.models import Picture
from mediatheca.kernel.search import Cutting, evenly


class PictureFile:
    """Embeds a picture; of a PDF its first page, or page by page. A `CutFile`.

    Args:
        look: makes the vector of RGB pixels.
        dpi: of pages.
        side: pixels that a picture is decoded at, at least.
    """

    def __init__(
        self,
        look: Callable[[Picture], Vector],
        output: str,
        context: ExtractContext,
        *,
        dpi: int,
        side: int = THUMBNAIL_SIDE,
    ) -> None:
        self._look, self._output, self._context = look, output, context
        self._dpi, self._side = dpi, side

    def __call__(self, source: Source) -> Vector:
        if is_pdf(head_of(source)):
            with _opened(source) as pdf:
                return next(self._pages(pdf, range(1, len(pdf) + 1), source.key))[1]
        with self._context.timed("decode"):
            picture = decode_picture(source.read(), source.key or "query", self._side)
        with self._context.timed("model"):
            return self._look(picture.pixels)

    def pieces(self, source: Source, how: Cutting) -> Iterator[Row]:
        """The pages of a PDF that can be shown."""
        if not is_pdf(head_of(source)):
            return
        with _opened(source) as pdf:
            chosen = evenly(range(1, len(pdf) + 1), how.most)
            for number, vector in self._pages(pdf, chosen, source.key):
                yield Row({"page_number": number, TOTAL: len(pdf)}, {self._output: vector})

    def _pages(self, pdf: Pdf, numbers: Sequence[int], name: str) -> Iterator[tuple[int, Vector]]:
        """
        Raises:
            ItemError: none of them can be shown.
        """
        problem, shown = "", 0
        for place, number in enumerate(numbers, start=1):
            try:
                with self._context.timed("decode"), pdf.page(number) as page:
                    pixels = page.render(self._dpi)
            except PageError as error:
                problem = str(error)
                continue
            with self._context.timed("model"):
                vector = self._look(pixels)
            shown += 1
            yield number, vector
            self._context.beat(place / len(numbers))
        if not shown:
            raise ItemError(f"no page of '{name}' can be shown: {problem}")


@contextmanager
def _opened(source: Source) -> Iterator[Pdf]:
    if lacking := missing("pdf"):
        raise ItemError(f"'{source.key}' is a PDF: {lacking}", permanent=False)
    with Pdf.open(source) as pdf:
        yield pdf
