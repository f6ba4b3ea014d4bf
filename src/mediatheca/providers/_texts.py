"""What every text model does with its input before the tokenizer sees it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def clean(text: str) -> str:
    """Without NUL (it would end the text in C) and without lone surrogates (they have no UTF-8)."""
    if "\0" in text:
        text = text.replace("\0", " ")
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def unit(vectors: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Rows of unit length; a zero row stays zero."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)
