"""The aggregations of the `aggregate` and `temporal` stages, in every spelling of the wire."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, Field, model_validator

from mediatheca.kernel.aggregation import Metric
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.hits import number
from mediatheca.kernel.ordering import read_field
from mediatheca.kernel.search import Hit
from mediatheca.stages._fields import FieldPath

Name = Literal[
    "count", "count_distinct", "sum", "avg", "min", "max", "first", "last", "collect", "collect_distinct",
    "percentile", "stddev", "variance", "frequency", "co_occurrence", "correlation", "histogram",
]  # fmt: skip
_ALIASES = {
    "cardinality": "count_distinct", "distinct": "count_distinct", "mean": "avg", "average": "avg",
    "push": "collect", "add_to_set": "collect_distinct", "median": "percentile", "std": "stddev", "terms": "frequency",
}  # fmt: skip
_KERNEL: dict[str, Any] = {"collect": "push", "collect_distinct": "add_to_set"}
_NUMERIC = ("sum", "avg", "percentile", "stddev", "variance", "histogram", "correlation")
_TWO_FIELDS = ("co_occurrence", "correlation")
MAX_AGGREGATIONS = 50


class Aggregation(BaseModel):
    """One value to compute."""

    function: Name
    field: FieldPath | None = Field(None, description="Dotted path; count counts documents without one.")
    field_b: FieldPath | None = Field(None, description="The second field of co_occurrence and correlation.")
    percentile_value: float = Field(50, ge=0, le=100)
    interval: float | None = Field(None, gt=0, allow_inf_nan=False, description="The width of a histogram's ranges.")
    top_k: int = Field(10, ge=1, le=100, description="How many values frequency and co_occurrence list.")
    alias: str = Field("", max_length=256, description="The name of the result; not given: function and field.")

    @model_validator(mode="after")
    def _complete(self) -> Aggregation:
        if self.function != "count" and not self.field:
            raise ValueError(f"field is required for {self.function}")
        if self.function in _TWO_FIELDS and not self.field_b:
            raise ValueError(f"field_b is required for {self.function}")
        if self.function == "histogram" and self.interval is None:
            raise ValueError("interval is required for histogram")
        return self

    @property
    def name(self) -> str:
        return self.alias or "_".join(part for part in (self.function, self.field, self.field_b) if part)

    def metric(self) -> Metric:
        parameter = {
            "percentile": self.percentile_value,
            "histogram": self.interval or 1.0,
            "frequency": self.top_k,
            "co_occurrence": self.top_k,
        }.get(self.function, 0)
        function = _KERNEL.get(self.function, self.function)
        return Metric(function, self.field or "", self.name, self.field_b or "", parameter)


class GroupKey(BaseModel):
    field: FieldPath
    alias: str = Field("", max_length=256, description="Its name in the result; not given: the last part of the field.")
    date_trunc: Literal["year", "quarter", "month", "week", "day", "hour", "minute", "second"] | None = Field(
        None, description="Group dates by the window they lie in."
    )
    date_part: Literal["year", "month", "week", "day", "dayOfWeek", "dayOfYear", "hour", "minute", "second"] | None = (
        Field(None, description="Group dates by a part of them.", validation_alias=AliasChoices("date_part", "part"))
    )

    @property
    def name(self) -> str:
        return self.alias or self.field.rsplit(".", 1)[-1]


def spelled_aggregations(raw: Any) -> Any:
    """A list of aggregations with `function` for `type`, `name` for `alias`, and one entry a percentile."""
    if isinstance(raw, dict):
        raw = [{"alias": alias, **entry} if isinstance(entry, dict) else entry for alias, entry in raw.items()]
    if not isinstance(raw, list):
        return raw
    return [made for entry in raw for made in (_spelled(entry) if isinstance(entry, dict) else [entry])]


def _spelled(raw: dict[str, Any]) -> list[dict[str, Any]]:
    entry = dict(raw)
    for name, older in (("function", ("type", "operation", "op")), ("alias", ("name", "as"))):
        for spelling in older:
            value = entry.pop(spelling, None)
            if value is not None:
                entry.setdefault(name, value)
    function = entry.get("function")
    if isinstance(function, str):
        entry["function"] = _ALIASES.get(function.lower(), function.lower())
    wanted = entry.pop("percentiles", None)
    if entry.get("function") in ("percentile", "percentiles") and isinstance(wanted, list):
        alias = entry.pop("alias", None) or f"percentile_{entry.get('field')}"
        return [
            {**entry, "function": "percentile", "percentile_value": value, "alias": f"{alias}_{value}"}
            for value in wanted
        ]
    return [entry]


def check_names(names: Iterable[str], place: str) -> None:
    """Refuse two results of one name.

    Raises:
        ValueError: naming it.
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"two results are called '{name}'; give {place} an alias each")
        seen.add(name)


def check_numbers(hits: Sequence[Hit], aggregations: Sequence[Aggregation]) -> None:
    """Refuse to compute with what is no number. Missing values are left out instead.

    Raises:
        ValidationError: at the aggregation, with the value.
    """
    for place, entry in enumerate(aggregations):
        if entry.function not in _NUMERIC:
            continue
        for name, path in (("field", entry.field), ("field_b", entry.field_b)):
            for hit in hits if path else ():
                value = read_field(hit, path or "")
                if value is not None and number(value) is None:
                    shown = repr(value)[:100]
                    message = f"'{path}' of document '{hit.document_id}' is {shown}; {entry.function} needs numbers"
                    raise ValidationError.at(("aggregations", place, name), message, "number_type")
