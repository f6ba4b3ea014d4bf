"""Glob patterns by RE2, whose time does not explode: the patterns are a stranger's."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.filter_checks import compile_regex

_PIECES = re.compile(r"(\*+|\?|\[!?\]?[^\]]*\])")


@lru_cache(maxsize=2048)
def glob(pattern: str) -> Any:
    """A compiled pattern: `*` any characters, `?` one, `[a-z]` and `[!a-z]` one of a set.

    Raises:
        ValueError: it is none.
    """
    parts = [_translated(piece) for piece in _PIECES.split(pattern.lstrip("/"))]
    return regex(rf"(?s)^{''.join(parts)}$")


def regex(pattern: str) -> Any:
    """A compiled pattern of RE2. Raises ValueError, as pydantic wants it told."""
    try:
        return compile_regex(pattern, "pattern", case_sensitive=True)
    except ValidationError as error:
        raise ValueError(error.errors[0].msg) from error


def _translated(piece: str) -> str:
    if piece.startswith("*"):
        return ".*"
    if piece == "?":
        return "."
    if len(piece) > 2 and piece[0] == "[" and piece[-1] == "]":
        inner, negated = piece[1:-1], piece[1] == "!"
        inner = inner[1:] if negated else inner
        return f"[{'^' if negated else ''}{re.sub(r'([][^&~|])', _escaped, inner.replace(chr(92), chr(92) * 2))}]"
    return re.escape(piece)


def _escaped(found: re.Match[str]) -> str:
    return f"\\{found[0]}"
