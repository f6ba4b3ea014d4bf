"""Filters as SQL, over plain columns and one JSON column.

The expression selects a superset of the true matches; `exact` says when it is the truth, otherwise the caller rechecks.
Plain columns are compared exactly; inside JSON, equality with plain strings narrows the rows, the rest is rechecked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Integer, String, and_, cast, false, func, not_, or_, true

from mediatheca.kernel.filter_values import fold, parse_date
from mediatheca.kernel.filters import And, Filter, Leaf, Not, Or

Compiled = tuple[ColumnElement[bool] | None, bool]
_RANGES = {"gt": "__gt__", "gte": "__ge__", "lt": "__lt__", "lte": "__le__"}


def compile_sql(
    filter: Filter, columns: Mapping[str, ColumnElement[Any]], json_column: ColumnElement[Any], dialect: str
) -> Compiled:
    """(expression or None for everything, exact). `columns`: field name → plain column; other paths are in the JSON."""
    if isinstance(filter, Not):
        native, exact = compile_sql(filter.child, columns, json_column, dialect)
        if not exact:
            return None, False
        return (false() if native is None else not_(native)), True
    if isinstance(filter, And | Or):
        parts = [compile_sql(child, columns, json_column, dialect) for child in filter.children]
        return _joined(parts, conjunction=isinstance(filter, And))
    assert isinstance(filter, Leaf)
    column = columns.get(filter.field)
    if column is not None and column is not json_column:
        native, exact = _column(filter, column, dialect)
    else:
        native, exact = _json(filter, json_column, dialect), False
    return (None if native is None else func.coalesce(native, false())), exact


def _joined(parts: list[Compiled], *, conjunction: bool) -> Compiled:
    natives = [native for native, _ in parts]
    exact = all(flag for _, flag in parts)
    if conjunction:
        kept = [native for native in natives if native is not None]
        return (and_(*kept) if kept else None), exact
    kept = [native for native in natives if native is not None]
    if len(kept) < len(natives):  # one branch selects everything
        return None, exact
    return (or_(*kept) if kept else true()), exact


def _column(leaf: Leaf, column: ColumnElement[Any], dialect: str) -> Compiled:
    operator, value = leaf.operator, leaf.value
    if operator in ("exists", "is_null"):
        return (column.is_not(None) if value == (operator == "exists") else column.is_(None)), True
    if operator in ("ne", "nin"):
        opposite = Leaf(leaf.field, "eq" if operator == "ne" else "in", value, leaf.case_sensitive)
        native, exact = _column(opposite, column, dialect)
        return (not_(func.coalesce(native, false())), True) if exact and native is not None else (None, False)
    python_type = _python_type(column)
    if operator in _RANGES:
        return _range(python_type, column, operator, value)
    if operator in ("eq", "in") and python_type is str:
        return _strings(leaf, column, dialect)
    return None, False


def _python_type(column: ColumnElement[Any]) -> type:
    if isinstance(column.type, String):
        return str
    return int if isinstance(column.type, Integer) else object


def _range(python_type: type, column: ColumnElement[Any], operator: str, value: Any) -> Compiled:
    if python_type is int and isinstance(value, int | float):
        return getattr(column, _RANGES[operator])(value), True
    moment = parse_date(value)
    if python_type is object and moment is not None:
        return getattr(column, _RANGES[operator])(moment), True
    return None, False


def _choices(value: Any) -> list[str] | None:
    """The values as strings when all are strings; None when one is not."""
    choices = list(value) if isinstance(value, list | tuple) else [value]
    return choices if all(isinstance(choice, str) for choice in choices) else None


def _strings(leaf: Leaf, column: ColumnElement[Any], dialect: str) -> Compiled:
    choices = _choices(leaf.value)
    if choices is None:
        return None, False
    if leaf.case_sensitive:
        return column.in_(choices), True
    return or_(func.lower(column).in_([fold(c) for c in choices]), _not_ascii(column, dialect)), False


def _not_ascii(text: ColumnElement[Any], dialect: str) -> ColumnElement[bool]:
    """Databases fold ASCII alike and the rest not: such values are kept for the recheck."""
    if dialect == "sqlite":
        return text.op("GLOB")("*[^ -~]*")
    return text.op("~")("[^ -~]")


def _json(leaf: Leaf, column: ColumnElement[Any], dialect: str) -> ColumnElement[bool] | None:
    choices = _choices(leaf.value)
    if leaf.operator not in ("eq", "in") or choices is None or any(_numeric(choice) for choice in choices):
        return None
    parts = leaf.field.split(".")
    if any('"' in part or "\\" in part or "\x00" in part for part in parts):
        return None
    text = _text_at(column, parts, dialect)
    arrays = [_is_array(column, parts[:end], dialect) for end in range(1, len(parts) + 1)]
    return or_(func.lower(text).in_([fold(c) for c in choices]), _not_ascii(text, dialect), *arrays)


def _numeric(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _sqlite_path(parts: list[str]) -> str:
    return "$" + "".join(f'."{part}"' for part in parts)


def _text_at(column: ColumnElement[Any], parts: list[str], dialect: str) -> ColumnElement[Any]:
    if dialect == "sqlite":
        return cast(func.json_extract(column, _sqlite_path(parts)), String)
    return func.jsonb_extract_path_text(column, *parts)


def _is_array(column: ColumnElement[Any], parts: list[str], dialect: str) -> ColumnElement[bool]:
    if dialect == "sqlite":
        return func.coalesce(func.json_type(column, _sqlite_path(parts)) == "array", false())
    return func.coalesce(func.jsonb_typeof(func.jsonb_extract_path(column, *parts)) == "array", false())
