"""Operators of the filter language and the values each of them takes."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from datetime import date
from typing import Any

import re2

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.filter_geo import checked_shape
from mediatheca.kernel.filter_values import plain

MAX_ITEMS = 1000
MAX_PATTERN = 1000
_PATTERN_MEMORY = 1 << 20

OPERATORS = (
    "eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "contains", "starts_with", "ends_with", "regex", "exists",
    "is_null", "text", "phrase", "words", "geo_radius", "geo_bounding_box", "geo_polygon",
)  # fmt: skip
_ALIASES = {
    "=": "eq", "==": "eq", "equals": "eq", "!=": "ne", "<>": "ne", "neq": "ne", "not_equals": "ne", ">": "gt",
    ">=": "gte", "<": "lt", "<=": "lte", "not_in": "nin", "any": "in", "except": "nin", "startswith": "starts_with",
    "prefix": "starts_with", "endswith": "ends_with", "isnull": "is_null", "substring": "text",
}  # fmt: skip
_RANGES = ("gt", "gte", "lt", "lte")
_TEXTUAL = ("starts_with", "ends_with", "regex", "text", "phrase", "words")


def operator_name(given: Any) -> str | None:
    """The canonical name of an operator in any spelling (`$GTE`, `>=`); None when there is none."""
    if not isinstance(given, str):
        return None
    name = given.removeprefix("$").lower()
    name = _ALIASES.get(name, name)
    return name if name in OPERATORS else None


def unknown_operator(given: Any, path: str) -> ValidationError:
    """The refusal that lists what there is."""
    return ValidationError.at(path, f"{str(given)[:100]!r} is not an operator; use {', '.join(OPERATORS)}", "filter")


def checked(operator: str, value: Any, path: str) -> tuple[str, Any]:
    """The canonical operator and value of a condition. Idempotent.

    Raises:
        ValidationError: naming `path`, what was given and what is accepted.
    """
    name = operator_name(operator)
    if name is None:
        raise unknown_operator(operator, path)
    if name in ("eq", "ne") and isinstance(value, list | tuple):
        name = "in" if name == "eq" else "nin"
    return name, _value(name, value, path)


def _value(operator: str, value: Any, path: str) -> Any:
    if operator in ("in", "nin"):
        return _items(value, path)
    if operator in ("exists", "is_null"):
        return _flag(value, path)
    if operator in _RANGES:
        return _bound(value, path)
    if operator.startswith("geo_"):
        return checked_shape(operator, value, path)
    if operator not in _TEXTUAL:
        return _scalar(value, path)
    if not isinstance(value, str):
        raise _refusal(path, f"{operator} takes a string", value)
    if operator == "regex":
        compile_regex(value, path, case_sensitive=True)
    return _scalar(value, path)


def _items(value: Any, path: str) -> tuple[Any, ...]:
    items = tuple(value) if isinstance(value, list | tuple | set | frozenset) else (value,)
    if len(items) > MAX_ITEMS:
        raise ValidationError.at(path, f"holds {len(items):,} items, at most {MAX_ITEMS:,} are accepted", "filter_size")
    return tuple(_scalar(item, f"{path}.{at}") for at, item in enumerate(items))


def _flag(value: Any, path: str) -> bool:
    if value is None or isinstance(value, bool):
        return value is not False
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise _refusal(path, "takes true or false", value)


def _bound(value: Any, path: str) -> Any:
    value = _scalar(value, path)
    if value is None or isinstance(value, bool):
        raise _refusal(path, "a range takes a number, a date or a string", value)
    return value


def _scalar(value: Any, path: str) -> Any:
    """A string, a finite number, a boolean or null; dates become strings."""
    if isinstance(value, date):
        value = plain(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, str):
        if not _encodable(value):
            raise ValidationError.at(path, "is not valid Unicode (it holds a lone surrogate)", "filter_value")
        return value
    if isinstance(value, Mapping) and value.get("type") == "dynamic":
        raise ValidationError.at(path, f"the dynamic value {value.get('field')!r} was not resolved", "filter_value")
    raise _refusal(path, "takes a string, a number, true, false or null", value)


def _encodable(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def _refusal(path: str, wanted: str, value: Any) -> ValidationError:
    return ValidationError.at(path, f"{wanted}, got {type(value).__name__} {str(value)[:100]!r}", "filter_value")


def compile_regex(pattern: str, path: str, *, case_sensitive: bool) -> Any:
    """The compiled RE2 pattern: linear time, bounded memory.

    Raises:
        ValidationError: not in the RE2 language (no look-around, no back-references), or too large.
    """
    if len(pattern) > MAX_PATTERN:
        raise ValidationError.at(
            path, f"has {len(pattern):,} characters, at most {MAX_PATTERN:,} are accepted", "regex"
        )
    try:
        return _regex(pattern, case_sensitive)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace") if error.args and isinstance(error.args[0], bytes) else error
        raise ValidationError.at(path, f"is not a pattern of the RE2 language: {reason}", "regex") from error


@functools.lru_cache(256)
def _regex(pattern: str, case_sensitive: bool) -> Any:
    options = re2.Options()
    options.case_sensitive = case_sensitive
    options.log_errors = False
    options.max_mem = _PATTERN_MEMORY
    return re2.compile(pattern, options)
