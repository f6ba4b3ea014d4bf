"""Functions over all values of a group: percentile, spread, frequency, co-occurrence, correlation. Pure.

They take (value, other value) pairs, the second one None unless the function looks at two fields. Values that are no
numbers are left out of numeric functions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias

from mediatheca.kernel.hits import number, value_key

Statistic: TypeAlias = Literal[
    "percentile", "stddev", "variance", "frequency", "co_occurrence", "correlation", "histogram"
]  # fmt: skip
Pairs: TypeAlias = Sequence[tuple[Any, Any]]
LISTED = 10
MAX_BUCKETS = 1000


def statistic(name: str, pairs: Pairs, parameter: float) -> Any:
    """The value of one function.

    Args:
        parameter: the percentile (0–100), the interval of a histogram, or how many values are listed.

    Returns:
        None where it is not defined: no number, or fewer than two for a spread or a correlation.
    """
    if name == "frequency":
        return frequency((value for value, _ in pairs), int(parameter) or LISTED)
    if name == "co_occurrence":
        return co_occurrence(pairs, int(parameter) or LISTED)
    if name == "correlation":
        return correlation(pairs)
    numbers = [found for value, _ in pairs if (found := number(value)) is not None]
    if name == "histogram":
        return histogram(numbers, parameter)
    if name == "percentile":
        return percentile(numbers, parameter)
    spread = variance(numbers)
    return math.sqrt(spread) if spread is not None and name == "stddev" else spread


def percentile(numbers: Sequence[float], percent: float) -> float | None:
    """Between the two nearest ranks, linearly (type 7 of Hyndman and Fan, as in numpy and spreadsheets)."""
    if not numbers:
        return None
    ordered = sorted(numbers)
    place = (len(ordered) - 1) * percent / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def variance(numbers: Sequence[float]) -> float | None:
    """Of the sample (divided by n - 1)."""
    if len(numbers) < 2:
        return None
    mean = math.fsum(numbers) / len(numbers)
    return math.fsum((value - mean) ** 2 for value in numbers) / (len(numbers) - 1)


def frequency(values: Iterable[Any], top: int) -> list[dict[str, Any]]:
    """The most frequent values; elements of an array count one by one. Equal counts in the order of their text."""
    known: dict[bytes, Any] = {}
    counts: Counter[bytes] = Counter()
    for value in values:
        for element in _elements(value):
            ident = value_key(element)
            known.setdefault(ident, element)
            counts[ident] += 1
    total = sum(counts.values())
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:top]
    return [{"value": known[ident], "count": count, "share": count / total} for ident, count in ranked]


def co_occurrence(pairs: Pairs, top: int) -> list[dict[str, Any]]:
    """The most frequent pairs of a value of the first field with one of the second."""
    known: dict[tuple[bytes, bytes], tuple[Any, Any]] = {}
    counts: Counter[tuple[bytes, bytes]] = Counter()
    for left, right in pairs:
        for one in _elements(left):
            for other in _elements(right):
                ident = (value_key(one), value_key(other))
                known.setdefault(ident, (one, other))
                counts[ident] += 1
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:top]
    return [{"values": list(known[ident]), "count": count} for ident, count in ranked]


def correlation(pairs: Pairs) -> float | None:
    """Pearson's r; None for fewer than two pairs, or where one side does not vary."""
    both = [(number(one), number(other)) for one, other in pairs]
    numbers = [(one, other) for one, other in both if one is not None and other is not None]
    if len(numbers) < 2:
        return None
    left, right = _centred([one for one, _ in numbers]), _centred([other for _, other in numbers])
    scale = math.sqrt(math.fsum(x * x for x in left)) * math.sqrt(math.fsum(y * y for y in right))
    if scale == 0.0:
        return None
    return max(-1.0, min(1.0, math.fsum(x * y for x, y in zip(left, right, strict=True)) / scale))


def histogram(numbers: Sequence[float], interval: float) -> list[dict[str, Any]]:
    """Counts in half-open ranges `[from, from + interval)`, empty ones left out, at most 1,000."""
    counts = Counter(math.floor(value / interval) for value in numbers)
    return [{"from": step * interval, "count": counts[step]} for step in sorted(counts)[:MAX_BUCKETS]]


def _centred(values: Sequence[float]) -> list[float]:
    mean = math.fsum(values) / len(values)
    return [value - mean for value in values]


def _elements(value: Any) -> list[Any]:
    return [item for item in (value if isinstance(value, list) else [value]) if item is not None]
