"""Filters as SQL, over plain columns and JSON columns, for SQLite and PostgreSQL.

What SQL cannot say in full (regular expressions, words, shapes, dates inside JSON, folded order) narrows the rows as
far as it can and is marked inexact: the caller rechecks with `Filter.matches`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    ColumnElement,
    DateTime,
    Float,
    Integer,
    Numeric,
    String,
    and_,
    false,
    func,
    not_,
    or_,
)
from sqlalchemy import true as everything

from mediatheca.kernel.filter_dates import as_datetime
from mediatheca.kernel.filter_tree import Bound, Bounds, Filter, Leaf, choices, compile_tree, words_of
from mediatheca.kernel.filter_values import Choices, Number, fold, span
from mediatheca.stores.db.json_values import POSTGRES, SQLITE, Condition, Dialect, Value
from mediatheca.stores.db.tables import UtcTime

_DAY = timedelta(days=1)
_MOST_SPANS = 50
"""More alternatives than that in one condition are left to the recheck: databases limit the depth of expressions."""
_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "gt": lambda found, bound: found > bound,
    "gte": lambda found, bound: found >= bound,
    "lt": lambda found, bound: found < bound,
    "lte": lambda found, bound: found <= bound,
}
_Result = tuple[Condition | None, bool]


def compile_sql(
    filter: Filter,
    columns: Mapping[str, ColumnElement[Any]],
    json_column: ColumnElement[Any] | None,
    dialect_name: str,
) -> tuple[Condition | None, bool]:
    """An expression that selects a superset of the matches (None: everything), and whether it is exact.

    `columns` maps field names to columns; a JSON one among them is opened by the rest of the path. Every other field
    is a path in `json_column`, whose own name means nothing; without one it is missing in every row.
    `dialect_name`: `sqlite` or `postgresql`.
    """
    dialect = {"sqlite": SQLITE, "postgresql": POSTGRES}[dialect_name]
    plain = {name: column for name, column in columns.items() if column is not json_column}
    found = compile_tree(filter, _Sql(plain, json_column, dialect))
    return found.upper, found.exact


@dataclass(frozen=True, slots=True)
class _Sql:
    """The algebra of `compile_tree`. No expression it makes is ever NULL."""

    columns: Mapping[str, ColumnElement[Any]]
    json_column: ColumnElement[Any] | None
    dialect: Dialect

    def conjunction(self, parts: Sequence[Condition]) -> Condition:
        return and_(everything(), *parts)

    def disjunction(self, parts: Sequence[Condition]) -> Condition:
        return or_(false(), *parts)

    def negation(self, part: Condition) -> Condition:
        return not_(part)

    def condition(self, leaf: Leaf) -> Bounds[Condition]:
        return Bounds.of(*self._native(leaf))

    def _native(self, leaf: Leaf) -> _Result:
        first, *rest = leaf.field.split(".")
        column = self.columns.get(leaf.field)
        if column is not None and not isinstance(column.type, JSON):
            return self._plain(leaf, column)
        column = self.columns.get(first)
        if column is None:
            free = self.json_column
            return self._nothing(leaf) if free is None else self._json(leaf, free, [first, *rest])
        if not rest:
            return None, False  # a JSON column as a whole
        if isinstance(column.type, JSON):
            return self._json(leaf, column, rest, opened=True)
        return self._nothing(leaf)

    def _nothing(self, leaf: Leaf) -> _Result:
        """The field is missing in every row."""
        accepted = leaf.operator == "in" and choices(leaf).null
        return (everything() if accepted else false()), True

    def _plain(self, leaf: Leaf, column: ColumnElement[Any]) -> _Result:
        if leaf.operator == "exists":
            return column.is_not(None), True
        found, exact = _Scalar(leaf, self.dialect).test(_column_value(column), false())
        accepted: Condition = func.coalesce(found, False)
        if leaf.operator == "in" and choices(leaf).null:
            accepted = or_(column.is_(None), accepted)
        return accepted, exact

    def _json(self, leaf: Leaf, column: ColumnElement[Any], path: Sequence[str], *, opened: bool = False) -> _Result:
        """`opened`: the column's value is on the way of the path, an array there means any of its elements."""
        if not all(self.dialect.plain_key(key) for key in path):
            return None, False
        there = self.dialect.any_node(column, path, opened=opened)
        if leaf.operator == "exists":
            return there, True
        scalar = _Scalar(leaf, self.dialect)
        exact = True

        def test(value: Value, in_array: Condition) -> Condition:
            nonlocal exact
            condition, exact = scalar.test(value, in_array)
            return condition

        found = self.dialect.any_element(column, path, test, opened=opened)
        if leaf.operator == "in" and choices(leaf).null:
            found = or_(not_(there), found)
        return found, exact


