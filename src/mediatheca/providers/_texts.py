"""What every text model does with its input before the tokenizer sees it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.models import EmbeddingTask


def clean(text: str) -> str:
    """Without NUL (it would end the text in C) and without lone surrogates (they have no UTF-8)."""
    if "\0" in text:
        text = text.replace("\0", " ")
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def task_prefix(task: EmbeddingTask, query: str, passage: str, own: Mapping[EmbeddingTask, str] | None = None) -> str:
    """What a model reads before a text. `own`: prefixes of single tasks, for models trained with instructions.

    Tasks in which both sides are alike (similarity, classification) take the query's prefix, as the E5 family asks.
    """
    if task == "none":
        return ""
    if own and task in own:
        return own[task]
    return passage if task == "retrieval_document" else query


def task_of(query: bool) -> EmbeddingTask:
    """The task of models' two-sided method."""
    return "retrieval_query" if query else "retrieval_document"


def unit(vectors: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Rows of unit length; a zero row stays zero."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)
