"""JSON columns: what a payload may hold, checked per document before any store sees it.

One bad value fails a whole Lance call, and Lance turns NaN into null without a word, so the check comes first. The
common case costs one `orjson.dumps`: the slow walk that finds the offending path runs only when that looks suspicious.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import orjson

from mediatheca.kernel.errors import ValidationError

MAX_DEPTH = 64
"""Levels of nesting, the outermost object being level 1."""
MAX_BYTES = 1 << 20
"""Bytes of the UTF-8 JSON text."""

_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS


def encode_json(value: object, document_id: str, column: str) -> bytes:
    """The JSON text of one document's `payload` or `system`.

    Raises:
        ValidationError: not a JSON object of string keys, NaN or infinity, an integer beyond 64 bits, broken text,
            deeper than `MAX_DEPTH`, or larger than `MAX_BYTES`. Names the document and the path.
    """
    if not isinstance(value, dict):
        raise _error(document_id, (column,), f"must be an object, got {type(value).__name__}")
    try:
        text = orjson.dumps(value, option=_OPTIONS)
    except orjson.JSONEncodeError as error:
        _find_fault(value, document_id, column)
        raise _error(document_id, (column,), f"is not JSON: {error}") from error
    if len(text) > MAX_BYTES:
        raise _error(document_id, (column,), f"takes {len(text)} bytes of JSON, at most {MAX_BYTES} are accepted")
    # NaN and infinity come out as null; nesting needs at least one bracket a level.
    if b"null" in text or text.count(b"{") + text.count(b"[") > MAX_DEPTH:
        _find_fault(value, document_id, column)
    return text


def _find_fault(value: object, document_id: str, column: str) -> None:
    """Walk iteratively (a hostile payload must not exhaust the stack) and raise for the first fault."""
    pending: list[tuple[tuple[str | int, ...], object]] = [((column,), value)]
    while pending:
        path, item = pending.pop()
        if len(path) > MAX_DEPTH and isinstance(item, dict | list | tuple):
            raise _error(document_id, path[:4], f"is nested deeper than {MAX_DEPTH} levels")
        fault = _fault(item)
        if fault:
            raise _error(document_id, path, fault)
        pending.extend(((*path, key), child) for key, child in _children(item))


def _children(item: object) -> Iterator[tuple[str | int, object]]:
    if isinstance(item, dict):
        return iter(item.items())
    if isinstance(item, list | tuple):
        return iter(enumerate(item))
    return iter(())


def _fault(item: object) -> str:
    """What is wrong with one value, children aside; empty when nothing is."""
    if isinstance(item, dict):
        bad = next((key for key in item if not isinstance(key, str)), None)
        return "" if bad is None else f"has the key {bad!r} of type {type(bad).__name__}; keys must be strings"
    if isinstance(item, float):
        return "" if math.isfinite(item) else f"is {item}; JSON has no such number, leave the field out or send null"
    if isinstance(item, bool) or item is None or isinstance(item, list | tuple):
        return ""
    if isinstance(item, int):
        return "" if -(1 << 63) <= item < 1 << 64 else "is an integer beyond 64 bits; send it as a string"
    return _leaf_fault(item)


def _leaf_fault(item: Any) -> str:
    try:
        orjson.dumps(item, option=_OPTIONS)
    except orjson.JSONEncodeError:
        if isinstance(item, str):
            return "is not valid Unicode (it holds a lone surrogate)"
        return f"has type {type(item).__name__}, which JSON does not have"
    return ""


def _error(document_id: str, path: tuple[str | int, ...], message: str) -> ValidationError:
    return ValidationError.at(("documents", document_id, *path), message, "payload")
