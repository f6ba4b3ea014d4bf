"""The request of an aggregation over records: group, fold, filter the groups, order, limit."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import Field, model_validator

from mediatheca.kernel.aggregation import Function, Having, Key, Metric, Operator, Part, Unit, aggregate, sort_rows
from mediatheca.kernel.mapping import MISSING, read_path
from mediatheca.resources.base import Spec


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
    """Group by fields, compute a value for each group."""

    group_by: list[GroupField] = Field(min_length=1)
    aggregations: list[Operation] = Field(min_length=1)
    filters: dict[str, Any] | None = None
    having: list[HavingRule] | None = None
    unwind: str | None = None
    range_buckets: list[Ranges] | None = None
    sort_by: str | None = None
    sort_direction: str | None = Field("desc", pattern="^(asc|desc)$")
    limit: int | None = Field(None, ge=1)


def run(spec: AggregationSpec, records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """`{results: [{group, metrics}], total_groups}` over the records."""
    ranges = {entry.field: entry for entry in spec.range_buckets or []}

    def read(record: Mapping[str, Any], path: str) -> Any:  # a leading NUL asks for the range of the value
        ranged = path.startswith("\0")
        value = read_path(record, path.removeprefix("\0"))
        value = None if value is MISSING else value
        return ranges[path[1:]].label(value) if ranged else value

    keys = [
        Key(("\0" if g.field in ranges else "") + g.field, g.alias or g.field, g.date_trunc, g.date_part)
        for g in spec.group_by
    ]
    metrics = [
        Metric(entry.function, entry.source, entry.alias or "_".join(filter(None, (entry.function, entry.source))))
        for entry in spec.aggregations
    ]
    having = [Having(entry.field, entry.operator, entry.value) for entry in spec.having or []]
    rows = aggregate(_unwound(records, spec.unwind), read, keys, metrics, having)
    if spec.sort_by:
        rows = sort_rows(rows, spec.sort_by, descending=spec.sort_direction != "asc")
    return {"results": rows[: spec.limit], "total_groups": len(rows)}


def _unwound(records: Iterable[Mapping[str, Any]], name: str | None) -> Iterator[Mapping[str, Any]]:
    for record in records:
        values = read_path(record, name) if name else None
        if name and isinstance(values, list):
            yield from ({**record, name: value} for value in values)
        else:
            yield record
