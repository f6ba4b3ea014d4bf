"""The `sort_attribute` stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, Field

from mediatheca.kernel.ordering import SortKey, sort_hits
from mediatheca.kernel.search import Hit
from mediatheca.stages import CollectionView, StageContext, stage


class Key(BaseModel):
    field: str = Field(min_length=1)
    direction: Literal["asc", "desc"] = Field("desc", validation_alias=AliasChoices("direction", "order"))


class Params(BaseModel):
    field: str = Field(
        "metadata.created_at",
        min_length=1,
        validation_alias=AliasChoices("field", "sort_field"),
        description="Dotted path of the field to sort by.",
    )
    direction: Literal["asc", "desc"] = Field("desc", validation_alias=AliasChoices("direction", "order"))
    nulls_last: bool = Field(True, description="Documents without the field come last; false: first for asc.")
    case_sensitive: bool = Field(True, description="false: texts are compared without regard to case.")
    sort: list[Key] = Field([], max_length=10, description="Several keys, the first one decides; replaces field.")


def _prepare(raw: dict[str, Any], collections: Sequence[CollectionView]) -> dict[str, Any]:
    """`null_handling: first|last` is an older spelling of `nulls_last`."""
    if raw.get("null_handling") in ("first", "last"):
        raw = {"nulls_last": raw["null_handling"] == "last", **raw}
        del raw["null_handling"]
    return raw


def _sort_keys(params: Params) -> list[SortKey]:
    keys = params.sort or [Key(field=params.field, direction=params.direction)]
    return [SortKey(key.field, key.direction, params.nulls_last, not params.case_sensitive) for key in keys]


@stage(
    "sort_attribute",
    kind="sort",
    params=Params,
    per_document=False,
    use_cases=("Show the newest or cheapest first", "Order by several fields"),
    icon="arrow-up-down",
    aliases=("sort_by_field",),
    example={"field": "price", "direction": "asc"},
    prepare=_prepare,
    sort_keys=_sort_keys,
)
async def sort_attribute(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Sort by a field: numbers by value, ISO dates by time, other texts by characters, mixed types as texts.

    The sort is stable, so of several of these stages the last one decides.
    """
    return sort_hits(hits, _sort_keys(params))
