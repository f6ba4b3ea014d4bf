"""Keeping secret values out of everything that is shown: errors, logs, results, records. Pure."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

from mediatheca.kernel.errors import FieldError, MediathecaError, ValidationError

MASK = "***"
_SHORTEST = 4
"""A shorter value is not looked for: it would be found in every other word."""
_PREFIX = 8
"""As much of a value is enough to be masked in a message, which may have been cut in the middle of it."""


class SecretValues(dict[str, str]):
    """Secrets by name, for one execution. Printing it shows the names only."""

    def __repr__(self) -> str:
        return f"SecretValues({', '.join(sorted(self))})"

    __str__ = __repr__


class Redactor:
    """Masks the values of some secrets, also where they were encoded for a URL, JSON or Basic authentication."""

    __slots__ = ("_exact", "_forms", "_starts")

    def __init__(self, values: Iterable[str]) -> None:
        forms = {form for value in values if len(value) >= _SHORTEST for form in _spellings(value)}
        self._forms = sorted(forms, key=len, reverse=True)
        self._exact = re.compile("|".join(map(re.escape, self._forms))) if forms else None
        starts = sorted({form[:_PREFIX] for form in forms}, key=len, reverse=True)
        self._starts = re.compile("|".join(map(re.escape, starts))) if starts else None

    def text(self, text: str) -> str:
        """A text without the values."""
        return text if self._exact is None else self._exact.sub(MASK, text)

    def message(self, text: str) -> str:
        """A message without the values and without beginnings of them."""
        if self._starts is None or self._starts.search(text) is None:
            return text
        pieces, position = [], 0
        for match in self._starts.finditer(text):
            if match.start() < position:
                continue
            pieces += [text[position : match.start()], MASK]
            position = match.start() + max(_common(text, match.start(), form) for form in self._forms)
        return "".join(pieces) + text[position:]

    def tree(self, value: Any) -> Any:
        """A JSON value with every text in it, keys too, without the values."""
        if self._exact is None:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.tree(key): self.tree(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.tree(item) for item in value]
        return value

    def error(self, error: MediathecaError) -> MediathecaError:
        """The same error, in place, without the values."""
        if self._exact is not None:
            error.message = self.message(error.message)
            error.args = (error.message,)
            error.details = self.tree(error.details)
            if isinstance(error, ValidationError):
                error.errors = [FieldError(e.loc, self.message(e.msg), e.type) for e in error.errors]
        return error


class PieceRedactor:
    """Masks secrets in a text that comes in pieces: what may be the beginning of a value waits for the next piece."""

    def __init__(self, whole: Redactor) -> None:
        self._exact = whole._exact
        self._margin = max((len(form) - 1 for form in whole._forms), default=0)
        self._held = ""

    def piece(self, text: str) -> str:
        """What can be shown now that this piece has come; it may be nothing."""
        self._held += text
        return self._shown(len(self._held) - self._margin)

    def rest(self) -> str:
        """What waited, when nothing more comes."""
        return self._shown(len(self._held))

    def _shown(self, cut: int) -> str:
        """The text before `cut` and every value that begins there: such a value is there as a whole."""
        if cut <= 0:
            return ""
        shown, position = [], 0
        for match in self._exact.finditer(self._held) if self._exact is not None else ():
            if match.start() >= cut:
                break
            shown += [self._held[position : match.start()], MASK]
            position = match.end()
        end = max(cut, position)
        shown.append(self._held[position:end])
        self._held = self._held[end:]
        return "".join(shown)


def _spellings(value: str) -> set[str]:
    data = value.encode("utf-8", "surrogatepass")
    encoded = {base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()}
    quoted = {quote(data, safe=""), quote(data), quote_plus(data)}
    return {value, json.dumps(value)[1:-1], repr(value)[1:-1], *quoted, *(text.rstrip("=") for text in encoded)}


def _common(text: str, start: int, form: str) -> int:
    """How many characters of `form` stand at `start`."""
    length = 0
    for a, b in zip(text[start : start + len(form)], form, strict=False):
        if a != b:
            break
        length += 1
    return length
