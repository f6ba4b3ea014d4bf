"""Pictures: one document each, with a vector, a thumbnail and the picture's own facts. PDFs: a document a page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
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
from mediatheca.extractors._llm import ShapeParams, answer, needs, say, shape_fields
from mediatheca.extractors._looking import look
from mediatheca.extractors._outputs import CDN, MODEL_NAME, Positions, sources, vector_index, without_nulls
from mediatheca.extractors._pages import PageError, Pdf, is_pdf
from mediatheca.extractors._picture_queries import PictureFile
from mediatheca.extractors._pictures import Picture, decode_picture, thumbnail
from mediatheca.kernel.extras import missing
from mediatheca.kernel.models import ImageEmbedder, Models

_CAPTIONS = ("caption", "title", "alt", "description")
"""Fields of the object that say what its picture shows, most telling first."""
_MAX_CAPTION = 1000
PAGE_DPI = 72
_PROMPT = "Describe what the picture shows in two or three sentences."


class Params(ShapeParams):
    """Parameters of `image_extractor`."""

    extractor_type: Literal["image_extractor"] = "image_extractor"
    enable_thumbnails: bool = Field(True, description="Store a JPEG of at most 640 pixels a side with every document.")
    use_cdn: Annotated[bool, CDN] = False
    embedding_model: str = Field(
        "google_siglip_base_v1", pattern=MODEL_NAME, max_length=200, description="Logical name of the model."
    )
    use_captions: bool = Field(
        True, description="Let the object's caption, title, alt or description take part, where the model can use it."
    )
    run_description: bool = Field(False, description="Let a language model say what the picture shows.")
    description_prompt: str = Field(_PROMPT, min_length=3, max_length=4000)

    _cleaned = model_validator(mode="before")(without_nulls)


def describe(params: Params, models: Models) -> Description:
    """One vector index named for the model; size, format and thumbnail as fields."""
    index = vector_index("image_extractor", "v1", models.info(params.embedding_model), "image")
    fields: dict[str, dict[str, Any]] = {
        "width": {"type": "integer", "description": "Pixels, upright; of a page at 72 dpi."},
        "height": {"type": "integer", "description": "Pixels, upright; of a page at 72 dpi."},
        "format": {"type": "string", "description": "jpeg, png, gif, … or pdf"},
        "exif": {"type": "object", "description": "camera and taken_at, where the file says so."},
        "page_number": {"type": "integer", "description": "Of a page of a PDF, from 1."},
        "total_pages": {"type": "integer", "description": "Of a PDF."},
    }
    if params.enable_thumbnails:
        fields["thumbnail_url"] = {"type": "string", "description": "JPEG, at most 640 pixels a side."}
    if params.run_description:
        fields["description"] = {"type": "text", "description": "What a language model says it shows."}
    fields |= shape_fields(params, fields)
    asks = params.run_description or params.response_shape is not None
    return Description((index,), fields, needs=needs(params, asks))


def open_extractor(params: Params, context: ExtractContext) -> Extract:
    """Loads the model; the returned function decodes, embeds and makes thumbnails."""
    worker = _Worker(params, context, context.models.image(params.embedding_model))

    def extract(item: Item) -> Iterable[Row | Dropped]:
        positions = Positions()
        caption = caption_of(item) if params.use_captions else None
        for source in sources(item.inputs.get("image"), "image"):
            for shown in worker.pictures(source):
                if isinstance(shown, Dropped):
                    yield shown
                else:
                    yield from worker.rows(shown, caption, source, positions.take(source.key))

    return extract


@dataclass(frozen=True, slots=True)
class _Shown:
    """A picture, or a page as one."""

    picture: Picture
    page: int = 0
    pages: int = 0


class _Worker:
    def __init__(self, params: Params, context: ExtractContext, model: ImageEmbedder) -> None:
        self._params, self._context, self._model = params, context, model

    def pictures(self, source: Source) -> Iterator[_Shown | Dropped]:
        """The picture of a source, or the pages of a PDF."""
        data = source.read()
        name = source.key or "image"
        if not is_pdf(data[:1024]):
            with self._context.timed("decode"):
                picture = decode_picture(data, name)
            yield _Shown(picture)
            return
        if lacking := missing("pdf"):
            raise ItemError(f"'{name}' is a PDF: {lacking}", permanent=False)
        yield from self._pages(source, name)

    def _pages(self, source: Source, name: str) -> Iterator[_Shown | Dropped]:
        problem, made = "", 0
        with Pdf.open(source) as pdf:
            for number in range(1, len(pdf) + 1):
                try:
                    with self._context.timed("decode"), pdf.page(number) as page:
                        pixels = page.render(PAGE_DPI)
                except PageError as error:
                    problem = str(error)
                    yield Dropped(f"page {number}", problem, source.key, number, "page")
                    continue
                made += 1
                height, width = pixels.shape[:2]
                yield _Shown(Picture(pixels, width, height, "pdf"), number, len(pdf))
                self._context.beat(number / len(pdf))
        if not made:
            raise ItemError(f"no page of '{name}' can be shown: {problem}")

    def rows(self, shown: _Shown, caption: str | None, source: Source, position: int) -> Iterator[Row | Dropped]:
        """The document of a picture."""
        picture, params = shown.picture, self._params
        vector = look(picture.pixels, self._model, self._context, caption)
        row = Row(
            fields={"width": picture.width, "height": picture.height, "format": picture.format},
            vectors={params.embedding_model: vector},
            source_key=source.key,
            position=position,
        )
        if picture.exif:
            row.fields["exif"] = picture.exif
        if shown.page:
            row.fields |= {"page_number": shown.page, "total_pages": shown.pages}
        if params.enable_thumbnails:
            row.artifacts["thumbnail_url"] = Artifact(thumbnail(picture.pixels), "image/jpeg", ".jpg")
        yield from self._told(row, picture, caption)
        yield row

    def _told(self, row: Row, picture: Picture, caption: str | None) -> Iterator[Dropped]:
        """What language models say of it; a field that could not be filled is told."""
        params, desk = self._params, self._context.desk
        texts = [caption] if caption else []
        if params.run_description:
            text, problem = say(desk, params, params.description_prompt, texts, [picture.pixels])
            row.fields["description"] = text or None
            if problem or not text:
                yield Dropped("description", problem or "the model said nothing", row.source_key, row.position, "field")
        if params.response_shape is not None:
            answered, problem = answer(desk, params, texts, [picture.pixels])
            row.fields |= answered
            if problem:
                yield Dropped("response_shape", problem, row.source_key, row.position, "field")


def open_query(params: Params, output: str, context: ExtractContext) -> EmbedFile:
    """Embeds a picture, or the pages of a PDF, by what is seen."""
    model = context.models.image(params.embedding_model)
    return PictureFile(lambda pixels: model.embed_images([pixels], [None])[0], output, context, dpi=PAGE_DPI)


def caption_of(item: Item) -> str | None:
    """What the object says of its picture: the mapped `caption`, else its telling fields, each once."""
    mapped = [source.text() for source in item.inputs.get("caption", ())]
    found = [text.strip() for text in mapped or _telling(item.fields) if text.strip()]
    return ". ".join(dict.fromkeys(found))[:_MAX_CAPTION] or None


def _telling(fields: Mapping[str, Any]) -> list[str]:
    by_name = {str(name).lower(): value for name, value in fields.items()}
    return [by_name[name] for name in _CAPTIONS if isinstance(by_name.get(name), str)]


image_extractor = Extractor(
    name="image_extractor",
    version="v1",
    description="One document per picture: a vector that pictures and texts can find, a thumbnail, width and height.",
    params=Params,
    # PDFs are read where they are mapped by name; as a type of this input, a picture beside one would not be found.
    inputs={"image": ("image",), "caption": ("text", "string")},
    extras={"pdf": ("pdf",)},
    describe=describe,
    open=open_extractor,
    required=frozenset({"image"}),
    reads=frozenset(_CAPTIONS),
    cache_version=2,
    query=open_query,
    position_fields=("page_number",),
    icon="image",
    example={"input_mappings": {"image": "photo"}, "parameters": {"enable_thumbnails": True}},
)
