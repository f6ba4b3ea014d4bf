"""Values inside a JSON column as SQL: walking a dotted path, arrays meaning any element, for SQLite and PostgreSQL.

`nodes` gives the values at a path with arrays at its end whole, `elements` opens those too. Both are FROM clauses of a
subquery that refers to the row outside it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeAlias

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Numeric,
    Text,
    and_,
    case,
    cast,
    exists,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import JSONB

from mediatheca.kernel.filter_folding import ascii_lower, fold_steps
from mediatheca.kernel.filter_values import Number

Condition: TypeAlias = ColumnElement[bool]

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_ \-]+")


@dataclass(frozen=True, slots=True)
class Value:
    """One value as SQL, by type: None where it can never have that type."""

    text: ColumnElement[Any] | None = None
    is_text: Condition | None = None
    number: ColumnElement[Any] | None = None
    is_number: Condition | None = None
    is_true: Condition | None = None
    is_false: Condition | None = None
    is_object: Condition | None = None
    is_array: Condition | None = None
    moment: ColumnElement[Any] | None = None


@dataclass(frozen=True, slots=True)
class Dialect:
    """What differs between the databases."""

    starts_with: Callable[[ColumnElement[Any], str], Condition]
    ends_with: Callable[[ColumnElement[Any], str], Condition]
    has: Callable[[ColumnElement[Any], str], Condition]
    lower: Callable[[ColumnElement[Any]], ColumnElement[Any]]
    by_code_point: Callable[[ColumnElement[Any]], ColumnElement[Any]]
    dated: Callable[[ColumnElement[Any]], Condition]
    """Begins with four digits, two digits and two digits: then the first ten characters order like the days."""
    number: Callable[[Number], ColumnElement[Any]]
    can_hold: Callable[[str], bool]
    """Whether the database can hold (and be asked for) such a string."""
    plain_key: Callable[[str], bool]
    child: Callable[[ColumnElement[Any], str], ColumnElement[Any]]
    opened: Callable[[ColumnElement[Any], str], tuple[FromClause, ColumnElement[Any]]]
    """The elements of an array, or the value itself: a FROM clause and the value as JSON."""
    element: Callable[[ColumnElement[Any], str], tuple[FromClause, Value]]
    present: Callable[[ColumnElement[Any]], Condition]
    is_array: Callable[[ColumnElement[Any]], Condition]

    def folded(self, text: ColumnElement[Any], needles: Sequence[str], *, whole: bool) -> ColumnElement[Any] | None:
        """The text folded as far as the needles can tell; None when that takes too much SQL."""
        steps = fold_steps(needles, ascii_lower, whole=whole)
        if steps is None:
            return None
        folded = self.lower(text)
        for old, new in steps:
            folded = func.replace(folded, old, new)
        return folded

    def any_node(self, column: ColumnElement[Any], path: Sequence[str], *, opened: bool) -> Condition:
        """Whether a value other than null and the empty array lies at the path."""
        sources, node = self._walk(column, path, opened=opened)
        return self._where(sources, self.present(node))

    def any_element(
        self,
        column: ColumnElement[Any],
        path: Sequence[str],
        test: Callable[[Value, Condition], Condition],
        *,
        opened: bool,
    ) -> Condition:
        """Whether a value at the path passes; `test` also gets whether it is an element of an array at the end."""
        sources, node = self._walk(column, path, opened=opened)
        source, value = self.element(node, f"e{len(path)}")
        return self._where([*sources, source], test(value, self.is_array(node)))

    def _walk(
        self, column: ColumnElement[Any], path: Sequence[str], *, opened: bool
    ) -> tuple[list[FromClause], ColumnElement[Any]]:
        sources: list[FromClause] = []
        node = column
        for at, key in enumerate(path):
            if at or opened:
                source, node = self.opened(node, f"e{at}")
                sources.append(source)
            node = self.child(node, key)
        return sources, node

    @staticmethod
    def _where(sources: list[FromClause], condition: Condition) -> Condition:
        if not sources:
            return func.coalesce(condition, False)
        joined = functools.reduce(lambda left, right: left.join(right, true()), sources)
        return exists(select(literal(1)).select_from(joined).where(condition))


# ---- SQLite


def _sqlite_child(node: ColumnElement[Any], key: str) -> ColumnElement[Any]:
    return type_coerce(node, Text).op("->", return_type=Text())(literal(f'$."{key}"', Text))


def _sqlite_wrapped(node: ColumnElement[Any]) -> ColumnElement[Any]:
    return case((func.json_type(node) == "array", node), (node.is_not(None), func.json_array(func.json(node))))


def _sqlite_opened(node: ColumnElement[Any], name: str) -> tuple[FromClause, ColumnElement[Any]]:
    rows = func.json_each(_sqlite_wrapped(node)).table_valued("value", "type", name=name)
    return rows, case((rows.c.type == "object", type_coerce(rows.c.value, Text)))


def _sqlite_element(node: ColumnElement[Any], name: str) -> tuple[FromClause, Value]:
    rows = func.json_each(_sqlite_wrapped(node)).table_valued("value", "type", name=name)
    kind = rows.c.type
    return rows, Value(
        text=type_coerce(rows.c.value, Text),
        is_text=kind == "text",
        number=type_coerce(rows.c.value, Numeric),
        is_number=kind.in_(("integer", "real")),
        is_true=kind == "true",
        is_false=kind == "false",
        is_object=kind == "object",
    )


def _sqlite_present(node: ColumnElement[Any]) -> Condition:
    kind = func.json_type(node)
    return and_(kind != "null", or_(kind != "array", func.json_array_length(node) > 0))


SQLITE = Dialect(
    starts_with=lambda text, part: func.substr(text, 1, len(part)) == part,
    ends_with=lambda text, part: func.substr(text, -len(part)) == part,
    has=lambda text, part: func.instr(text, part) > 0,
    lower=func.lower,
    by_code_point=lambda text: text,
    dated=lambda text: text.bool_op("GLOB")("[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*"),
    number=lambda number: type_coerce(literal(number), Numeric(asdecimal=False)),
    can_hold=lambda text: "\x00" not in text,
    plain_key=lambda key: _PLAIN_KEY.fullmatch(key) is not None,
    child=_sqlite_child,
    opened=_sqlite_opened,
    element=_sqlite_element,
    present=_sqlite_present,
    is_array=lambda node: func.json_type(node) == "array",
)


# ---- PostgreSQL


def _postgres_child(node: ColumnElement[Any], key: str) -> ColumnElement[Any]:
    return cast(node, JSONB).op("->", return_type=JSONB())(literal(key, Text))


def _postgres_wrapped(node: ColumnElement[Any]) -> ColumnElement[Any]:
    return case((func.jsonb_typeof(node) == "array", node), else_=func.jsonb_build_array(node, type_=JSONB))


def _postgres_opened(node: ColumnElement[Any], name: str) -> tuple[FromClause, ColumnElement[Any]]:
    rows = (
        func.jsonb_array_elements(_postgres_wrapped(node), type_=JSONB)
        .table_valued("value", name=name)
        .render_derived()
    )
    return rows, type_coerce(rows.c.value, JSONB)


def _postgres_element(node: ColumnElement[Any], name: str) -> tuple[FromClause, Value]:
    rows, value = _postgres_opened(node, name)
    kind = func.jsonb_typeof(value)
    plain = value.op("#>>", return_type=Text())(literal_column("'{}'::text[]"))
    return rows, Value(
        text=plain,
        is_text=kind == "string",
        number=case((kind == "number", cast(plain, Numeric))),
        is_number=kind == "number",
        is_true=and_(kind == "boolean", plain == "true"),
        is_false=and_(kind == "boolean", plain == "false"),
        is_object=kind == "object",
    )


def _postgres_present(node: ColumnElement[Any]) -> Condition:
    kind = func.jsonb_typeof(node)
    length = case((kind == "array", func.jsonb_array_length(node)), else_=1)
    return and_(kind != "null", length > 0)


POSTGRES = Dialect(
    starts_with=lambda text, part: func.starts_with(text, part),
    ends_with=lambda text, part: func.right(text, len(part)) == part,
    has=lambda text, part: func.strpos(text, part) > 0,
    lower=lambda text: func.lower(text.collate("C")),
    by_code_point=lambda text: text.collate("C"),
    dated=lambda text: text.bool_op("~")("^[0-9]{4}-[0-9]{2}-[0-9]{2}"),
    number=lambda number: literal(Decimal(repr(number)), Numeric),
    can_hold=lambda text: "\x00" not in text,
    plain_key=lambda key: "\x00" not in key,
    child=_postgres_child,
    opened=_postgres_opened,
    element=_postgres_element,
    present=_postgres_present,
    is_array=lambda node: func.jsonb_typeof(node) == "array",
)
