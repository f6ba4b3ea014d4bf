"""Pictures: one document each, with a vector, a thumbnail and the picture's own facts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator

from mediatheca.extractors import Artifact, Description, Extract, ExtractContext, Extractor, Item, Row
from mediatheca.extractors._outputs import MODEL_NAME, Positions, cleaned, sources, vector_index
from mediatheca.extractors._pictures import decode_picture, thumbnail
from mediatheca.kernel.models import Models

_CAPTIONS = ("caption", "title", "alt", "description")
"""Fields of the object that say what its picture shows, most telling first."""
_MAX_CAPTION = 1000


class Params(BaseModel):
    """Parameters of `image_extractor`."""

    extractor_type: Literal["image_extractor"] = "image_extractor"
    enable_thumbnails: bool = Field(True, description="Store a JPEG of at most 640 pixels a side with every document.")
    use_cdn: bool = Field(
        False, description="Accepted for compatibility: thumbnails are always served by signed addresses."
    )
    embedding_model: str = Field(
        "google_siglip_base_v1", pattern=MODEL_NAME, max_length=200, description="Logical name of the model."
    )
    use_captions: bool = Field(
        True, description="Let the object's caption, title, alt or description take part, where the model can use it."
    )

    _cleaned = model_validator(mode="before")(cleaned)


def describe(params: Params, models: Models) -> Description:
    """One vector index named for the model; size, format and thumbnail as fields."""
    index = vector_index("image_extractor", "v1", models.info(params.embedding_model), "image")
    fields: dict[str, dict[str, Any]] = {
        "width": {"type": "integer", "description": "Pixels, upright."},
        "height": {"type": "integer", "description": "Pixels, upright."},
        "format": {"type": "string", "description": "jpeg, png, gif, …"},
        "exif": {"type": "object", "description": "camera and taken_at, where the file says so."},
    }
    if params.enable_thumbnails:
        fields["thumbnail_url"] = {"type": "string", "description": "JPEG, at most 640 pixels a side."}
    return Description((index,), fields)


def open_extractor(params: Params, context: ExtractContext) -> Extract:
    """Loads the model; the returned function decodes, embeds and makes thumbnails."""
    model = context.models.image(params.embedding_model)

    def extract(item: Item) -> Iterable[Row]:
        positions = Positions()
        caption = caption_of(item) if params.use_captions else None
        for source in sources(item.inputs.get("image"), "image"):
            picture = decode_picture(source.read(), source.key or "image")
            vector = model.embed_images([picture.pixels], [caption])[0]
            row = Row(
                fields={"width": picture.width, "height": picture.height, "format": picture.format},
                vectors={params.embedding_model: vector},
                source_key=source.key,
                position=positions.take(source.key),
            )
            if picture.exif:
                row.fields["exif"] = picture.exif
            if params.enable_thumbnails:
                row.artifacts["thumbnail_url"] = Artifact(thumbnail(picture.pixels), "image/jpeg", ".jpg")
            yield row

    return extract


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
    inputs={"image": ("image",), "caption": ("text", "string")},
    describe=describe,
    open=open_extractor,
    required=frozenset({"image"}),
    reads=frozenset(_CAPTIONS),
    cache_version=1,
    icon="image",
    example={"input_mappings": {"image": "photo"}, "parameters": {"enable_thumbnails": True}},
)
