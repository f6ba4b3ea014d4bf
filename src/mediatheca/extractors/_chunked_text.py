"""Texts as they are stored and embedded: cleaned, cut into chunks, in batches."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from mediatheca.extractors import Dropped, ItemError
from mediatheca.kernel.desk import Desk
from mediatheca.kernel.documents import Vector
from mediatheca.kernel.errors import BadRequestError
from mediatheca.kernel.models import EmbeddingTask, TextEmbedder, Windowed, embed_for
from mediatheca.kernel.steps import Step, step

MAX_ROWS = 20_000
"""Of one source: a chunk size of one character on a book is a mistake, not a wish."""
BATCH = 64
_SHOWN = 60
"""Characters by which a text is named."""
_EMBED = Step("texts", 1)
_SURROGATES = re.compile("[\ud800-\udfff]")


def clean_text(text: str) -> str:
    """As it will be stored: NUL becomes a space, a lone surrogate U+FFFD; offsets stay the same."""
    return _SURROGATES.sub("\ufffd", text.replace("\0", " "))


def embed_chunks(
    texts: Sequence[str],
    model: TextEmbedder,
    name: str,
    task: EmbeddingTask = "retrieval_document",
    desk: Desk | None = None,
) -> Iterator[Vector]:
    """The vector of each text, in order; at most `BATCH` are computed ahead.

    Args:
        desk: keep the vectors of a batch as a step of their own.

    Raises:
        ItemError: the model refuses a text.
    """
    for start in range(0, len(texts), BATCH):
        batch = texts[start : start + BATCH]
        try:
            if desk is None:
                yield from embed_for(model, batch, task)
            else:
                yield from step(desk, _EMBED, [model.info.weights, task, batch], _embedding(model, batch, task))
        except BadRequestError as error:
            raise ItemError(f"the model '{name}' refuses the text: {error.message}") from error


def beyond_window(model: object, text: str, source_key: str = "", position: int | None = None) -> Iterator[Dropped]:
    """Says so where a model reads only the beginning of a text: its end has no part in the vector."""
    if isinstance(model, Windowed) and (count := model.count_tokens(text)) > model.window:
        reason = (
            f"'{model.info.name}' reads {model.window} tokens of a text and this one has {count}: its end has no part "
            "in the vector; cut it into smaller chunks, or take a model that reads all of it"
        )
        yield Dropped(f"the end of '{text[:_SHOWN]}'", reason, source_key, position, "warning")


def _embedding(model: TextEmbedder, texts: Sequence[str], task: EmbeddingTask) -> Callable[[], npt.NDArray[np.float32]]:
    return lambda: embed_for(model, texts, task)
