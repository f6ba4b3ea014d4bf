"""Filters as conditions of Qdrant Edge or of a Qdrant server: the same conditions, spelled by one of two vocabularies.

The engine opens the array at a path's end by itself; arrays on the way have to be said (`a[].b`), so a path of n keys
becomes up to 2^(n-1) alternatives. Without case, a string is looked for folded, in the payload and in its shadow `_f`.
"""

from __future__ import annotations

import itertools
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from mediatheca.kernel.clock import wire_time
from mediatheca.kernel.filter_dates import as_datetime
from mediatheca.kernel.filter_tree import SYSTEM_ALIASES, Bound, Bounds, Filter, Leaf, choices, compile_tree, words_of
from mediatheca.kernel.filter_values import Choices, fold, span

SHADOW = "_f"
_HIDDEN = frozenset({SHADOW, "_odd", "_kept", "score", "_score"})
"""First keys that name something else in a point than in a document's view."""
_MOST_KEYS = 5
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")
_UNSAYABLE = re.compile(r"[\x00-\x1f\x7f\"\\]")
_MARGIN = 1.001
"""How much larger shapes are made for the engine: its sphere and its rounding are not ours."""


@dataclass(frozen=True, slots=True)
class Vocabulary(ABC):
    """How an engine's Python package spells conditions; most of it alike."""

    models: Any

    def all_of(self, parts: Sequence[Any]) -> Any:
        return self.models.Filter(must=list(parts))

    def any_of(self, parts: Sequence[Any]) -> Any:
        return self.models.Filter(should=list(parts))

    def none_of(self, part: Any) -> Any:
        return self.models.Filter(must_not=[part])

    def strings(self, key: str, texts: Collection[str]) -> Any:
        return self.models.FieldCondition(key=key, match=self.models.MatchAny(any=list(texts)))

    def prefix(self, key: str, text: str) -> Any:
        return self.models.FieldCondition(key=key, match=self.models.MatchPrefix(prefix=text))

    def substring(self, key: str, text: str) -> Any:
        return self.models.FieldCondition(key=key, match=self.models.MatchSubstring(substring=text))

    def circle(self, key: str, lat: float, lon: float, radius_m: float) -> Any:
        shape = self.models.GeoRadius(center=self.models.GeoPoint(lat=lat, lon=lon), radius=radius_m)
        return self.models.FieldCondition(key=key, geo_radius=shape)

    @abstractmethod
    def nothing(self) -> Any: ...

    @abstractmethod
    def empty(self, key: str) -> Any: ...

    @abstractmethod
    def boolean(self, key: str, value: bool) -> Any: ...

    @abstractmethod
    def numbers(self, key: str, **bounds: float) -> Any: ...

    @abstractmethod
    def dates(self, key: str, **bounds: datetime) -> Any: ...


class EdgeVocabulary(Vocabulary):
    """Conditions of `qdrant_edge`."""

    def nothing(self) -> Any:
        return self.models.HasIdCondition(set())

    def empty(self, key: str) -> Any:
        return self.models.IsEmptyCondition(key)

    def boolean(self, key: str, value: bool) -> Any:
        # A Python bool is taken for an integer.
        return self.models.FieldCondition(key=key, match=self.models.MatchValue(np.bool_(value)))

    def numbers(self, key: str, **bounds: float) -> Any:
        return self.models.FieldCondition(key=key, range=self.models.RangeFloat(**bounds))

    def dates(self, key: str, **bounds: datetime) -> Any:
        written = {name: wire_time(moment) for name, moment in bounds.items()}
        return self.models.FieldCondition(key=key, range=self.models.RangeDateTime(**written))


class ServerVocabulary(Vocabulary):
    """Conditions of `qdrant_client.models`."""

    def nothing(self) -> Any:
        return self.models.HasIdCondition(has_id=[])

    def empty(self, key: str) -> Any:
        return self.models.IsEmptyCondition(is_empty=self.models.PayloadField(key=key))

    def boolean(self, key: str, value: bool) -> Any:
        return self.models.FieldCondition(key=key, match=self.models.MatchValue(value=value))

    def numbers(self, key: str, **bounds: float) -> Any:
        return self.models.FieldCondition(key=key, range=self.models.Range(**bounds))

    def dates(self, key: str, **bounds: datetime) -> Any:
        return self.models.FieldCondition(key=key, range=self.models.DatetimeRange(**bounds))


