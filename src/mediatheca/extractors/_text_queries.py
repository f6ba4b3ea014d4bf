"""PDFs as queries of outputs that are made of texts: the beginning of one as a whole, or piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TypeAlias

from mediatheca.extractors import TOTAL, ExtractContext, ItemError, Row, Source
from mediatheca.extractors._chunked_text import embed_chunks
from mediatheca.extractors._container import head_of
from mediatheca.kernel.documents import Vector
from mediatheca.kernel.models import TextEmbedder
from mediatheca.kernel.passages import TextCutting
from mediatheca.kernel.search import Cutting, evenly
from mediatheca.kernel.sniff import kind_of

LONGEST = 2_000
"""Characters that are embedded at once, as of a query that is a text: models read on, but slowly."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A text of a file."""

    text: str
    page: int = 0
    """It begins on, from 1; 0 where there are none."""
    pages: int = 0
    """Of the file, also those that are not read."""


Read: TypeAlias = Callable[[Source, Cutting | None], Iterable[Passage]]
"""What the extractor makes of a file, in its order. With a `Cutting`: of so many pages evenly over it at most, and page
by page at least where that says how texts are cut. None: from the beginning, as far as it is asked for."""


class TextFile:
    """Embeds PDFs and texts as queries. A `CutFile`."""

    def __init__(self, read: Read, model: TextEmbedder, output: str, context: ExtractContext) -> None:
        self._read, self._model, self._output, self._context = read, model, output, context

    def __call__(self, source: Source) -> Vector:
        parts, length = [], 0
        for passage in self._read(source, None):
            parts.append(passage.text)
            length += len(passage.text)
            if length >= LONGEST:
                break
        if not length:
            raise ItemError(f"'{source.key}' has no text to search for")
        return self._embed("\n\n".join(parts)[:LONGEST])

    def pieces(self, source: Source, how: Cutting) -> Iterator[Row]:
        """Of a PDF: as the collection cuts texts, unless `how` says how; no piece is longer than `LONGEST`."""
        if kind_of(head_of(source))[0] != "pdf":
            return
        found = list(_cut(self._read(source, how), how.text))
        if not found:
            raise ItemError(f"'{source.key}' has no text to search for")
        for number, piece in enumerate(evenly(found, how.most), start=1):
            place = {"page_number": piece.page, TOTAL: max(len(found), piece.pages)}
            yield Row(place, {self._output: self._embed(piece.text)})
            self._context.beat(number / min(len(found), how.most))

    def _embed(self, text: str) -> Vector:
        with self._context.timed("model"):
            return next(embed_chunks([text], self._model, self._output, "retrieval_query"))


def _cut(found: Iterable[Passage], said: TextCutting | None) -> Iterator[Passage]:
    if said is not None:
        found = (_joined(list(group)) for _, group in groupby(found, key=lambda passage: passage.page))
    cutting = TextCutting(size=LONGEST) if said is None else replace(said, size=min(said.size, LONGEST))
    for passage in found:
        for start, end in cutting.spans(passage.text):
            yield replace(passage, text=passage.text[start:end])


def _joined(passages: list[Passage]) -> Passage:
    return replace(passages[0], text="\n\n".join(passage.text for passage in passages))
