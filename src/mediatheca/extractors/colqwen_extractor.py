"""Pages, pictures and frames with a vector for every patch: found by words in them without reading them (ColQwen)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from mediatheca.extractors import (
    Artifact,
    Description,
    Dropped,
    EmbedFile,
    Extract,
    ExtractContext,
    Extractor,
    Item,
    Row,
    Source,
)
from mediatheca.extractors._outputs import CDN, MODEL_NAME, Positions, cleaned, vector_index
from mediatheca.extractors._picture_queries import PictureFile
from mediatheca.extractors._pictures import thumbnail
from mediatheca.extractors._views import EXTRAS, INPUTS, Sampling, ViewKind, given, views
from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.models import ModelInfo, Models, PageEmbedder

SIDE = 1024
"""Pixels that a picture is decoded at, at least; models look at about 450 to 800."""


class Params(BaseModel):
    """Parameters of `colqwen_extractor`."""

    extractor_type: Literal["colqwen_extractor"] = "colqwen_extractor"
    enable_thumbnails: bool = Field(True, description="Store a JPEG of at most 640 pixels a side.")
    use_cdn: Annotated[bool, CDN] = False
    video_sampling_fps: float = Field(0.5, gt=0, le=10, description="Frames a second that become documents.")
    max_video_length: int = Field(300, ge=1, le=3600, description="Seconds that are looked at.")
    embedding_model: str = Field(
        "colqwen2_v1",
        pattern=MODEL_NAME,
        max_length=200,
        description="Logical name of a model with a vector for every patch; none is bundled.",
    )

    _cleaned = model_validator(mode="before")(cleaned)


def describe(params: Params, models: Models) -> Description:
    """One multi-vector index named for the model; which page or frame a document is.

    Raises:
        UnavailableError: no weights answer to the name. None is bundled: the message says where to put a folder.
        ValidationError: the model has no vectors of patches.
    """
    info = _info(params.embedding_model, models)
    index = vector_index("colqwen_extractor", "v1", info, "pages")
    asked = tuple(kind for kind in ("text", "image") if kind in info.modalities)
    fields: dict[str, dict[str, Any]] = {
        "page_number": {"type": "integer", "description": "In a PDF, from 1."},
        "frame_number": {"type": "integer", "description": "In a video, from 0."},
        "timestamp": {"type": "number", "description": "In a video, seconds."},
        "width": {"type": "integer"},
        "height": {"type": "integer"},
        "patch_count": {"type": "integer", "description": "Vectors of this document."},
    }
    if params.enable_thumbnails:
        fields["thumbnail_url"] = {"type": "string", "description": "JPEG, at most 640 pixels a side."}
    return Description((replace(index, multi=True, modalities=asked),), fields)


def _info(name: str, models: Models) -> ModelInfo:
    try:
        return models.info(name)
    except UnavailableError as error:
        raise UnavailableError(
            f"no weights answer to '{name}', and no model of pages is bundled: put an ONNX folder with a card of kind "
            f"'pages' into the models folder under that name (docs/models.md)"
        ) from error


def open_extractor(params: Params, context: ExtractContext) -> Extract:
    """Loads the model; the returned function looks at pages, pictures and frames."""
    model = context.models.load(params.embedding_model, PageEmbedder)
    how = Sampling(SIDE, params.video_sampling_fps, params.max_video_length)

    def extract(item: Item) -> Iterable[Row | Dropped]:
        positions = Positions()
        for source, kind in given(item):
            yield from rows(source, kind, positions)

    def rows(source: Source, kind: ViewKind, positions: Positions) -> Iterator[Row | Dropped]:
        for view in views(source, kind, how, context):
            if isinstance(view, Dropped):
                yield view
                continue
            with context.timed("model"):
                vectors = model.embed_pages([view.pixels])[0]
            fields = {**view.place, "width": view.width, "height": view.height, "patch_count": len(vectors)}
            row = Row(fields, {params.embedding_model: vectors}, {}, source.key, positions.take(source.key))
            if params.enable_thumbnails:
                row.artifacts["thumbnail_url"] = Artifact(thumbnail(view.pixels), "image/jpeg", ".jpg")
            yield row

    return extract


def open_query(params: Params, output: str, context: ExtractContext) -> EmbedFile:
    """A picture, or the pages of a PDF, as a query: the vectors of their patches."""
    model = context.models.load(params.embedding_model, PageEmbedder)
    dpi = Sampling(SIDE).dpi
    return PictureFile(lambda pixels: model.embed_pages([pixels])[0], output, context, dpi=dpi, side=SIDE)


colqwen_extractor = Extractor(
    name="colqwen_extractor",
    version="v1",
    description="One document per page, picture or frame with a vector for every patch: text in it is found unread.",
    params=Params,
    inputs=INPUTS,
    extras=EXTRAS,
    describe=describe,
    open=open_extractor,
    query=open_query,
    reads=frozenset(),
    cache_version=1,
    weight=10,
    aliases=("colqwen",),
    position_fields=("page_number", "frame_number"),
    icon="file-search",
    example={"input_mappings": {"pdf": "document"}, "parameters": {"enable_thumbnails": True}},
)
