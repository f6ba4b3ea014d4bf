"""Reading what a model answered: JSON out of whatever surrounds it, checked against its schema. Nothing is guessed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import orjson

from mediatheca.kernel.json_schema import nesting, problems

MAX_NESTING = 64
_FENCED = re.compile(r"```(?:json)?[^\S\n]*+\n(.*?)```", re.DOTALL | re.IGNORECASE)
"""In linear time: a model can be told to answer with thousands of blanks."""


def read_answer(schema: Mapping[str, Any], text: str) -> tuple[Any, str]:
    """The value and "", or None and what is wrong with it."""
    try:
        value = _parsed(text.strip())
    except ValueError as error:
        return None, f"it is not JSON ({str(error)[:200]})"
    if nesting(value, MAX_NESTING) > MAX_NESTING:
        return None, f"it is nested deeper than {MAX_NESTING} levels"
    found = problems(schema, value)
    return (None, "; ".join(found)) if found else (value, "")


def schema_instructions(schema: Mapping[str, Any]) -> str:
    return (
        "Answer with one JSON value and nothing else, without explanation or code fence. It must match this schema:\n"
        + json.dumps(schema, ensure_ascii=False)
    )


def repair_request(schema: Mapping[str, Any], problem: str) -> str:
    return f"Your answer cannot be used: {problem}.\n{schema_instructions(schema)}"


def clean(text: str) -> str:
    """Text that can be stored and sent: lone surrogates replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _parsed(text: str) -> Any:
    """The JSON of a text: the whole, the inside of a code fence, or the first object or array in it.

    Strict: orjson refuses NaN, lone surrogates and what no client could read.
    """
    try:
        return orjson.loads(clean(text))
    except ValueError as error:
        first = error
    fenced = _FENCED.search(text)
    candidates = [fenced[1]] if fenced else []
    start = re.search(r"[{\[]", text)
    if start is not None:
        candidates.append(_span(text, start.start()))
    for candidate in candidates:
        try:
            return orjson.loads(clean(candidate))
        except ValueError:
            continue
    raise first


def _span(text: str, start: int) -> str:
    """From `start` to the end of the value that begins there; empty when it does not end."""
    try:
        _, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return ""
    return text[start:end]
