"""What a few pictures of one segment show: which of them differ, and the text in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mediatheca.extractors import ExtractContext
from mediatheca.extractors._chunked_text import clean_text
from mediatheca.extractors._scans import read_picture
from mediatheca.kernel.models import Picture, TextReader

_SAME_PICTURE = (1.0, 24.0)
"""Mean and largest difference of brightness below which two small pictures show the same."""


def distinct_pictures(pictures: Sequence[Picture]) -> list[Picture]:
    """Without those that show the same as the one before."""
    kept: list[Picture] = []
    last: Any = None
    for pixels in pictures:
        little = _little(pixels)
        if last is not None:
            off = np.abs(little - last)
            if off.mean() < _SAME_PICTURE[0] and off.max() < _SAME_PICTURE[1]:
                continue
        kept.append(pixels)
        last = little
    return kept


def _little(pixels: Picture) -> Any:
    from PIL import Image

    grey = Image.fromarray(pixels).convert("L").resize((64, 36), Image.Resampling.BOX)
    return np.asarray(grey, np.float32)


def read_screen(pictures: Sequence[Picture], reader: TextReader, context: ExtractContext) -> str:
    """The lines of text in pictures, each once."""
    lines: dict[str, None] = {}
    for pixels in pictures:
        context.beat()
        with context.timed("model"):
            lines |= dict.fromkeys(line["text"].strip() for line in read_picture(pixels, reader, context.desk))
    return clean_text("\n".join(line for line in lines if line))
