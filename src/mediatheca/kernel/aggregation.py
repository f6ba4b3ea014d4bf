"""Grouping and folding a stream of records: count, sum, average and the like, in one pass. Pure.

Records are read through a function (record, dotted path) → value, so that anything can be aggregated. Values that do
not fit (text in a sum) are left out, like missing ones: data of mixed types never fails a query.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import Any, Literal, TypeAlias, get_args

import orjson

from mediatheca.kernel.ordering import parse_time
from mediatheca.kernel.statistics import Statistic, statistic
from mediatheca.kernel.time_windows import Window, window_name, window_start

Function: TypeAlias = Literal[
    "count", "count_distinct", "sum", "avg", "min", "max", "first", "last", "push", "add_to_set"
]  # fmt: skip
Unit: TypeAlias = Literal["year", "month", "week", "day", "hour", "minute", "second"]
Part: TypeAlias = Literal["year", "month", "week", "day", "dayOfWeek", "dayOfYear", "hour", "minute", "second"]
Operator: TypeAlias = Literal["gt", "gte", "lt", "lte", "eq", "ne"]
FUNCTIONS: tuple[str, ...] = get_args(Function)
STATISTICS: frozenset[str] = frozenset(get_args(Statistic))
MAX_LISTED = 10_000
"""Values that `push` and `add_to_set` keep of a group."""

Read: TypeAlias = Callable[[Any, str], Any]


@dataclass(frozen=True, slots=True)
class Key:
    """One field to group by. A date may be cut to a unit or reduced to a part of it."""

    field: str
    alias: str
    trunc: Window | None = None
    part: Part | None = None
    zone: tzinfo = UTC
    """Where the day begins."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One value to compute for every group. `field` is empty for `count` only."""

    function: Function | Statistic
    field: str
    alias: str
    second: str = ""
    """The other field of `correlation` and `co_occurrence`."""
    parameter: float = 0
    """The percentile, the interval of a histogram, or how many values are listed."""


@dataclass(frozen=True, slots=True)
class Having:
    """Keep the groups whose metric `alias` compares so."""

    alias: str
    operator: Operator
    value: float


@dataclass(slots=True)
class _Fold:
    """What is kept of one metric of one group."""

    count: int = 0
    total: float = 0
    low: Any = None
    high: Any = None
    first: Any = None
    last: Any = None
    values: list[Any] = field(default_factory=list)
    distinct: dict[bytes, Any] = field(default_factory=dict)


def aggregate(
    records: Iterable[Any], read: Read, keys: Sequence[Key], metrics: Sequence[Metric], having: Sequence[Having] = ()
) -> list[dict[str, Any]]:
    """Rows `{"group": {alias: value}, "metrics": {alias: value}}` in the order in which groups were first seen.

    Without keys there is exactly one row, also for no records.
    """
    groups: dict[bytes, tuple[dict[str, Any], list[_Fold]]] = {}
    if not keys:
        groups[b""] = ({}, [_Fold() for _ in metrics])
    for record in records:
        group = {key.alias: group_value(read(record, key.field), key) for key in keys}
        ident = orjson.dumps(list(group.values())) if keys else b""
        held = groups.get(ident)
        if held is None:
            held = groups[ident] = (group, [_Fold() for _ in metrics])
        for metric, fold in zip(metrics, held[1], strict=True):
            value = read(record, metric.field) if metric.field else True
            _add(fold, metric.function, value, read(record, metric.second) if metric.second else None)
    rows = [
        {"group": group, "metrics": {m.alias: _value(m, f) for m, f in zip(metrics, folds, strict=True)}}
        for group, folds in groups.values()
    ]
    return [row for row in rows if all(_holds(row["metrics"].get(rule.alias), rule) for rule in having)]