def vocabulary(models: Any) -> Vocabulary:
    """For the module `qdrant_edge` or `qdrant_client.models`."""
    return EdgeVocabulary(models) if hasattr(models, "RangeFloat") else ServerVocabulary(models)


def compile_qdrant(filter: Filter, models: Any, fields: Mapping[str, str] | None = None) -> tuple[Any | None, bool]:
    """A `models.Filter` that selects a superset of the matches (None: everything), and whether it is exact.

    Args:
        models: the module `qdrant_edge` or `qdrant_client.models`.
        fields: the payload indexes of the collection (dotted path to type). An index of one type can hide values of
            another, so conditions that it would answer wrongly are left to the recheck.
    """
    words = vocabulary(models)
    found = compile_tree(filter, _Qdrant(words, fields or {}))
    return (None if found.upper is None else words.all_of([found.upper])), found.exact


@dataclass(frozen=True, slots=True)
class _Qdrant:
    """The algebra of `compile_tree`."""

    words: Vocabulary
    fields: Mapping[str, str]

    def conjunction(self, parts: Sequence[Any]) -> Any:
        return self.words.all_of(parts) if parts else self.words.none_of(self.words.nothing())

    def disjunction(self, parts: Sequence[Any]) -> Any:
        return self.words.any_of(parts) if parts else self.words.nothing()

    def negation(self, part: Any) -> Any:
        return self.words.none_of(part)

    def condition(self, leaf: Leaf) -> Bounds[Any]:
        return Bounds.of(*self._native(leaf))

    def _native(self, leaf: Leaf) -> tuple[Any | None, bool]:
        path = leaf.field.split(".")
        if path[0] in _HIDDEN or not _sayable(path):
            return None, False
        native, exact = self._at(leaf, path)
        system = SYSTEM_ALIASES.get(leaf.field)
        if system is None:
            return native, exact
        behind, certain = self._at(leaf, ["_internal", system])
        return self._aliased(path, native, behind), exact and certain

    def _aliased(self, path: Sequence[str], native: Any | None, behind: Any | None) -> Any | None:
        """The payload's own value, or the system's where the payload has none."""
        if native is None or behind is None:
            return None
        missing = self.negation(self._present(path))
        return self.words.any_of(
            [self.words.all_of([native, self._present(path)]), self.words.all_of([missing, behind])]
        )

    def _at(self, leaf: Leaf, path: Sequence[str]) -> tuple[Any | None, bool]:
        if leaf.operator == "exists":
            return self._present(path), True
        found, exact = _Field(leaf, self.words, _variants(path), self.fields.get(".".join(path), "")).condition()
        null = leaf.operator == "in" and choices(leaf).null
        if found is None:
            return (None if null else self._present(path)), False
        if null:
            found = self.words.any_of([self.negation(self._present(path)), found])
        return found, exact

    def _present(self, path: Sequence[str]) -> Any:
        return self.words.any_of([self.words.none_of(self.words.empty(key)) for key in _variants(path)])


def _sayable(path: Sequence[str]) -> bool:
    return len(path) <= _MOST_KEYS and all(key and not _UNSAYABLE.search(key) for key in path)


def _variants(path: Sequence[str]) -> list[str]:
    """The engine's paths: each key on the way may lead to an object or to an array of objects."""
    quoted = [key if _PLAIN_KEY.fullmatch(key) else f'"{key}"' for key in path]
    ways = itertools.product(*([key, f"{key}[]"] for key in quoted[:-1]))
    return [".".join((*way, quoted[-1])) for way in ways]


