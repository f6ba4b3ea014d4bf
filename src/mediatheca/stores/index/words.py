"""How text indexes split a text: asked of the engine itself, the same code inside Qdrant Edge and a Qdrant server."""

from __future__ import annotations

import functools
from typing import Any


def words(text: str, tokenizer: str = "multilingual") -> dict[int, int]:
    """How often each word stands in a text. Words are the engine's numbers for them: equal where the words are.

    Args:
        tokenizer: as text indexes name it: `multilingual`, `word`, `whitespace` or `prefix`.
    """
    counted = _splitter(tokenizer).embed_document(text)
    # A word that stands n times weighs n * (k + 1) / (n + k); with k = 1 that is 2n / (n + 1).
    return {word: round(weight / (2 - weight)) for word, weight in zip(counted.indices, counted.values, strict=True)}


@functools.lru_cache
def _splitter(tokenizer: str) -> Any:
    import qdrant_edge as qe

    kind = getattr(qe.TokenizerType, tokenizer.capitalize())
    whole = qe.Bm25Config(
        k=1.0, b=0.0, avg_len=1.0, tokenizer=kind, lowercase=True,
        stopwords=qe.StopwordsSet(), stemmer=qe.DisabledStemmer(),
    )  # fmt: skip
    return qe.Bm25(whole)
