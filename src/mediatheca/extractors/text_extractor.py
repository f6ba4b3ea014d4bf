"""Texts: one document each, or one per chunk, with a vector."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from mediatheca.extractors import Description, Extract, ExtractContext, Extractor, Item, ItemError, Row, Source
from mediatheca.extractors._outputs import MODEL_NAME, Positions, cleaned, sources, vector_index
from mediatheca.extractors._splitting import Chunk, SplitBy, split
from mediatheca.kernel.documents import Vector
from mediatheca.kernel.errors import BadRequestError
from mediatheca.kernel.models import Models, TextEmbedder

MAX_CHUNKS = 20_000
"""Of one source: a chunk size of one character on a book is a mistake, not a wish."""
_BATCH = 64
_SURROGATES = re.compile("[\ud800-\udfff]")


class Params(BaseModel):
    """Parameters of `text_extractor`."""

    extractor_type: Literal["text_extractor"] = "text_extractor"
    source_type: Literal["text"] = Field("text", description="Only text: this installation has no YouTube source.")
    split_by: SplitBy = Field("none", description="The unit of a chunk; none: one document per text.")
    chunk_size: int = Field(1000, ge=1, le=10_000, description="In units of split_by; characters for markdown.")
    chunk_overlap: int = Field(0, ge=0, le=5000, description="Units repeated from the chunk before; below chunk_size.")
    language: str = Field("en", description="Of the text, for display; the models find it out by themselves.")
    embedding_model: str = Field(
        "multilingual_e5_large_instruct_v1",
        pattern=MODEL_NAME,
        max_length=200,
        description="Logical name of the model.",
    )
    embedding_task: Literal["document", "query"] = Field(
        "document",
        description="query: embed like a query, for symmetric tasks such as finding duplicates of questions.",
    )

    _cleaned = model_validator(mode="before")(cleaned)

    @model_validator(mode="after")
    def _overlap_is_smaller(self) -> Self:
        if self.chunk_overlap >= self.chunk_size:
            raise ValueError(
                f"chunk_overlap ({self.chunk_overlap}) must be smaller than chunk_size ({self.chunk_size})"
            )
        return self


def describe(params: Params, models: Models) -> Description:
    """One vector index named for the model; the text, and where a chunk comes from."""
    index = vector_index("text_extractor", "v1", models.info(params.embedding_model), "text")
    fields: dict[str, dict[str, Any]] = {"text": {"type": "string", "description": "What was embedded."}}
    if params.split_by != "none":
        fields |= {
            "chunk_index": {"type": "integer", "description": "From 0."},
            "chunk_text": {"type": "string"},
            "total_chunks": {"type": "integer"},
            "chunk_start": {"type": "integer", "description": "First character in the source text."},
            "chunk_end": {"type": "integer", "description": "One past the last character."},
        }
    if params.split_by == "markdown":
        fields |= {
            "heading_path": {"type": "array", "items": {"type": "string"}},
            "chunk_kind": {"type": "string", "enum": ["section", "code"]},
            "code_language": {"type": "string"},
        }
    return Description((index,), fields)


def open_extractor(params: Params, context: ExtractContext) -> Extract:
    """Loads the model; the returned function cuts and embeds."""
    model = context.models.text(params.embedding_model)

    def extract(item: Item) -> Iterable[Row]:
        positions = Positions()
        for source in sources(item.inputs.get("text"), "text"):
            chunks = _chunks(source, params)
            for index, (chunk, vector) in enumerate(_embedded(chunks, model, params)):
                yield Row(
                    fields=_fields(chunk, index, len(chunks), params.split_by),
                    vectors={params.embedding_model: vector},
                    source_key=source.key,
                    position=positions.take(source.key),
                )

    return extract


def text_of(source: Source) -> str:
    """The text of a source as it will be stored: NUL becomes a space, a lone surrogate U+FFFD; offsets stay the same.

    Raises:
        ItemError: not a text, or nothing but white space.
    """
    if source.value is not None and not isinstance(source.value, str | int | float):
        raise ItemError(f"'{source.key}' is a {type(source.value).__name__}, not a text")
    text = _SURROGATES.sub("\ufffd", source.text().replace("\0", " "))
    if not text.strip():
        raise ItemError(f"'{source.key}' is empty: there is no text to embed")
    return text


def _chunks(source: Source, params: Params) -> list[Chunk]:
    pieces = split(text_of(source), params.split_by, params.chunk_size, params.chunk_overlap)
    chunks = list(islice(pieces, MAX_CHUNKS + 1))
    if len(chunks) > MAX_CHUNKS:
        raise ItemError(
            f"'{source.key}' makes more than {MAX_CHUNKS:,} chunks; raise chunk_size or lower chunk_overlap"
        )
    return chunks


def _embedded(chunks: Sequence[Chunk], model: TextEmbedder, params: Params) -> Iterator[tuple[Chunk, Vector]]:
    """Chunks with their vectors, in batches; a text the model refuses is the item's fault."""
    for start in range(0, len(chunks), _BATCH):
        batch = chunks[start : start + _BATCH]
        try:
            vectors = model.embed_texts([chunk.text for chunk in batch], query=params.embedding_task == "query")
        except BadRequestError as error:
            raise ItemError(f"the model '{params.embedding_model}' refuses the text: {error.message}") from error
        yield from zip(batch, vectors, strict=True)


def _fields(chunk: Chunk, index: int, total: int, split_by: SplitBy) -> dict[str, Any]:
    if split_by == "none":
        return {"text": chunk.text}
    fields: dict[str, Any] = {
        "text": chunk.text,
        "chunk_index": index,
        "chunk_text": chunk.text,
        "total_chunks": total,
        "chunk_start": chunk.start,
        "chunk_end": chunk.end,
    }
    if split_by == "markdown":
        fields |= {"heading_path": list(chunk.heading_path), "chunk_kind": chunk.kind}
        if chunk.code_language:
            fields["code_language"] = chunk.code_language
    return fields


text_extractor = Extractor(
    name="text_extractor",
    version="v1",
    description="One document per text or per chunk of it, with a vector that texts in any of its languages can find.",
    params=Params,
    inputs={"text": ("text", "string")},
    describe=describe,
    open=open_extractor,
    required=frozenset({"text"}),
    reads=frozenset(),
    cache_version=1,
    icon="file-text",
    example={
        "input_mappings": {"text": "description"},
        "parameters": {"split_by": "sentences", "chunk_size": 5, "chunk_overlap": 1},
    },
)
