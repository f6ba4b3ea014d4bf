"""What filters see of a document's values: paths, folding, spellings of numbers, equality.

Paths are keys joined by dots. An array on the way, and at the end, means any of its elements; an array directly inside
an array is not opened. These are the index engine's rules, so that it can answer for us.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, TypeAlias

from mediatheca.kernel.clock import wire_time
from mediatheca.kernel.filter_dates import document_date, filter_date

Number: TypeAlias = int | float

_SPELLED = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?", re.ASCII)
_LONGEST_NUMBER = 330


def fold(text: str) -> str:
    """The case-insensitive form of a string."""
    return text.casefold()


def fold_shadow(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The payload's structure with only the strings that folding changes, folded. Arrays keep just those.

    An index holds it beside the payload: without case, a string equals `x` when either of them holds `fold(x)`.
    """
    shadow = {}
    for key, value in payload.items():
        folded = _shadow(value)
        if folded is not None:
            shadow[key] = folded
    return shadow


def _shadow(value: Any) -> Any:
    if isinstance(value, str):
        folded = fold(value)
        return folded if folded != value else None
    if isinstance(value, Mapping):
        return fold_shadow(value) or None
    if isinstance(value, list | tuple):
        return [folded for entry in value if (folded := _shadow(entry)) is not None] or None
    return None


def nodes_at(view: Any, path: str) -> Iterator[Any]:
    """The values at a dotted path, one for each element of arrays on the way; arrays at its end stay whole."""
    return _walk(view, path.split("."))


def _walk(value: Any, parts: Sequence[str]) -> Iterator[Any]:
    if not isinstance(value, Mapping) or parts[0] not in value:
        return
    found = value[parts[0]]
    if len(parts) == 1:
        yield plain(found)
        return
    for entry in found if isinstance(found, list | tuple) else (found,):
        yield from _walk(entry, parts[1:])


def at_path(view: Any, path: str) -> Iterator[Any]:
    """Every value at a dotted path; arrays on the way, and at its end, mean any element."""
    for node in nodes_at(view, path):
        if isinstance(node, list):
            yield from node
        else:
            yield node


def present(node: Any) -> bool:
    """Whether a value counts as there: not null and not an empty array."""
    return node is not None and node != []


def plain(value: Any) -> Any:
    """A Python value as JSON would have it: times as on the wire, tuples as arrays."""
    if isinstance(value, datetime):
        return wire_time(value)
    if isinstance(value, date):
        return value.isoformat()
    return [plain(entry) for entry in value] if isinstance(value, tuple) else value


def spellings(number: Number) -> frozenset[str]:
    """The strings that count as this number: as an integer, as a float, whichever say it without loss."""
    found = set()
    if isinstance(number, int) or number.is_integer():
        found.add(str(int(number)))
    try:
        approximate = float(number) + 0.0
    except OverflowError:
        return frozenset(found)
    if approximate == number:
        found.add(repr(approximate))
    return frozenset(found)


def spelled(text: str) -> Number | None:
    """The number that `text` spells without loss, None when it spells none."""
    if len(text) > _LONGEST_NUMBER or not _SPELLED.fullmatch(text):
        return None
    number: Number = int(text) if text.lstrip("-").isdigit() else float(text)
    return number if math.isfinite(number) and text in spellings(number) else None


@dataclass(frozen=True, slots=True)
class Choices:
    """The values a condition accepts, by type. A number and the string that spells it are equal; so are two dates that
    name one moment, when the condition's is written as a date.
    """

    texts: frozenset[str] = frozenset()
    """Folded unless the condition is case-sensitive."""
    numbers: frozenset[Number] = frozenset()
    booleans: frozenset[bool] = frozenset()
    dates: frozenset[int] = frozenset()
    null: bool = False
    """A missing value is accepted too."""
    case_sensitive: bool = False

    @classmethod
    def of(cls, values: Sequence[Any], *, case_sensitive: bool) -> Choices:
        texts: set[str] = set()
        numbers: set[Number] = set()
        dates: set[int] = set()
        for value in values:
            if isinstance(value, str):
                texts.add(value if case_sensitive else fold(value))
                number, moment = spelled(value), filter_date(value)
                numbers |= set() if number is None else {number}
                dates |= set() if moment is None else {moment}
            elif isinstance(value, int | float) and not isinstance(value, bool):
                numbers.add(value)
        for number in numbers:
            texts |= spellings(number)
        booleans = frozenset(value for value in values if isinstance(value, bool))
        return cls(frozenset(texts), frozenset(numbers), booleans, frozenset(dates), None in values, case_sensitive)

    def accept(self, value: Any) -> bool:
        """Whether a document's scalar is one of them."""
        if isinstance(value, bool):
            return value in self.booleans
        if isinstance(value, int | float):
            return value in self.numbers
        if not isinstance(value, str):
            return False
        if (value if self.case_sensitive else fold(value)) in self.texts:
            return True
        return bool(self.dates) and document_date(value) in self.dates


EXACT_NUMBERS = 2**53
"""Below it, every engine compares numbers exactly; from here on integers may be rounded to floats."""


def span(number: Number) -> tuple[Number, Number, bool]:
    """The least and the greatest number an engine may take for this one, and whether they are the same."""
    if isinstance(number, float) and not number.is_integer():
        return number, number, True
    if abs(number) < EXACT_NUMBERS:
        return int(number), int(number), True
    try:
        middle = float(number)
    except OverflowError:
        middle = sys.float_info.max if number > 0 else -sys.float_info.max
    widest = sys.float_info.max
    low, high = math.nextafter(middle, -math.inf), math.nextafter(middle, math.inf)
    return max(low, -widest), min(high, widest), False