def sort_rows(rows: Sequence[dict[str, Any]], alias: str, *, descending: bool) -> list[dict[str, Any]]:
    """Rows by a metric or a group field; rows without a value last. Mixed types compare as text."""

    def value(row: dict[str, Any]) -> Any:
        metrics = row["metrics"]
        return metrics[alias] if alias in metrics else row["group"].get(alias)

    present = [row for row in rows if value(row) is not None]
    absent = [row for row in rows if value(row) is None]
    numeric = all(isinstance(value(row), int | float) for row in present)
    ordered = sorted(present, key=lambda row: value(row) if numeric else str(value(row)), reverse=descending)
    return ordered + absent


def _add(fold: _Fold, function: Function | Statistic, value: Any, other: Any) -> None:
    if value is None:
        return
    if function in STATISTICS:
        fold.values.append((value, other))
    elif function in ("sum", "avg"):
        if _is_number(value):
            fold.count, fold.total = fold.count + 1, fold.total + value
    else:
        fold.count += 1
        _add_any(fold, function, value)


def _add_any(fold: _Fold, function: Function | Statistic, value: Any) -> None:
    if function in ("min", "max"):
        _widen(fold, value)
    elif function in ("first", "last"):
        fold.first, fold.last = (value if fold.count == 1 else fold.first), value
    elif function != "count":
        _keep(fold, function, value)


def _keep(fold: _Fold, function: Function | Statistic, value: Any) -> None:
    if function == "push":
        fold.values += [value][: MAX_LISTED - len(fold.values)]
        return
    for element in value if isinstance(value, list) else [value]:
        fold.distinct.setdefault(orjson.dumps(element), element)


def _widen(fold: _Fold, value: Any) -> None:
    fold.low = value if fold.count == 1 or _less(value, fold.low) else fold.low
    fold.high = value if fold.count == 1 or _less(fold.high, value) else fold.high


def _value(metric: Metric, fold: _Fold) -> Any:
    if metric.function in STATISTICS:
        return statistic(metric.function, fold.values, metric.parameter)
    return _result(metric.function, fold)


def _result(function: str, fold: _Fold) -> Any:
    match function:
        case "count":
            return fold.count
        case "sum":
            return fold.total if abs(fold.total) < 2**63 else float(fold.total)
        case "avg":
            return fold.total / fold.count if fold.count else None
        case "count_distinct":
            return len(fold.distinct)
        case "add_to_set":
            return list(fold.distinct.values())[:MAX_LISTED]
        case "push":
            return fold.values
        case _:
            return {"min": fold.low, "max": fold.high, "first": fold.first, "last": fold.last}[function]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _less(left: Any, right: Any) -> bool:
    """Numbers before texts before the rest; within a kind by value."""
    ranks = [0 if _is_number(value) else 1 if isinstance(value, str) else 2 for value in (left, right)]
    if ranks[0] != ranks[1]:
        return ranks[0] < ranks[1]
    return bool(left < right) if ranks[0] < 2 else str(left) < str(right)


def _holds(value: Any, rule: Having) -> bool:
    if rule.operator in ("eq", "ne"):
        return bool(value == rule.value) is (rule.operator == "eq")
    if not _is_number(value):
        return False
    compare = {
        "gt": value > rule.value,
        "gte": value >= rule.value,
        "lt": value < rule.value,
        "lte": value <= rule.value,
    }
    return bool(compare[rule.operator])


def group_value(value: Any, key: Key) -> Any:
    """What a value counts as under a key: a date cut to its unit, None for what is no date there."""
    if key.trunc is None and key.part is None:
        return value
    moment = value if isinstance(value, datetime) else parse_time(value) if isinstance(value, str) else None
    if moment is None:
        return None
    moment = moment.astimezone(key.zone)
    if key.trunc is not None:
        return window_name(window_start(moment, key.trunc))
    return _part(moment, key.part or "year")


def _part(moment: datetime, part: Part) -> int:
    match part:
        case "week":
            return moment.isocalendar().week
        case "dayOfWeek":
            return moment.isoweekday() % 7 + 1  # Sunday is 1
        case "dayOfYear":
            return moment.timetuple().tm_yday
        case _:
            return int(getattr(moment, part))
