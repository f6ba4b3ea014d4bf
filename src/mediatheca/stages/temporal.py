"""The `temporal` stage."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any, Literal
from zoneinfo import ZoneInfo

from pydantic import AliasChoices, BaseModel, Field, field_validator, model_validator

from mediatheca.kernel.aggregation import Key
from mediatheca.kernel.aggregation import aggregate as fold
from mediatheca.kernel.hits import number
from mediatheca.kernel.ordering import parse_time, read_field
from mediatheca.kernel.search import Hit
from mediatheca.kernel.time_windows import Window, next_window, window_name
from mediatheca.stages import CollectionView, StageContext, stage
from mediatheca.stages._aggregation_params import (
    MAX_AGGREGATIONS,
    Aggregation,
    check_names,
    check_numbers,
    spelled_aggregations,
)
from mediatheca.stages._fields import FieldPath, given, require

MAX_WINDOWS = 1000
_FUNCTIONS = ("count", "sum", "avg", "min", "max", "count_distinct", "collect_distinct")
_TIME, _WINDOW = "the field with the time", "hour, day, week, month, quarter or year"
_NO_ROWS: dict[str, Any] = {"count": 0, "sum": 0, "count_distinct": 0, "collect_distinct": []}
Row = dict[str, Any]


class Drift(BaseModel):
    enabled: bool = False
    metric: str | None = Field(None, description="The alias that is watched; not given: the first aggregation.")
    threshold: float = Field(20.0, ge=0, allow_inf_nan=False, description="Percent of change from which it is drift.")


class Params(BaseModel):
    time_field: FieldPath | None = Field(
        None, validation_alias=AliasChoices("time_field", "field"), description="Dotted path of the time."
    )
    window: Literal["hour", "day", "week", "month", "quarter", "year"] | None = Field(
        None, validation_alias=AliasChoices("window", "interval"), description="The length of a window."
    )
    aggregations: list[Aggregation] = Field(
        [Aggregation(function="count", alias="count")], min_length=1, max_length=MAX_AGGREGATIONS
    )
    drift: Drift = Drift()
    sort_order: Literal["asc", "desc"] = Field("asc", description="By time.")
    limit: int = Field(MAX_WINDOWS, ge=1, le=MAX_WINDOWS, description="Windows at most.")
    include_documents: bool = Field(False, description="The documents go on to the next stage, too.")
    timezone: str = Field("UTC", description="Where days begin, e.g. Europe/Zurich.")
    fill_empty: bool = Field(False, description="Windows without documents between others are listed, too.")

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"'{name}' is not a time zone; give a name like UTC or Europe/Zurich") from error
        return name

    @model_validator(mode="after")
    def _fits(self) -> Params:
        for entry in self.aggregations:
            if entry.function not in _FUNCTIONS:
                raise ValueError(f"aggregations: {entry.function} is not available here; {', '.join(_FUNCTIONS)}")
        names = [entry.name for entry in self.aggregations]
        check_names(names, "aggregations")
        if self.drift.metric is not None and self.drift.metric not in names:
            raise ValueError(f"drift.metric '{self.drift.metric}' is none of the aggregations: {', '.join(names)}")
        return self


def _prepare(raw: dict[str, Any], collections: Sequence[CollectionView]) -> dict[str, Any]:
    require(raw, "time_field", "field", what=_TIME)
    require(raw, "window", "interval", what=_WINDOW)
    params = {key: value for key, value in raw.items() if value is not None}
    if "aggregations" in params:
        params["aggregations"] = spelled_aggregations(params["aggregations"])
    return params


@stage(
    "temporal",
    kind="reduce",
    params=Params,
    use_cases=("Show how numbers change from week to week", "Notice drift in what is found"),
    icon="calendar-range",
    example={"time_field": "created_at", "window": "month", "aggregations": [{"function": "count", "alias": "count"}]},
    prepare=_prepare,
)
async def temporal(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Group the documents by hour, day, week, month, quarter or year, compute a value for each, and watch its change.

    The windows are in `aggregations` of the answer, each with the change to the one before in percent (null where that
    was 0 or had no value). Times without a zone are UTC; documents without a time are left out and counted.
    """
    field = given(params.time_field, "time_field", _TIME)
    unit: Window = given(params.window, "window", _WINDOW)
    zone: tzinfo = UTC if params.timezone == "UTC" else ZoneInfo(params.timezone)
    timed = [hit for hit in hits if isinstance(value := read_field(hit, field), str) and parse_time(value)]
    check_numbers(timed, params.aggregations)
    metrics = [entry.metric() for entry in params.aggregations]
    found = fold(timed, read_field, [Key(field, "window", unit, zone=zone)], metrics)
    rows = [
        {"window": row["group"]["window"], "metrics": row["metrics"]}
        for row in sorted(found, key=lambda row: datetime.fromisoformat(row["group"]["window"]))
    ]
    if params.fill_empty and rows:
        rows = _filled(rows, params, zone, ctx)
    drifts = _compare(rows, params)
    shown = rows if params.sort_order == "asc" else rows[::-1]
    if len(shown) > params.limit and "limit" not in params.model_fields_set:
        ctx.limit("windows", len(shown), params.limit)
    made = {
        "time_field": field,
        "window": unit,
        "timezone": params.timezone,
        "results": shown[: params.limit],
        "total_groups": len(rows),
        "total_documents": len(timed),
        "without_time": len(hits) - len(timed),
    }
    if params.drift.enabled:
        made["drift"] = drifts
    ctx.side["aggregations"] = ctx.metadata["aggregations"] = made
    return hits if params.include_documents else []


def _filled(rows: list[Row], params: Params, zone: tzinfo, ctx: StageContext) -> list[Row]:
    """The rows, and one for every window between the first and the last that has none; at most 1,000."""
    unit: Window = given(params.window, "window", _WINDOW)
    known = {row["window"]: row for row in rows}
    at = datetime.fromisoformat(rows[0]["window"]).astimezone(zone)
    last = datetime.fromisoformat(rows[-1]["window"])
    filled: list[Row] = []
    while at <= last and len(filled) < MAX_WINDOWS:
        name = window_name(at)
        empty = {entry.name: _NO_ROWS.get(entry.function) for entry in params.aggregations}
        filled.append(known.pop(name, {"window": name, "metrics": empty}))
        at = next_window(at, unit)
    if known:
        ctx.warn(f"there are more than {MAX_WINDOWS} windows: empty ones are listed up to {filled[-1]['window']}")
        filled += known.values()
    return filled


def _compare(rows: list[Row], params: Params) -> list[Row]:
    """Write the percent change of every numeric metric into the rows; the windows that drift are returned."""
    watched = params.drift.metric or params.aggregations[0].name
    drifts = []
    for before, row in zip([None, *rows], rows, strict=False):
        row["change_percent"] = {
            name: _change(before["metrics"][name], value) if before else None
            for name, value in row["metrics"].items()
            if not isinstance(value, list)
        }
        change = row["change_percent"].get(watched)
        if params.drift.enabled:
            row["drift"] = change is not None and abs(change) >= params.drift.threshold
            if row["drift"]:
                drifts.append({"window": row["window"], "metric": watched, "change_percent": change})
    return drifts


def _change(before: Any, now: Any) -> float | None:
    old, new = number(before), number(now)
    if old is None or new is None or old == 0:
        return None
    return (new - old) / abs(old) * 100
