"""Counting tokens as a language model would, without the network: toktok carries its vocabularies with it."""

from __future__ import annotations

from mediatheca.kernel.extras import require

EXACT = ("cl100k_base", "o200k_base", "o200k_harmony")
"""The others (p50k_base, r50k_base, gpt2), of models before 2022, are counted by `cl100k_base` instead."""


def require_tokenizer() -> None:
    """
    Raises:
        UnavailableError: the tokenizer is not installed.
    """
    require("the rag_prepare stage", "stages", "toktok")


def encoding_for(name: str) -> str:
    """The encoding that answers to a name."""
    return name if name in EXACT else EXACT[0]


def count(texts: list[str], encoding: str) -> list[int]:
    """Tokens of every text; 6 MB a second or more."""
    import toktok

    return list(toktok.batch_count([_clean(text) for text in texts], encoding, threads=1))


def cut(text: str, tokens: int, encoding: str) -> str:
    """The beginning of a text with at most so many tokens, cut between characters."""
    import toktok

    return str(toktok.truncate(_clean(text), tokens, encoding)[0]) if tokens > 0 else ""


def _clean(text: str) -> str:
    """Without lone surrogates, which JSON can hold and UTF-8 cannot."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
