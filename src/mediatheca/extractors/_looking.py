"""The vector of a picture, kept as a step: the same picture is looked at once by a model, whatever else changes, and
whichever extractor met it first."""

from __future__ import annotations

from hashlib import sha256

import numpy as np

from mediatheca.extractors import ExtractContext
from mediatheca.kernel.documents import Vector
from mediatheca.kernel.models import ImageEmbedder, Picture
from mediatheca.kernel.steps import Step, step

_LOOK = Step("picture.embedding", 2)


def look(pixels: Picture, model: ImageEmbedder, context: ExtractContext, caption: str | None = None) -> Vector:
    """The vector of one picture, shape (dimensions,).

    Args:
        pixels: RGB, shape (height, width, 3).
        caption: what is said of it, for models that take it in.
    """
    whole = np.ascontiguousarray(pixels)
    said = caption or None

    def make() -> Vector:
        with context.timed("model"):
            made: Vector = model.embed_images([whole], [said])[0]
            return made

    parts = [model.info.weights, list(whole.shape), sha256(whole.data).hexdigest(), said]
    found: Vector = step(context.desk, _LOOK, parts, make)
    return found
