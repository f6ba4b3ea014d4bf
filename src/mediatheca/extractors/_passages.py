"""Passages of texts, for extractors whose vectors hold a few hundred words at a time (sparse, one a token)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Self

from pydantic import BaseModel, Field, model_validator

from mediatheca.extractors import Dropped, ExtractContext, ItemError, Source
from mediatheca.extractors._chunked_text import MAX_ROWS
from mediatheca.extractors._splitting import SplitBy, split
from mediatheca.extractors._texts import text_of

FIELDS: dict[str, dict[str, Any]] = {
    "text": {"type": "text", "description": "The passage."},
    "chunk_index": {"type": "integer", "description": "From 0."},
    "total_chunks": {"type": "integer"},
    "chunk_start": {"type": "integer", "description": "First character in the source text."},
    "chunk_end": {"type": "integer", "description": "One past the last character."},
    "page_number": {"type": "integer", "description": "Of a PDF: the page it begins on, from 1."},
}


class PassageParams(BaseModel):
    """How texts are cut."""

    split_by: SplitBy = Field("words", description="The unit of a passage; none: one document per text.")
    chunk_size: int = Field(300, ge=1, le=10_000, description="In units of split_by; characters for markdown.")
    chunk_overlap: int = Field(0, ge=0, le=5000, description="Units repeated from the passage before.")

    @model_validator(mode="after")
    def _overlap_is_smaller(self) -> Self:
        if self.chunk_overlap >= self.chunk_size:
            raise ValueError(
                f"chunk_overlap ({self.chunk_overlap}) must be smaller than chunk_size ({self.chunk_size})"
            )
        return self


def passages(source: Source, params: PassageParams, context: ExtractContext) -> Iterator[dict[str, Any] | Dropped]:
    """The fields of each passage of a source, in order, and the pages without text.

    Raises:
        ItemError: no text, or more passages than documents can be made of.
    """
    with context.timed("decode"):
        found = text_of(source)
    yield from found.dropped
    chunks = list(islice(split(found.text, params.split_by, params.chunk_size, params.chunk_overlap), MAX_ROWS + 1))
    if len(chunks) > MAX_ROWS:
        raise ItemError(f"'{source.key}' makes more than {MAX_ROWS:,} passages; raise chunk_size")
    for index, chunk in enumerate(chunks):
        context.beat(index / len(chunks))
        fields: dict[str, Any] = {"text": chunk.text, "chunk_index": index, "total_chunks": len(chunks)}
        fields |= {"chunk_start": chunk.start, "chunk_end": chunk.end}
        page = found.page_at(chunk.start)
        yield fields | {"page_number": page} if page else fields
