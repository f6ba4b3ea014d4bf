"""A text model and an extractor that are trivial on purpose. Their vectors mean little; their cost is close to none.

Text: words and pairs of neighbouring words hashed into 384 counters. Image: the JPEG is decoded, averaged to 16 × 8
pixels and multiplied by a fixed random matrix, 384 × 384.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from zlib import crc32

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from mediatheca.extractors import Description, Extract, ExtractContext, Extractor, Item, ItemError, Row
from mediatheca.kernel.documents import VectorIndex
from mediatheca.kernel.models import ModelInfo, Models
from mediatheca.kernel.uris import FeatureUri
from mediatheca.providers import Provider

DIMENSIONS = 384
NAME = "hashed_ngrams"
MODEL = ModelInfo(NAME, "hashed word n-grams", "sha256:benchmark-hashed-ngrams-1", DIMENSIONS, source="plugin")
EXTRACTOR = "benchmark_trivial_extractor"
URI = FeatureUri(EXTRACTOR, "v1", NAME)
_SIZE = (224, 224)
_BLOCK = (14, 28)
_THUMB = (16, 8)

Matrix = npt.NDArray[np.float32]


def hash_text(text: str) -> Matrix:
    """Unit vector, shape (384,)."""
    words = text.lower().split()
    grams = [*words, *(f"{a} {b}" for a, b in pairwise(words))]
    slots = [crc32(gram.encode()) % DIMENSIONS for gram in grams]
    counts = np.bincount(slots, minlength=DIMENSIONS).astype(np.float32)
    return _unit(counts)


def project_jpeg(data: bytes) -> Matrix:
    """Unit vector, shape (384,).

    Raises:
        OSError: it is no picture.
    """
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        small = picture.convert("RGB").resize(_SIZE).reduce(_BLOCK)
    pixels = np.asarray(small, np.float32).reshape(-1) / np.float32(255) - np.float32(0.5)
    return _unit((pixels @ _projection()).astype(np.float32))


def _unit(vector: Matrix) -> Matrix:
    norm = float(np.linalg.norm(vector)) or 1.0
    return vector / np.float32(norm)


@cache
def _projection() -> Matrix:
    pixels = _THUMB[0] * _THUMB[1] * 3
    return np.random.default_rng(7).standard_normal((pixels, DIMENSIONS)).astype(np.float32)


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
