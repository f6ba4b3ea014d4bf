"""Texts: one document each, or one per chunk, with a vector. Also the texts of PDFs, captions files and web pages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, Self, TypeAlias

from pydantic import Field, field_validator, model_validator

from mediatheca.extractors import (
    Description,
    Dropped,
    EmbedFile,
    Extract,
    ExtractContext,
    Extractor,
    Item,
    ItemError,
    Row,
    Source,
)
from mediatheca.extractors._captions import windows
from mediatheca.extractors._chunked_text import MAX_ROWS, beyond_window, embed_chunks
from mediatheca.extractors._llm import ShapeParams, answer, needs, shape_fields
from mediatheca.extractors._outputs import (
    MODEL_NAME,
    Positions,
    TaskName,
    sources,
    task_of,
    vector_index,
    without_nulls,
)
from mediatheca.extractors._splitting import Chunk, SplitBy, split
from mediatheca.extractors._text_queries import Passage, TextFile
from mediatheca.extractors._texts import SourceText, text_of
from mediatheca.kernel.documents import Vector
from mediatheca.kernel.extras import require
from mediatheca.kernel.models import LanguageIdentifier, Models
from mediatheca.kernel.search import Cutting

LANGUAGE_MODEL = "py3langid"
AUTO = "auto"
_UNSAID = "en"
"""The default, which clients send by themselves: of no text does it say anything."""
_SURE = 0.5
"""Below, a language is a guess: texts of a few words."""
_COSTLY = 8
"""Chunks from which their vectors are a step of their own, kept when other parameters change."""
TextSplit: TypeAlias = SplitBy | Literal["time_segments"]


class Params(ShapeParams):
    """Parameters of `text_extractor`."""

    extractor_type: Literal["text_extractor"] = "text_extractor"
    source_type: Literal["text"] = Field("text", description="Only text: this installation has no YouTube source.")
    split_by: TextSplit = Field(
        "none",
        description="The unit of a chunk; none: one document per text. pages: of PDFs, or between form feeds. "
        "time_segments: stretches of a captions file.",
    )
    chunk_size: int = Field(1000, ge=1, le=10_000, description="In units of split_by; characters for markdown.")
    chunk_overlap: int = Field(0, ge=0, le=5000, description="Units repeated from the chunk before; below chunk_size.")
    segment_length_seconds: int = Field(120, ge=30, le=600, description="Of a time segment.")
    language: str = Field(
        "en",
        pattern=r"^[A-Za-z]{2,3}([-_][A-Za-z0-9]+)*$|^auto$",
        max_length=32,
        description="Of the texts: the field 'language' of every document. auto: identified for each; en, the default, "
        "is not written.",
    )
    extract_captions: bool = Field(
        True, description="Captions files (SubRip, WebVTT, SubStation) are read as what is said; false: as written."
    )
    embedding_model: str = Field(
        "multilingual_e5_large_instruct_v1",
        pattern=MODEL_NAME,
        max_length=200,
        description="Logical name of the model.",
    )
    embedding_task: TaskName = Field(
        "document",
        description="What the model is told the text is for. query: embed like a query, for symmetric tasks such as "
        "finding duplicates of questions. Models that do not tell tasks apart tell queries from documents.",
    )

    _cleaned = model_validator(mode="before")(without_nulls)

    @field_validator("source_type", mode="before")
    @classmethod
    def _no_youtube(cls, value: Any) -> Any:
        if value == "youtube":
            raise ValueError(
                "youtube: this installation does not fetch from there; store the captions file and extract that"
            )
        return value

    @model_validator(mode="after")
    def _overlap_is_smaller(self) -> Self:
        if self.chunk_overlap >= self.chunk_size:
            raise ValueError(
                f"chunk_overlap ({self.chunk_overlap}) must be smaller than chunk_size ({self.chunk_size})"
            )
        return self

    @property
    def stated_language(self) -> str | None:
        """What the field `language` of every document is, where somebody said it."""
        return None if self.language in (AUTO, _UNSAID) else self.language


_CHUNK: dict[str, dict[str, Any]] = {
    "chunk_index": {"type": "integer", "description": "From 0."},
    "chunk_text": {"type": "string"},
    "total_chunks": {"type": "integer"},
}
_PLACE: dict[str, dict[str, Any]] = {
    "chunk_start": {"type": "integer", "description": "First character in the source text."},
    "chunk_end": {"type": "integer", "description": "One past the last character."},
}
_TIMES: dict[str, dict[str, Any]] = {
    "start_time": {"type": "number", "description": "Of its first caption, seconds."},
    "end_time": {"type": "number", "description": "Of its last caption, seconds."},
}
_MARKDOWN: dict[str, dict[str, Any]] = {
    "heading_path": {"type": "array", "items": {"type": "string"}},
    "chunk_kind": {"type": "string", "enum": ["section", "code"]},
    "code_language": {"type": "string"},
}
_PAGES: dict[str, dict[str, Any]] = {
    "page_number": {"type": "integer", "description": "Of a PDF: the page it begins on, from 1."},
    "total_pages": {"type": "integer", "description": "Of a PDF."},
}
_STATED: dict[str, dict[str, Any]] = {"language": {"type": "string", "description": "As the collection says."}}
_LANGUAGE: dict[str, dict[str, Any]] = {
    "language": {"type": "string", "description": "ISO 639, as identified; absent where it is not sure."},
    "language_confidence": {"type": "number", "description": "0 to 1."},
}


def describe(params: Params, models: Models) -> Description:
    """One vector index named for the model; the text, and where a chunk comes from.

    Raises:
        UnavailableError: no weights answer to the model, or the identifier of languages is not installed.
    """
    if params.split_by == "time_segments":
        require("text_extractor with split_by time_segments", "text", "pysubs2")
    index = vector_index("text_extractor", "v1", models.info(params.embedding_model), "text")
    fields: dict[str, dict[str, Any]] = {"text": {"type": "text", "description": "What was embedded."}, **_PAGES}
    if params.split_by != "none":
        fields |= _CHUNK | (_TIMES if params.split_by == "time_segments" else _PLACE)
    if params.split_by == "markdown":
        fields |= _MARKDOWN
    weights: tuple[str, ...] = ()
    if params.language == AUTO:
        fields |= _LANGUAGE
        weights = (models.info(LANGUAGE_MODEL).weights,)
    elif params.stated_language:
        fields |= _STATED
    fields |= shape_fields(params, fields)
    return Description(
        (index,),
        fields,
        weights,
        texts={params.embedding_model: "text"},
        needs=needs(params, params.response_shape is not None),
    )


@dataclass(frozen=True, slots=True)
class _Piece:
    """What becomes a document: its text, and the fields that say where it is from."""

    text: str
    fields: dict[str, Any]


def open_extractor(params: Params, context: ExtractContext) -> Extract:
    """Loads the models; the returned function reads, cuts and embeds."""
    worker = _Worker(params, context)

    def extract(item: Item) -> Iterable[Row | Dropped]:
        positions = Positions()
        for source in sources(item.inputs.get("text"), "text"):
            with context.timed("decode"):
                found = text_of(source, params.extract_captions)
            yield from found.dropped
            if found.text:
                yield from worker.rows(found, source, positions)

    return extract


class _Worker:
    """One set of parameters with its models."""

    def __init__(self, params: Params, context: ExtractContext) -> None:
        self._params, self._context = params, context
        self._model = context.models.text(params.embedding_model)
        auto = params.language == AUTO
        self._identifier = context.models.load(LANGUAGE_MODEL, LanguageIdentifier) if auto else None

    def rows(self, found: SourceText, source: Source, positions: Positions) -> Iterator[Row | Dropped]:
        """A document for each piece of a text."""
        params = self._params
        pieces = _pieces(found, source.key, params)
        for piece, vector in zip(pieces, self._vectors(pieces), strict=True):
            row = Row(piece.fields, {params.embedding_model: vector}, {}, source.key, positions.take(source.key))
            if self._identifier is not None:
                _tell_language(row, self._identifier)
            elif params.stated_language:
                row.fields["language"] = params.stated_language
            if params.response_shape is not None:
                answered, problem = answer(self._context.desk, params, [piece.text])
                row.fields |= answered
                if problem:
                    yield Dropped("response_shape", problem, source.key, row.position, "field")
            yield from beyond_window(self._model, piece.text, source.key, row.position)
            yield row

    def _vectors(self, pieces: list[_Piece]) -> Iterator[Vector]:
        name, context = self._params.embedding_model, self._context
        desk = context.desk if len(pieces) >= _COSTLY else None
        task = task_of(self._params.embedding_task)
        made = embed_chunks([piece.text for piece in pieces], self._model, name, task, desk)
        for number in range(len(pieces)):
            with context.timed("model"):
                vector = next(made)
            yield vector
            context.beat((number + 1) / len(pieces))


def _tell_language(row: Row, identifier: LanguageIdentifier) -> None:
    language, confidence = identifier.identify(row.fields["text"])
    if confidence >= _SURE:
        row.fields |= {"language": language, "language_confidence": round(confidence, 4)}


def _pieces(found: SourceText, name: str, params: Params) -> list[_Piece]:
    if params.split_by == "time_segments":
        return _segments(found, name, params.segment_length_seconds)
    chunks = list(islice(split(found.text, params.split_by, params.chunk_size, params.chunk_overlap), MAX_ROWS + 1))
    if len(chunks) > MAX_ROWS:
        raise ItemError(f"'{name}' makes more than {MAX_ROWS:,} chunks; raise chunk_size or lower chunk_overlap")
    return [
        _Piece(chunk.text, _fields(chunk, index, len(chunks), params.split_by) | _page(found, chunk))
        for index, chunk in enumerate(chunks)
    ]


def _segments(found: SourceText, name: str, seconds: int) -> list[_Piece]:
    if not found.cues:
        raise ItemError(f"'{name}' has no times: split_by time_segments needs a captions file (SubRip, WebVTT, ASS)")
    made = windows(found.cues, seconds)
    return [
        _Piece(
            cue.text,
            {
                "text": cue.text,
                "chunk_index": index,
                "chunk_text": cue.text,
                "total_chunks": len(made),
                "start_time": cue.start,
                "end_time": cue.end,
            },
        )
        for index, cue in enumerate(made)
    ]


def _page(found: SourceText, chunk: Chunk) -> dict[str, int]:
    page = found.page_at(chunk.start)
    return {"page_number": page, "total_pages": found.total_pages} if page else {}


def _fields(chunk: Chunk, index: int, total: int, split_by: str) -> dict[str, Any]:
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


def open_query(params: Params, output: str, context: ExtractContext) -> EmbedFile:
    """Embeds a PDF or another file with a text."""

    def read(source: Source, how: Cutting | None) -> Iterator[Passage]:
        found = text_of(source, params.extract_captions, None if how is None else how.most)
        if not found.text:
            raise ItemError(f"'{source.key}' has no text to search for: {found.dropped[0].reason}")
        by, size, overlap = params.split_by, params.chunk_size, params.chunk_overlap
        if how is None or how.text is not None or by in ("none", "time_segments"):
            by, size, overlap = "pages", 1, 0
        assert by != "time_segments"
        for chunk in islice(split(found.text, by, size, overlap), MAX_ROWS):
            yield Passage(chunk.text, found.page_at(chunk.start), found.total_pages)

    return TextFile(read, context.models.text(params.embedding_model), output, context)


text_extractor = Extractor(
    name="text_extractor",
    version="v1",
    description="One document per text or per chunk of it, with a vector that texts in any of its languages can find.",
    params=Params,
    # Files are read too where they are mapped by name. They are no types of this input: a text that begins like an
    # address would be fetched then.
    inputs={"text": ("text", "string")},
    extras={"pdf": ("pdf",)},
    describe=describe,
    open=open_extractor,
    required=frozenset({"text"}),
    reads=frozenset(),
    cache_version=2,
    query=open_query,
    query_files=frozenset({"pdf"}),
    position_fields=("chunk_index",),
    icon="file-text",
    example={
        "input_mappings": {"text": "description"},
        "parameters": {"split_by": "sentences", "chunk_size": 5, "chunk_overlap": 1},
    },
)
