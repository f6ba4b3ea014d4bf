"""Any file: what it is decides what is done; all of it lies in one space of texts and pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mediatheca.extractors import (
    Artifact,
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
from mediatheca.extractors._any_file import OCR, SEGMENT_S, SPEECH, AnyFile, JointSpace, Limits, Part, Readers, mean
from mediatheca.extractors._container import head_of, need_video_libraries
from mediatheca.extractors._llm import ModelParams
from mediatheca.extractors._outputs import (
    DIMENSIONS,
    MODEL_NAME,
    TASK_TYPE,
    Positions,
    cleaned,
    sources,
    vector_index,
)
from mediatheca.extractors._pictures import thumbnail
from mediatheca.kernel.documents import Vector
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.extras import require
from mediatheca.kernel.models import ModelInfo, Models, SpeechRecognizer, TextReader
from mediatheca.kernel.no_effect import NoEffect
from mediatheca.kernel.query_files import LONG
from mediatheca.kernel.search import Cutting
from mediatheca.kernel.sniff import kind_of

MODEL = "gemini_embedding_2"
TYPES = (
    "file", "binary", "document", "image", "video", "audio", "pdf", "excel", "spreadsheet", "gif", "text", "string",
)  # fmt: skip


class FileParams(ModelParams):
    """What extractors of any file have in common."""

    output_dimensionality: Annotated[int, DIMENSIONS] = Field(3072, ge=1, le=65_536)
    task_type: Annotated[str, TASK_TYPE] = Field("RETRIEVAL_DOCUMENT", max_length=64)
    embedding_model: str = Field(
        MODEL, pattern=MODEL_NAME, max_length=200, description="A model of texts and pictures."
    )
    extract_text: bool = Field(True, description="Read what is written in pictures and scans, and what is said.")
    max_video_segments: int = Field(10, ge=1, le=1000, description="Of 30 seconds, from the beginning.")
    max_document_pages: int = Field(50, ge=1, le=500, description="Pages, slides, sheets, or pieces of a text.")
    max_file_download_mb: int = Field(500, ge=1, le=10_000, description="Larger files fail.")
    max_concurrency: Annotated[int, NoEffect("how much is done at once is the operator's decision")] = Field(
        4, ge=1, le=64
    )

    _cleaned = model_validator(mode="before")(cleaned)


class Params(FileParams):
    """Parameters of `universal_extractor`."""

    extractor_type: Literal["universal_extractor"] = "universal_extractor"
    generate_description: bool = Field(
        True, description="Say in words what pictures and recordings show, where a vision model is configured."
    )
    enable_thumbnails: bool = True


def joint_model(params: FileParams, models: Models) -> ModelInfo:
    """The model of an extractor of any file.

    Raises:
        ValidationError: it does not take both texts and pictures.
        UnavailableError: the model, or what reads files, is not installed.
    """
    info = models.info(params.embedding_model)
    if not {"text", "image"} <= set(info.modalities):
        message = f"'{info.name}' embeds {', '.join(info.modalities)}; a model of texts and pictures is needed"
        raise ValidationError.at("feature_extractor.parameters.embedding_model", message, "modality")
    need_video_libraries("an extractor of any file")
    require("an extractor of any file", "pdf")
    if params.extract_text:
        models.info(OCR)
        models.info(SPEECH)
    return info


def weights_of(params: FileParams, models: Models) -> tuple[str, ...]:
    """Hashes of the models that read, for `Description.weights`."""
    return (models.info(OCR).weights, models.info(SPEECH).weights) if params.extract_text else ()


def opened(params: FileParams, context: ExtractContext, *, describing: bool) -> tuple[AnyFile, JointSpace]:
    """What takes files apart and what embeds the parts, loaded."""
    models, reads = context.models, params.extract_text
    readers = Readers(
        ocr=models.load(OCR, TextReader) if reads else None,
        speech=models.load(SPEECH, SpeechRecognizer) if reads else None,
        describing=params if describing else None,
    )
    limits = Limits(params.max_video_segments, params.max_document_pages, params.max_file_download_mb)
    return AnyFile(limits, readers, context), JointSpace(params.embedding_model, context)


def describe(params: Params, models: Models) -> Description:
    """One vector index for everything; what each part is and says as fields."""
    index = vector_index("universal_extractor", "v1", joint_model(params, models), "image")
    fields: dict[str, dict[str, Any]] = {
        "modality": {"type": "string", "enum": ["image", "video", "audio", "document", "text"]},
        "text": {"type": "text", "description": "What is written or said."},
        "segment_index": {"type": "integer", "description": "From 0."},
        "total_segments": {"type": "integer"},
        "page_number": {"type": "integer", "description": "Page, slide or sheet, from 1."},
        "start_time_s": {"type": "float"},
        "end_time_s": {"type": "float"},
    }
    if params.generate_description:
        fields["description"] = {"type": "text", "description": "What is to be seen, in a model's words."}
    if params.enable_thumbnails:
        fields["thumbnail_url"] = {"type": "string", "description": "JPEG, at most 640 pixels a side."}
    optional = frozenset({params.embedding_model})
    return Description((index,), fields, weights_of(params, models), optional=optional)


def open_extractor(params: Params, context: ExtractContext) -> Extract:
    """Loads the models; the returned function takes files apart and embeds the parts."""
    files, space = opened(params, context, describing=params.generate_description)

    def extract(item: Item) -> Iterable[Row | Dropped]:
        positions = Positions()
        for source in sources(item.inputs.get("file"), "file"):
            position: int | None = None
            for part in files.parts(source):
                if isinstance(part, Dropped):
                    yield replace(part, position=position) if part.kind == "field" else part
                    continue
                row = _row(part, source, positions, space.vector(part), params)
                position = row.position
                yield from space.beyond(part, source.key, position)
                yield row

    return extract


def query(params: FileParams, output: str, context: ExtractContext) -> EmbedFile:
    """Embeds the file of a query by what it looks like and says; nothing is recognised in it, which takes seconds."""
    return _AnyQuery(params, output, context)


class _AnyQuery:
    """Any file by its first part, films and PDFs also part by part. A `CutFile`."""

    def __init__(self, params: FileParams, output: str, context: ExtractContext) -> None:
        quick = params.model_copy(update={"extract_text": False, "max_video_segments": 1, "max_document_pages": 1})
        self._first, self._space = opened(quick, context, describing=False)
        self._output, self._context, self._megabytes = output, context, params.max_file_download_mb

    def __call__(self, source: Source) -> Vector:
        vectors = [vector for _, vector in self._vectors(self._first, source)]
        if not vectors:
            raise ItemError("the file of the query has nothing to embed")
        return mean(vectors)

    def pieces(self, source: Source, how: Cutting) -> Iterator[Row]:
        """Recordings by time, in the same segments as in a collection where it is not said; PDFs page by page."""
        if kind_of(head_of(source))[0] not in LONG:
            return
        limits = Limits(how.most, how.most, self._megabytes, how.seconds or SEGMENT_S, spread=True)
        for part, vector in self._vectors(AnyFile(limits, Readers(None, None, None), self._context), source):
            place = {"page_number": part.page_number, "start_time": part.start, "end_time": part.end}
            yield Row({name: value for name, value in place.items() if value is not None}, {self._output: vector})

    def _vectors(self, files: AnyFile, source: Source) -> Iterator[tuple[Part, Vector]]:
        for part in files.parts(source):
            if isinstance(part, Part) and (vector := self._space.vector(part)) is not None:
                yield part, vector


def _row(part: Part, source: Source, positions: Positions, vector: Vector | None, params: Params) -> Row:
    found = {
        "modality": part.modality,
        "text": part.text,
        "description": part.description,
        "segment_index": part.index,
        "total_segments": part.total,
        "page_number": part.page_number,
        "start_time_s": part.start,
        "end_time_s": part.end,
    }
    row = Row(
        {name: value for name, value in found.items() if value is not None and value != ""},
        {} if vector is None else {params.embedding_model: vector},
        source_key=source.key,
        position=positions.take(source.key),
    )
    if params.enable_thumbnails and part.pictures:
        shown = part.pictures[len(part.pictures) // 2]
        row.artifacts["thumbnail_url"] = Artifact(thumbnail(shown), "image/jpeg", ".jpg")
    return row


universal_extractor = Extractor(
    name="universal_extractor",
    version="v1",
    description="Any file: pictures, segments of recordings, pages and texts, all in one space.",
    params=Params,
    inputs={"file": TYPES},
    describe=describe,
    open=open_extractor,
    query=query,
    required=frozenset({"file"}),
    reads=frozenset(),
    cache_version=1,
    weight=20,
    category="universal",
    position_fields=("segment_index", "page_number", "start_time_s"),
    icon="files",
    example={"input_mappings": {"file": "content"}, "parameters": {"max_document_pages": 20}},
)
