"""How text indexes split a text: asked of the engine itself, the same code inside Qdrant Edge and a Qdrant server."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from mediatheca.kernel.analysis import Analysis


def words(text: str, tokenizer: str = "multilingual", language: str = "") -> dict[int, int]:
    """How often each word stands in a text. Words are the engine's numbers for them: equal where the words are.

    Args:
        tokenizer: as text indexes name it: `multilingual`, `word`, `whitespace` or `prefix`.
        language: whose stems and stop words; empty: words as they are.
    """
    counted = _splitter(tokenizer, language).embed_document(text)
    # A word that stands n times weighs n * (k + 1) / (n + k); with k = 1 that is 2n / (n + 1).
    return {word: round(weight / (2 - weight)) for word, weight in zip(counted.indices, counted.values, strict=True)}


@functools.lru_cache(maxsize=65_536)
def of_word(word: str, tokenizer: str, language: str) -> dict[int, int]:
    """`words` of a single word, remembered: a text says most of its words again."""
    return words(word, tokenizer, language)


def analysis_of(fields: Mapping[str, str], tokenizer: str) -> Analysis:
    """How fields are split. `fields`: the language of each that has one."""
    own = {language: functools.partial(_split, tokenizer, language) for language in set(fields.values())}
    return Analysis(functools.partial(_split, tokenizer, ""), {name: own[fields[name]] for name in fields})


def _split(tokenizer: str, language: str, text: str) -> dict[int, int]:
    single = len(text) <= 64 and text.isalnum()
    return of_word(text, tokenizer, language) if single else words(text, tokenizer, language)


@functools.lru_cache
def _splitter(tokenizer: str, language: str) -> Any:
    import qdrant_edge as qe

    named = language.capitalize()
    stop = qe.StopwordsSet(languages={getattr(qe.Language, named)}) if language else qe.StopwordsSet()
    stemmer = qe.SnowballParams(getattr(qe.SnowballLanguage, named)) if language else qe.DisabledStemmer()

    kind = getattr(qe.TokenizerType, tokenizer.capitalize())
    whole = qe.Bm25Config(
        k=1.0, b=0.0, avg_len=1.0, tokenizer=kind, lowercase=True,
        stopwords=stop, stemmer=stemmer,
    )  # fmt: skip
    return qe.Bm25(whole)
