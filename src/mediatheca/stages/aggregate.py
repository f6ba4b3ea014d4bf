"""The `aggregate` stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator

from mediatheca.kernel.aggregation import Key, sort_rows
from mediatheca.kernel.aggregation import aggregate as fold
from mediatheca.kernel.ordering import read_field
from mediatheca.kernel.search import Hit
from mediatheca.stages import CollectionView, StageContext, stage
from mediatheca.stages._aggregation_params import (
    MAX_AGGREGATIONS,
    Aggregation,
    GroupKey,
    check_names,
    check_numbers,
    spelled_aggregations,
)
from mediatheca.stages._fields import require

MAX_GROUPS = 1000


class Params(BaseModel):
    aggregations: list[Aggregation] = Field([], max_length=MAX_AGGREGATIONS, description="What to compute.")
    group_by: list[GroupKey] = Field([], max_length=10, description="One row for each combination of these values.")
    sort_by: str | None = Field(None, description="The alias to sort the rows by; not given: as they were found.")
    sort_order: Literal["asc", "desc"] = "desc"
    limit: int = Field(MAX_GROUPS, ge=1, le=MAX_GROUPS, description="Rows at most.")
    include_documents: bool = Field(False, description="The documents go on to the next stage, too.")

    @model_validator(mode="after")
    def _names(self) -> Params:
        names = [*(key.name for key in self.group_by), *(entry.name for entry in self.aggregations)]
        check_names(names, "aggregations and group_by")
        if self.sort_by and names and self.sort_by not in names:
            raise ValueError(f"sort_by '{self.sort_by}' is none of the results: {', '.join(names)}")
        return self


def _prepare(raw: dict[str, Any], collections: Sequence[CollectionView]) -> dict[str, Any]:
    params = {**raw, "aggregations": spelled_aggregations(raw.get("aggregations"))}
    require(params, "aggregations", what="at least one {function, field, alias}")
    if params["aggregations"] == []:
        require({}, "aggregations", what="at least one {function, field, alias}")
    group = params.get("group_by")
    if group is not None:
        entries = group if isinstance(group, list) else [group]
        params["group_by"] = [{"field": entry} if isinstance(entry, str) else entry for entry in entries]
    return {key: value for key, value in params.items() if value is not None}


@stage(
    "aggregate",
    kind="reduce",
    params=Params,
    use_cases=("Count and sum what was found", "Make the figures of a dashboard"),
    icon="sigma",
    example={
        "aggregations": [
            {"function": "count", "alias": "documents"},
            {"function": "avg", "field": "price", "alias": "price"},
        ],
        "group_by": [{"field": "category"}],
        "sort_by": "documents",
    },
    prepare=_prepare,
)
async def aggregate(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Compute counts, sums, averages, percentiles and the like over the documents found so far, in groups or over all.

    The results are in `aggregations` of the answer; the documents are left out unless include_documents is set.
    Documents without the field are left out of a metric; a value that is no number is an error where numbers are due.
    """
    check_numbers(hits, params.aggregations)
    keys = [Key(key.field, key.name, key.date_trunc, key.date_part) for key in params.group_by]
    rows = fold(hits, read_field, keys, [entry.metric() for entry in params.aggregations])
    total = len(rows)
    if params.sort_by:
        rows = sort_rows(rows, params.sort_by, descending=params.sort_order == "desc")
    if total > params.limit and "limit" not in params.model_fields_set:
        ctx.limit("groups", total, params.limit)
    made = {"results": rows[: params.limit], "total_groups": total, "total_documents": len(hits)}
    ctx.side["aggregations"] = ctx.metadata["aggregations"] = made
    return hits if params.include_documents else []
