"""Filters as SQL of a Lance scan, over the fixed columns and the JSON column `payload`.

Only functions that never fail are used, whatever types a path holds: `json_exists` with a JSONPath predicate, and text
functions over `json_extract`, which gives JSON text. Neither tells the elements of an array from those of an array
directly inside it, and JSON text has no case-insensitive form, so most conditions are narrowed from both sides and
what lies between is left to the recheck. One JSONPath test must not mix types (it fails silently), and never use
ranges of array positions: `[0 to last]` on a scalar exhausts the memory of the process.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from mediatheca.kernel.filter_dates import as_datetime
from mediatheca.kernel.filter_folding import fold_steps
from mediatheca.kernel.filter_tree import SYSTEM_ALIASES, Bound, Bounds, Filter, Leaf, choices, compile_tree, words_of
from mediatheca.kernel.filter_values import Choices, Number, fold, span

_ALWAYS, _NEVER = "true", "false"
_COLUMNS = {"document_id": "document_id"} | {
    f"_internal.{name}": name for name in ("object_id", "root_object_id", "created_at", "updated_at")
}
_TIMES = frozenset({"created_at", "updated_at"})
_ELSEWHERE = frozenset({"collection_id", "_internal", "score", "_score"})
_COMPARE = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]")
_UNSAYABLE = re.compile(r"[\"\\\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]")
_DAY = timedelta(days=1)
_DATED = "'^\"[0-9]{4}-[0-9]{2}-[0-9]{2}'"
_MOST = 50
"""More alternatives than that in one condition make the expression too deep."""

_Result = tuple[str | None, bool]


def compile_lance(filter: Filter, collection_id: str | None = None) -> tuple[str | None, bool]:
    """SQL that selects a superset of the matches (None: everything), and whether it is exact.

    `collection_id`: whose table it is; without it a condition on `collection_id` is left to the recheck.
    """
    found = lance_bounds(filter, collection_id)
    return found.upper, found.exact


def lance_bounds(filter: Filter, collection_id: str | None = None) -> Bounds[str]:
    """`compile_lance` with the lower bound: only rows between the two need the recheck."""
    return compile_tree(filter, _Lance(collection_id))


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _either(parts: Sequence[str]) -> str:
    return f"({' OR '.join(parts)})" if parts else _NEVER


@dataclass(frozen=True, slots=True)
class _Lance:
    """The algebra of `compile_tree`. No expression it makes is ever NULL."""

    collection_id: str | None

    def conjunction(self, parts: Sequence[str]) -> str:
        return f"({' AND '.join(parts)})" if parts else _ALWAYS

    def disjunction(self, parts: Sequence[str]) -> str:
        return _either(parts)

    def negation(self, part: str) -> str:
        return f"(NOT {part})"

    def condition(self, leaf: Leaf) -> Bounds[str]:
        column = _COLUMNS.get(leaf.field)
        if column is not None:
            return Bounds.of(*_Column(leaf, column).condition())
        if leaf.field == "collection_id" and self.collection_id is not None:
            here = leaf.matches({"collection_id": self.collection_id})
            return Bounds.of(_ALWAYS if here else _NEVER, True)
        path = leaf.field.split(".")
        if path[0] in _ELSEWHERE or not all(path) or _UNSAYABLE.search(leaf.field):
            return Bounds(None, None)
        system = SYSTEM_ALIASES.get(leaf.field)
        found = _Payload(leaf, path)
        return (
            found.condition() if system is None else self._aliased(found, Bounds.of(*_Column(leaf, system).condition()))
        )

    def _aliased(self, found: _Payload, behind: Bounds[str]) -> Bounds[str]:
        """The payload's own value, or the column's where the payload has none."""
        there, own = found.present(), found.condition()
        upper = lower = None
        if own.upper is not None and behind.upper is not None:
            upper = f"(({there} AND {own.upper}) OR (NOT {there} AND {behind.upper}))"
        if own.lower is not None and behind.lower is not None:
            lower = f"(({there} AND {own.lower}) OR (NOT {there} AND {behind.lower}))"
        return Bounds(upper, upper if own.exact and behind.exact else lower)


@dataclass(frozen=True, slots=True)
class _Column:
    """A condition on a column that is never null: an identifier, or a time."""

    leaf: Leaf
    name: str

    def condition(self) -> _Result:
        operator = self.leaf.operator
        if operator == "exists":
            return _ALWAYS, True
        if operator == "in":
            return self._any_of(choices(self.leaf))
        if operator in _COMPARE:
            return self._range(Bound.of(self.leaf))
        if operator.startswith("geo_") or (operator == "contains" and not isinstance(self.leaf.value, str)):
            return _NEVER, True
        text = str(self.leaf.value)
        functions = {"contains": "contains", "starts_with": "starts_with", "ends_with": "ends_with"}
        if operator not in functions or self.name in _TIMES or _CONTROL.search(text):
            return None, False
        return f"{functions[operator]}({self.name}, {_literal(text)})", True

    def _any_of(self, wanted: Choices) -> _Result:
        if self.name in _TIMES:
            return _either([f"{self.name} = {_timestamp(moment)}" for moment in sorted(wanted.dates)]), True
        if wanted.dates or any(map(_CONTROL.search, wanted.texts)):
            return None, False
        texts = ", ".join(map(_literal, sorted(wanted.texts)))
        return (f"{self.name} IN ({texts})" if texts else _NEVER), True

    def _range(self, bound: Bound) -> _Result:
        compare = _COMPARE[self.leaf.operator]
        if self.name in _TIMES and bound.text is None:
            return (_NEVER if bound.date is None else f"{self.name} {compare} {_timestamp(bound.date)}"), True
        if self.name not in _TIMES and bound.text is not None and not _CONTROL.search(bound.text):
            return f"{self.name} {compare} {_literal(bound.text)}", True
        return (_NEVER, True) if bound.date is None and bound.text is None else (None, False)


def _timestamp(micros: int) -> str:
    # From a number: the text form goes through nanoseconds, which end in the year 2262.
    return f"to_timestamp_micros({micros})"


@dataclass(frozen=True, slots=True)
class _Payload:
    """A condition on a path of the payload."""

    leaf: Leaf
    path: Sequence[str]

    def _json_path(self) -> str:
        return '$."' + '"[*]."'.join(self.path) + '"'

    def _exists(self, rest: str) -> str:
        return f"json_exists(payload, {_literal(self._json_path() + rest)})"

    def _text(self) -> str:
        """The JSON text of the value at the path; of several, an array of them."""
        return f"json_extract(payload, {_literal(self._json_path())})"

    def present(self) -> str:
        if len(self.path) == 1:
            return f"coalesce({self._text()} NOT IN ('null', '[]'), false)"
        # A scalar, an array, an object with members, and else an empty object.
        ways = [self._exists(rest) for rest in (" ? (@ != null)", "[0]", ".*")]
        return _either([*ways, f"coalesce(contains({self._text()}, '{{}}'), false)"])

    def condition(self) -> Bounds[str]:
        """The upper bound says at least that there is a value."""
        operator = self.leaf.operator
        if operator == "exists":
            return Bounds.of(self.present(), True)
        if operator == "in":
            return self._any_of(choices(self.leaf))
        if operator in _COMPARE:
            return self._range(Bound.of(self.leaf))
        if operator.startswith("geo_"):
            return Bounds(self._exists('[*]."lat"'), None)
        if operator == "contains":
            return self._contains()
        return self._textual(str(self.leaf.value))

    def _elements(self, test: str) -> Bounds[str]:
        """Scalars, or elements of an array, that pass a JSONPath test. The test also opens arrays directly inside."""
        upper = self._exists(f"[*] ? ({test})")
        return Bounds(upper, f"({upper} AND NOT {self._exists('[*][0]')})")

    def _any_of(self, wanted: Choices) -> Bounds[str]:
        parts = [self._elements(f"@ == {str(value).lower()}") for value in sorted(wanted.booleans)]
        if wanted.numbers:
            parts.append(self._numbers(sorted(wanted.numbers)))
        if wanted.texts:
            parts.append(self._strings(sorted(wanted.texts)))
        if len(wanted.dates) > _MOST:
            parts.append(Bounds(self.present(), None))
        else:
            parts += [Bounds(self._near("gte", moment, "lte"), None) for moment in wanted.dates]
        if wanted.null:
            parts.append(Bounds.of(f"(NOT {self.present()})", True))
        return self._any(parts)

    @staticmethod
    def _any(parts: Sequence[Bounds[str]]) -> Bounds[str]:
        upper = _either([part.upper for part in parts if part.upper is not None])
        if all(part.exact for part in parts):
            return Bounds(upper, upper)
        return Bounds(upper, _either([part.lower for part in parts if part.lower is not None]))

    def _numbers(self, numbers: Sequence[Number]) -> Bounds[str]:
        tests, exact = [], True
        for number in numbers:
            low, high, certain = span(number)
            exact = exact and certain
            tests.append(f"@ == {_number(low)}" if low == high else f"@ >= {_number(low)} && @ <= {_number(high)}")
        found = self._elements(" || ".join(tests))
        return found if exact else Bounds(found.upper, None)

    def _strings(self, texts: Sequence[str]) -> Bounds[str]:
        if any(map(_CONTROL.search, texts)):
            return Bounds(self.present(), None)
        if len(texts) <= _MOST and all(texts) and self._literally(texts):
            return self._elements(" || ".join(f"@ == {_quoted(text)}" for text in texts))
        folded = self._folded(texts, whole=True)
        if folded is None:
            return Bounds(self.present(), None)
        lower = f"coalesce({folded} IN ({', '.join(_literal(_quoted(text)) for text in texts)}), false)"
        if len(texts) > _MOST:
            return Bounds(f"({lower} OR coalesce(starts_with({self._text()}, '['), false))", lower)
        return Bounds(_either([self._has(folded, _quoted(text)) for text in texts]), lower)

    def _literally(self, texts: Collection[str]) -> bool:
        """Whether strings fold to these only when they are these."""
        return self.leaf.case_sensitive or fold_steps(texts, str, whole=True) == []

    def _folded(self, needles: Collection[str], *, whole: bool) -> str | None:
        """The JSON text, folded as far as the needles can tell."""
        if self.leaf.case_sensitive and self.leaf.operator != "text":
            return self._text()
        steps = fold_steps(needles, str.lower, whole=whole)
        if steps is None:
            return None
        folded = f"lower({self._text()})"
        for old, new in steps:
            folded = f"replace({folded}, {_literal(old)}, {_literal(new)})"
        return folded

    @staticmethod
    def _has(text: str, part: str) -> str:
        return f"coalesce(contains({text}, {_literal(part)}), false)"

    def _near(self, operator: str, moment: int, other: str | None = None) -> str:
        """Strings that may be dates on this side of the moment, or on both. A zone moves a date by less than a day."""
        day, text = as_datetime(moment), self._text()
        if day is None:
            return self.present()
        tests = []
        for side in filter(None, (operator, other)):
            try:
                edge = (day - _DAY if side.startswith("g") else day + _DAY).date().isoformat()
            except OverflowError:
                continue
            tests.append(f"substr({text}, 2, 10) {'>=' if side.startswith('g') else '<='} '{edge}'")
        near = " AND ".join(tests) or _ALWAYS
        return f"coalesce(NOT regexp_like({text}, {_DATED}) OR ({near}), false)"

    def _range(self, bound: Bound) -> Bounds[str]:
        operator = self.leaf.operator
        if bound.date is not None:
            return Bounds(self._near(operator, bound.date), None)
        if bound.text is not None or bound.number is None:
            return Bounds(self.present(), None)
        low, high, exact = span(bound.number)
        limit = _number(low if operator.startswith("g") else high)
        found = self._elements(f"@ {_COMPARE[operator]} {limit}")
        return found if exact else Bounds(found.upper, None)

    def _contains(self) -> Bounds[str]:
        """The text of an array and that of a string look alike."""
        equal = self._any_of(choices(self.leaf))
        if not isinstance(self.leaf.value, str):
            return Bounds(equal.upper, None)
        return Bounds(self._any([equal, self._textual(self.leaf.value)]).upper, None)

    def _textual(self, needle: str) -> Bounds[str]:
        operator = self.leaf.operator
        if operator in ("regex", "words") or _CONTROL.search(needle):
            return Bounds(self.present(), None)
        if operator == "phrase":
            return self._phrase(needle)
        if not self.leaf.case_sensitive or operator == "text":
            needle = fold(needle)
        folded = self._folded([needle], whole=False)
        if folded is None:
            return Bounds(self.present(), None)
        inner = _quoted(needle)[1:-1]
        if operator == "starts_with":
            begins = f"coalesce(starts_with({folded}, {_literal(chr(34) + inner)}), false)"
            return Bounds(self._has(folded, f'"{inner}'), begins)
        return Bounds(self._has(folded, f'{inner}"' if operator == "ends_with" else inner), None)

    def _phrase(self, needle: str) -> Bounds[str]:
        words = words_of(needle if self.leaf.case_sensitive else fold(needle))
        folded = self._folded(words, whole=False)
        if not words:
            return Bounds.of(_NEVER, True)
        if folded is None:
            return Bounds(self.present(), None)
        return Bounds(f"({' AND '.join(self._has(folded, word) for word in words)})", None)


def _quoted(text: str) -> str:
    """A string as JSON text, in JSONPath literals and in what `json_extract` gives."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _number(number: Number) -> str:
    """A JSONPath literal. Its grammar takes `5.5` for the integer 5, so fractions are written `.55e1`."""
    if isinstance(number, int):
        return str(number)
    sign, digits, exponent = Decimal(repr(number)).as_tuple()
    return f"{'-' if sign else ''}.{''.join(map(str, digits))}e{int(exponent) + len(digits)}"