@dataclass(frozen=True, slots=True)
class _Field:
    """One condition on the value at a path."""

    leaf: Leaf
    words: Vocabulary
    keys: Sequence[str]
    indexed: str
    """The type of the path's payload index, empty without one."""

    def condition(self) -> tuple[Any | None, bool]:
        """None: nothing more than that there is a value."""
        operator = self.leaf.operator
        if operator == "in":
            return self._any_of(choices(self.leaf))
        if operator in ("gt", "gte", "lt", "lte"):
            return self._range(Bound.of(self.leaf))
        if operator == "geo_radius":
            circle = self.leaf.value
            radius = circle["radius_m"] * _MARGIN + 1
            return self._either(
                [self.words.circle(key, circle["lat"], circle["lon"], radius) for key in self.keys]
            ), False
        if operator == "contains":
            return self._contains()
        if operator in ("text", "starts_with", "ends_with"):
            return self._part(str(self.leaf.value), exact=operator != "ends_with")
        if operator == "phrase":
            return self._phrase()
        return None, False

    def _either(self, parts: Sequence[Any]) -> Any:
        return self.words.any_of(parts) if parts else self.words.nothing()

    def _any_of(self, wanted: Choices) -> tuple[Any | None, bool]:
        texts = sorted(wanted.texts)
        parts = [self.words.strings(key, texts) for key in self._string_keys()] if texts else []
        parts += [self.words.boolean(key, value) for key in self.keys for value in wanted.booleans]
        exact = True
        for number in wanted.numbers:
            low, high, certain = span(number)
            exact = exact and certain
            parts += [self.words.numbers(key, gte=float(low), lte=float(high)) for key in self.keys]
        if wanted.numbers and not self._numbers_visible():
            return None, False
        for moment in wanted.dates:
            day = as_datetime(moment)
            if day is None:
                return None, False
            parts += [self.words.dates(key, gte=day, lte=day) for key in self.keys]
        return self._either(parts), exact

    def _numbers_visible(self) -> bool:
        """An index of dates hides the numbers at its path, one of integers the fractions."""
        return self.indexed not in ("datetime", "integer")

    def _string_keys(self) -> list[str]:
        """Where folded strings lie: the payload, and the shadow for those that folding changed."""
        with_case = self.leaf.case_sensitive and self.leaf.operator != "text"
        return list(self.keys) if with_case else [*self.keys, *(f"{SHADOW}.{key}" for key in self.keys)]

    def _range(self, bound: Bound) -> tuple[Any | None, bool]:
        operator = self.leaf.operator
        if bound.text is not None:
            return None, False  # the engine does not order strings
        if bound.date is not None:
            moment = as_datetime(bound.date)
            if moment is None:
                return None, False
            return self._either([self.words.dates(key, **{operator: moment}) for key in self.keys]), True
        if bound.number is None or not self._numbers_visible():
            return None, False
        low, high, exact = span(bound.number)
        limit = float(low if operator.startswith("g") else high)
        return self._either([self.words.numbers(key, **{operator: limit}) for key in self.keys]), exact

    def _part(self, text: str, *, exact: bool) -> tuple[Any | None, bool]:
        operator = self.leaf.operator
        if not text:
            return None, False
        if operator == "text" or not self.leaf.case_sensitive:
            text = fold(text)
        match = self.words.prefix if operator == "starts_with" else self.words.substring
        return self._either([match(key, text) for key in self._string_keys()]), exact

    def _contains(self) -> tuple[Any | None, bool]:
        """The engine cannot tell a string from an array of one."""
        equal, _ = self._any_of(choices(self.leaf))
        if not isinstance(self.leaf.value, str):
            return equal, False
        part, _ = self._part(self.leaf.value, exact=False)
        return (None if equal is None or part is None else self.words.any_of([equal, part])), False

    def _phrase(self) -> tuple[Any | None, bool]:
        words = words_of(self.leaf.value if self.leaf.case_sensitive else fold(self.leaf.value))
        keys = self._string_keys()
        parts = [self.words.any_of([self.words.substring(key, word) for key in keys]) for word in words]
        return (self.words.all_of(parts) if parts else self.words.nothing()), not parts
