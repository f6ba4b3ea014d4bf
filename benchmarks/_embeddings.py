"""Two embedding functions that cost next to nothing and that everybody in a comparison uses: numpy and Pillow only.

Text: words and pairs of neighbouring words hashed into 384 counters. Image: averaged to 16 × 8 pixels and multiplied by
a fixed random matrix, 384 × 384.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.Image import Image

DIMENSIONS = 384
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


def project_picture(picture: Image) -> Matrix:
    """Unit vector, shape (384,)."""
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