def _column_value(column: ColumnElement[Any]) -> Value:
    """A plain column as a value; a type without a rule of its own is never decided here."""
    there, kind = column.is_not(None), column.type
    if isinstance(kind, UtcTime | DateTime):
        return Value(moment=column)
    if isinstance(kind, Boolean):
        return Value(is_true=column.is_(True), is_false=column.is_(False))
    if isinstance(kind, Integer | Numeric | Float):
        return Value(number=column, is_number=there)
    if isinstance(kind, String):
        return Value(text=column, is_text=there)
    return Value(is_object=there)


@dataclass(frozen=True, slots=True)
class _Scalar:
    """One condition on one value."""

    leaf: Leaf
    dialect: Dialect

    def test(self, value: Value, in_array: Condition) -> tuple[Condition, bool]:
        """The condition (perhaps NULL, which is false), and whether it is exact."""
        operator = self.leaf.operator
        if operator == "in":
            return self._any_of(value, choices(self.leaf))
        if operator == "contains":
            return self._contains(value, in_array)
        if operator in _OPERATORS:
            return self._range(value, Bound.of(self.leaf))
        if operator.startswith("geo_"):
            return _known(value.is_object), value.is_object is None
        return self._textual(value)

    def _any_of(self, value: Value, wanted: Choices) -> tuple[Condition, bool]:
        parts = [self._texts(value, wanted), self._numbers(value, wanted), self._dates(value, wanted)]
        for boolean in wanted.booleans:
            parts.append((_known(value.is_true if boolean else value.is_false), True))
        return or_(false(), *(part for part, _ in parts)), all(exact for _, exact in parts)

    def _texts(self, value: Value, wanted: Choices) -> tuple[Condition, bool]:
        if value.text is None or value.is_text is None or not wanted.texts:
            return false(), True
        found = self._folded(value.text, tuple(wanted.texts), whole=True)
        if found is None or not all(map(self.dialect.can_hold, wanted.texts)):
            return value.is_text, False
        return and_(value.is_text, found.in_(wanted.texts)), True

    def _folded(self, text: ColumnElement[Any], needles: Sequence[str], *, whole: bool) -> ColumnElement[Any] | None:
        if self.leaf.case_sensitive and self.leaf.operator != "text":
            return text
        return self.dialect.folded(text, needles, whole=whole)

    def _numbers(self, value: Value, wanted: Choices) -> tuple[Condition, bool]:
        if value.number is None or value.is_number is None or not wanted.numbers:
            return false(), True
        spans = [span(number) for number in wanted.numbers]
        exactly = [self.dialect.number(low) for low, high, _ in spans if low == high]
        wide = [(low, high) for low, high, _ in spans if low != high]
        if len(wide) > _MOST_SPANS:
            return value.is_number, False
        parts = [self._between(value.number, low, high) for low, high in wide]
        return and_(value.is_number, or_(value.number.in_(exactly), *parts)), not wide

    def _between(self, number: ColumnElement[Any], low: Number, high: Number) -> Condition:
        return and_(number >= self.dialect.number(low), number <= self.dialect.number(high))

    def _dates(self, value: Value, wanted: Choices) -> tuple[Condition, bool]:
        if not wanted.dates:
            return false(), True
        if value.moment is not None:
            return value.moment.in_([as_datetime(moment) for moment in wanted.dates]), True
        if value.is_text is None:
            return false(), True
        if len(wanted.dates) > _MOST_SPANS:
            return value.is_text, False
        near = [and_(self._near("gte", value, moment), self._near("lte", value, moment)) for moment in wanted.dates]
        return or_(*near), False

    def _near(self, operator: str, value: Value, moment: int) -> Condition:
        """Strings that may be dates on this side of the moment. A zone moves a date by less than a day."""
        day = as_datetime(moment)
        is_text, text = _known(value.is_text), value.text
        if day is None or text is None:
            return is_text
        try:
            edge = (day - _DAY if operator.startswith("g") else day + _DAY).date().isoformat()
        except OverflowError:
            return is_text
        compare = _OPERATORS["gte" if operator.startswith("g") else "lte"]
        first = self.dialect.by_code_point(func.substr(text, 1, len(edge)))
        return and_(is_text, or_(not_(self.dialect.dated(text)), compare(first, edge)))

    def _range(self, value: Value, bound: Bound) -> tuple[Condition, bool]:
        operator = self.leaf.operator
        compare = _OPERATORS[operator]
        parts: list[tuple[Condition, bool]] = []
        if bound.number is not None and value.number is not None and value.is_number is not None:
            low, high, exact = span(bound.number)
            limit = self.dialect.number(low if operator.startswith("g") else high)
            parts.append((and_(value.is_number, compare(value.number, limit)), exact))
        if bound.date is not None and value.moment is not None:
            parts.append((compare(value.moment, as_datetime(bound.date)), True))
        elif bound.date is not None and value.is_text is not None:
            parts.append((self._near(operator, value, bound.date), False))
        if bound.text is not None:
            parts.append(self._after_text(value, bound.text))
        return or_(false(), *(part for part, _ in parts)), all(exact for _, exact in parts)

    def _after_text(self, value: Value, text: str) -> tuple[Condition, bool]:
        if value.moment is not None:
            return value.moment.is_not(None), False
        if value.is_text is None or value.text is None:
            return false(), True
        if not self.leaf.case_sensitive or not self.dialect.can_hold(text):
            return value.is_text, False
        compare = _OPERATORS[self.leaf.operator]
        return and_(value.is_text, compare(self.dialect.by_code_point(value.text), text)), True

    def _contains(self, value: Value, in_array: Condition) -> tuple[Condition, bool]:
        equal, exact = self._any_of(value, choices(self.leaf))
        if not isinstance(self.leaf.value, str):
            return and_(in_array, equal), exact
        part, certain = self._textual(value)
        return or_(and_(in_array, equal), and_(not_(func.coalesce(in_array, False)), part)), exact and certain

    def _textual(self, value: Value) -> tuple[Condition, bool]:
        operator, needle = self.leaf.operator, str(self.leaf.value)
        if value.moment is not None:
            return value.moment.is_not(None), False
        if value.text is None or value.is_text is None:
            return false(), True
        tests = {"starts_with": self.dialect.starts_with, "ends_with": self.dialect.ends_with}
        tests |= {"contains": self.dialect.has, "text": self.dialect.has}
        if operator not in tests:
            words = words_of(fold(needle)) if operator == "phrase" else []
            return and_(value.is_text, *self._holding(value.text, words)), False
        if not needle:
            return value.is_text, True
        if operator == "text" or not self.leaf.case_sensitive:
            needle = fold(needle)
        folded = self._folded(value.text, [needle], whole=False)
        if folded is None or not self.dialect.can_hold(needle):
            return value.is_text, False
        return and_(value.is_text, tests[operator](folded, needle)), True

    def _holding(self, text: ColumnElement[Any], words: Sequence[str]) -> list[Condition]:
        """The words are somewhere in the text; none is demanded when folding takes too much SQL."""
        folded = self.dialect.folded(text, words, whole=False) if words else None
        if folded is None:
            return []
        return [self.dialect.has(folded, word) for word in words if self.dialect.can_hold(word)]


def _known(condition: Condition | None) -> Condition:
    return false() if condition is None else condition
