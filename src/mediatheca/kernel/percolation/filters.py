"""New documents against standing conditions: which filters a document passes, without trying each of them.

A filter that ANDs conditions can only hold where each of them does, so it is kept under the most selective one: the
value that a field must equal, or the end of a range. A document looks up its own values, and only filters found that
way are asked in full. Filters without such a condition (an OR at the top, a NOT, a pattern) are always asked. Equal
filters, of however many queries, are one filter here.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

from mediatheca.kernel.filter_dates import document_date
from mediatheca.kernel.filter_tree import And, Bound, Filter, Leaf, affirmative, choices
from mediatheca.kernel.filter_values import at_path, fold

_UP, _DOWN = ("gt", "gte"), ("lt", "lte")
_MOST_VALUES = 100
"""A list of more values is no selective condition."""


class StandingFilters:
    """Many filters. Those that are equal get one number."""

    def __init__(self) -> None:
        self.filters: list[Filter] = []
        self._numbers: dict[str, int] = {}
        """By what they look like: values of a filter need not be hashable, and True is not 1."""
        self._equal: dict[str, dict[Hashable, list[int]]] = defaultdict(lambda: defaultdict(list))
        """Field → value → filters."""
        self._ranges: dict[tuple[str, str, str], list[tuple[Any, int]]] = defaultdict(list)
        """Field, direction, kind of value → (bound, filter), sorted when first asked."""
        self._always: list[int] = []
        self._sorted = True

    def add(self, tree: Filter) -> int:
        """The number of a filter."""
        known = repr(tree)
        number = self._numbers.get(known)
        if number is None:
            number = self._numbers[known] = len(self.filters)
            self.filters.append(tree)
            self._place(tree, number)
        return number

    def passing(self, view: Mapping[str, Any]) -> list[int]:
        """The filters that a document passes, by number ascending."""
        return [number for number in self._candidates(view) if self.filters[number].matches(view)]

    def _candidates(self, view: Mapping[str, Any]) -> list[int]:
        found = set(self._always)
        for path, values in self._equal.items():
            for key in _keys_of(view, path):
                found.update(values.get(key, ()))
        if self._ranges:
            self._sort()
            for (path, direction, kind), bounds in self._ranges.items():
                for value in _values_of(view, path, kind):
                    found.update(number for _, number in _within(bounds, direction, value))
        return sorted(found)

    def _sort(self) -> None:
        if not self._sorted:
            for bounds in self._ranges.values():
                bounds.sort(key=lambda entry: entry[0])
            self._sorted = True

    def _place(self, tree: Filter, number: int) -> None:
        """Keep a filter under the condition that the fewest documents pass."""
        spine = list(_spine(tree))
        for leaf in sorted(spine, key=_breadth):
            keys = _keys_wanted(leaf)
            if keys is not None:
                for key in keys:
                    self._equal[leaf.field][key].append(number)
                return
        for leaf in spine:
            if leaf.operator in _UP + _DOWN and self._bounded(leaf, number):
                return
        self._always.append(number)

    def _bounded(self, leaf: Leaf, number: int) -> bool:
        bound = Bound.of(leaf)
        direction = "up" if leaf.operator in _UP else "down"
        kinds = {"number": bound.number, "date": bound.date, _text_kind(leaf): bound.text}
        given = {kind: value for kind, value in kinds.items() if value is not None}
        for kind, value in given.items():
            self._ranges[leaf.field, direction, kind].append((value, number))
        self._sorted = False
        return bool(given)


def _spine(tree: Filter) -> Iterator[Leaf]:
    """Conditions that must all hold."""
    if isinstance(tree, Leaf):
        positive, negated = affirmative(tree)
        if not negated:
            yield positive
    elif isinstance(tree, And):
        for child in tree.children:
            yield from _spine(child)


def _breadth(leaf: Leaf) -> int:
    return len(leaf.value) if isinstance(leaf.value, tuple) else 1


def _keys_wanted(leaf: Leaf) -> list[Hashable] | None:
    """What a document must hold at the field, as `_keys_of` names it; None: not told by single values."""
    if leaf.operator != "in" or len(leaf.value) > _MOST_VALUES:
        return None
    wanted = choices(leaf)
    if wanted.null:
        return None
    sensitive = wanted.case_sensitive
    return [
        *(("text", sensitive, text) for text in wanted.texts),
        *(("number", number) for number in wanted.numbers),
        *(("boolean", value) for value in wanted.booleans),
        *(("date", moment) for moment in wanted.dates),
    ]


def _keys_of(view: Mapping[str, Any], path: str) -> Iterator[Hashable]:
    """Every name under which a value of the document may be wanted: see `Choices.accept`."""
    for value in at_path(view, path):
        if isinstance(value, bool):
            yield ("boolean", value)
        elif isinstance(value, int | float):
            yield ("number", value)
        elif isinstance(value, str):
            yield ("text", True, value)
            yield ("text", False, fold(value))
            moment = document_date(value)
            if moment is not None:
                yield ("date", moment)


def _text_kind(leaf: Leaf) -> str:
    return "text" if leaf.case_sensitive else "folded"


def _values_of(view: Mapping[str, Any], path: str, kind: str) -> Iterator[Any]:
    for value in at_path(view, path):
        if kind == "number" and isinstance(value, int | float) and not isinstance(value, bool):
            yield value
        elif isinstance(value, str) and kind in ("text", "folded"):
            yield value if kind == "text" else fold(value)
        elif isinstance(value, str) and kind == "date":
            moment = document_date(value)
            if moment is not None:
                yield moment


def _within(bounds: Sequence[tuple[Any, int]], direction: str, value: Any) -> Sequence[tuple[Any, int]]:
    """The bounds that a value may pass; an equal one is left to the filter itself."""
    if direction == "up":
        return bounds[: bisect_right(bounds, value, key=lambda entry: entry[0])]
    return bounds[bisect_left(bounds, value, key=lambda entry: entry[0]) :]
