"""JSON Schemas that callers write: checked when they arrive, then used to check what models answer. Pure.

References lead nowhere outside of the schema, and patterns are matched in linear time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.extras import require

MAX_SCHEMA = 64 * 1024
MAX_DEPTH = 32
_SHOWN = 5


def check_schema(schema: Any, place: str) -> None:
    """Refuse what is no JSON Schema, when a retriever is made.

    Raises:
        ValidationError: at `place`: no object, more than 64 kB or 32 levels, or no valid schema.
    """
    if not isinstance(schema, Mapping) or not schema:
        raise ValidationError.at(place, f"must be a JSON Schema object, got {str(schema)[:100]!r}", "json_schema")
    if nesting(schema, MAX_DEPTH) > MAX_DEPTH:
        raise ValidationError.at(place, f"is nested deeper than {MAX_DEPTH} levels", "json_schema")
    try:
        _validator(_text(schema))
    except ValueError as error:
        raise ValidationError.at(place, f"is no JSON Schema: {_short(error)}", "json_schema") from error


def problems(schema: Mapping[str, Any], value: Any) -> list[str]:
    """What of `value` does not fit, at most five entries with their places; empty when it fits."""
    found = []
    for error in _validator(_text(schema)).iter_errors(value):
        place = ".".join(str(part) for part in error.instance_path)
        found.append(f"{place or 'the answer'}: {_short(error)}")
        if len(found) == _SHOWN:
            break
    return found


def _text(schema: Mapping[str, Any]) -> str:
    text = json.dumps(schema, sort_keys=True)
    if len(text) > MAX_SCHEMA:
        raise ValueError(f"it has {len(text):,} characters, at most {MAX_SCHEMA:,} are accepted")
    return text


@lru_cache(maxsize=256)
def _validator(text: str) -> Any:
    require("a JSON Schema", "language", "jsonschema_rs")
    import jsonschema_rs

    schema = json.loads(text)
    return jsonschema_rs.validator_for(schema, pattern_options=jsonschema_rs.RegexOptions(), retriever=_refuse)


def _refuse(uri: str) -> Any:
    raise ValueError(f"'{uri[:200]}' is outside of the schema; define it under $defs")


def _short(error: Exception) -> str:
    return str(getattr(error, "message", error)).split("\n", 1)[0][:300]


def nesting(value: Any, limit: int) -> int:
    """How deep objects and lists are nested; the first level above `limit` when there are more."""
    deepest, stack = 0, [(value, 1)]
    while stack:
        item, level = stack.pop()
        deepest = max(deepest, level)
        if level > limit:
            return level
        inner = item.values() if isinstance(item, Mapping) else item if isinstance(item, list) else ()
        stack.extend((entry, level + 1) for entry in inner)
    return deepest
