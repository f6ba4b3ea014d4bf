"""The request of an aggregation over records: group, fold, filter the groups, order, limit."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field, model_validator

from mediatheca.kernel.aggregation import (
    Function,
    Having,
    Key,
    Metric,
    Operator,
    Part,
    Read,
    Unit,
    aggregate,
    sort_rows,
)
from mediatheca.kernel.errors import FieldError, ValidationError
from mediatheca.kernel.mapping import MISSING, read_path
from mediatheca.resources.base import Spec

MAX_GROUPS = 10_000


def _at_path(record: Mapping[str, Any], path: str) -> Any:
    value = read_path(record, path)
    return None if value is MISSING else value


class GroupField(Spec):
    field: str = Field(min_length=1)
    alias: str | None = None
    date_trunc: Unit | None = None
    date_part: Part | None = None

    @model_validator(mode="before")
    @classmethod
    def _plain_name(cls, data: Any) -> Any:
        return {"field": data} if isinstance(data, str) else data


class Operation(Spec):
    function: Function
    field: str | None = None
    alias: str | None = None
    distinct_field: str | None = None

    @model_validator(mode="after")
    def _has_field(self) -> Operation:
        if self.function != "count" and not self.source:
            raise ValueError(f"field is required for {self.function}")
        return self

    @property
    def source(self) -> str:
        return (self.distinct_field if self.function == "count_distinct" else None) or self.field or ""


class HavingRule(Spec):
    field: str
    operator: Operator
    value: float


class Ranges(Spec):
    """Numbers fall into the ranges between ascending boundaries; a boundary belongs to the lower range."""

    field: str
    boundaries: list[float] = Field(min_length=1)
    default_bucket: str = "other"

    @model_validator(mode="after")
    def _ascending(self) -> Ranges:
        if sorted(self.boundaries) != self.boundaries:
            raise ValueError("boundaries must be ascending")
        return self

    def label(self, value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return self.default_bucket
        names = [f"{bound:g}" for bound in self.boundaries]
        place = bisect.bisect_left(self.boundaries, value)
        if place == 0:
            return f"<={names[0]}"
        return f">{names[-1]}" if place == len(names) else f"{names[place - 1]}-{names[place]}"


class AggregationSpec(Spec):
    """Groups, and what to compute of each."""

    group_by: list[GroupField] = Field(min_length=1)
    aggregations: list[Operation] = Field(min_length=1)
    filters: Any = None
    having: list[HavingRule] | None = None
    unwind: str | None = None
    range_buckets: list[Ranges] | None = None
    sort_by: str | None = None
    sort_direction: str | None = Field("desc", pattern="^(asc|desc)$")
    limit: int | None = Field(None, ge=1, le=MAX_GROUPS)


def run(spec: AggregationSpec, records: Iterable[Any], source: Read = _at_path) -> dict[str, Any]:
    """`{results: [{group, metrics}], total_groups}` over the records, whose fields `source` reads.

    Raises:
        ValidationError: an alias is used twice, or names nothing of the result.
    """
    ranges = {entry.field: entry for entry in spec.range_buckets or []}
    keys = [
        Key(("\0" if g.field in ranges else "") + g.field, g.alias or g.field, g.date_trunc, g.date_part)
        for g in spec.group_by
    ]
    metrics = [
        Metric(entry.function, entry.source, entry.alias or "_".join(filter(None, (entry.function, entry.source))))
        for entry in spec.aggregations
    ]
    having = [Having(entry.field, entry.operator, entry.value) for entry in spec.having or []]
    aliases = [metric.alias for metric in metrics]
    _check_aliases(aliases, [key.alias for key in keys], having, spec.sort_by)
    unwound = _Unwound(spec.unwind, source)

    def read(record: Any, path: str) -> Any:  # a leading NUL asks for the range of the value
        value = unwound.read(record, path.removeprefix("\0"))
        return ranges[path[1:]].label(value) if path.startswith("\0") else value

    rows = aggregate(unwound.records(records), read, keys, metrics, having)
    rows = sort_rows(rows, spec.sort_by or aliases[0], descending=spec.sort_direction != "asc")
    return {"results": rows[: spec.limit or MAX_GROUPS], "total_groups": len(rows)}


@dataclass(frozen=True, slots=True)
class _Unwound:
    """Records once for every element of the list at `path`, which stands there alone; without a path as they are."""

    path: str | None
    source: Read

    def records(self, records: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        for record in records:
            held = self.source(record, self.path) if self.path else None
            if isinstance(held, list):
                yield from ((record, element) for element in held)
            else:
                yield record, held

    def read(self, item: tuple[Any, Any], path: str) -> Any:
        record, element = item
        if self.path and path == self.path:
            return element
        if self.path and path.startswith(self.path + "."):
            return _at_path(element, path.removeprefix(self.path + ".")) if isinstance(element, Mapping) else None
        return self.source(record, path)


def _check_aliases(aliases: Sequence[str], keys: Sequence[str], rules: Sequence[Having], sort_by: str | None) -> None:
    errors = [
        FieldError(("body", "aggregations"), f"the alias '{alias}' is used {times} times", "alias")
        for alias, times in Counter(aliases).items()
        if times > 1
    ]
    known = ", ".join([*aliases, *keys])
    for number, rule in enumerate(rules):
        if rule.alias not in aliases:
            where = ("body", "having", number, "field")
            message = f"'{rule.alias}' is no alias of an aggregation; there are: {known}"
            errors.append(FieldError(where, message, "alias"))
    if sort_by is not None and sort_by not in (*aliases, *keys):
        errors.append(FieldError(("body", "sort_by"), f"'{sort_by}' is not in the result; there are: {known}", "alias"))
    if errors:
        raise ValidationError("; ".join(f"{'.'.join(map(str, e.loc[1:]))}: {e.msg}" for e in errors), errors)
