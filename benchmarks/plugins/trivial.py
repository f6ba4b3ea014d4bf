"""A text model and an extractor that are trivial on purpose. Their vectors mean little; their cost is close to none."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from pydantic import BaseModel

from benchmarks._embeddings import DIMENSIONS, Matrix, hash_text, project_picture
from mediatheca.extractors import Description, Extract, ExtractContext, Extractor, Item, ItemError, Row
from mediatheca.kernel.documents import VectorIndex
from mediatheca.kernel.models import ModelInfo, Models
from mediatheca.kernel.uris import FeatureUri
from mediatheca.providers import Provider

NAME = "hashed_ngrams"
MODEL = ModelInfo(NAME, "hashed word n-grams", "sha256:benchmark-hashed-ngrams-1", DIMENSIONS, source="plugin")
EXTRACTOR = "benchmark_trivial_extractor"
URI = FeatureUri(EXTRACTOR, "v1", NAME)


def project_jpeg(data: bytes) -> Matrix:
    """Unit vector, shape (384,).

    Raises:
        OSError: it is no picture.
    """
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        return project_picture(picture)


class HashedNgrams:
    """`TextEmbedder` of `hash_text`."""

    info = MODEL
    inline = True

    def embed_texts(self, texts: Sequence[str], *, query: bool) -> Matrix:
        return np.stack([hash_text(text) for text in texts])


class Params(BaseModel):
    """None."""


def describe(params: Params, models: Models) -> Description:
    index = VectorIndex(URI.index_name, str(URI), DIMENSIONS, model=NAME, weights=MODEL.weights, modalities=("text",))
    return Description((index,), {"kind": {"type": "string"}})


def open_extractor(params: Params, context: ExtractContext) -> Extract:
    def extract(item: Item) -> Iterable[Row]:
        return _rows(item)

    return extract


def _rows(item: Item) -> Iterator[Row]:
    for source in item.inputs.get("text", ()):
        yield Row({"kind": "text"}, {NAME: hash_text(source.text())}, source_key=source.key)
    for source in item.inputs.get("image", ()):
        try:
            yield Row({"kind": "image"}, {NAME: project_jpeg(source.read())}, source_key=source.key)
        except OSError as error:
            raise ItemError(f"'{source.key}' is no picture: {error}") from error


trivial_provider = Provider(
    name="benchmark-trivial",
    priority=1,
    find=lambda name, settings: MODEL if name == NAME else None,
    load=lambda info, settings: HashedNgrams(),
    names=lambda settings: [NAME],
)

trivial_extractor = Extractor(
    name=EXTRACTOR,
    version="v1",
    description="Hashed words of a text, or a random projection of a small JPEG: for benchmarks.",
    params=Params,
    inputs={"text": ("text", "string"), "image": ("image",)},
    describe=describe,
    open=open_extractor,
)
