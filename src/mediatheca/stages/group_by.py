"""The `group_by` stage."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel, Field

from mediatheca.kernel.aggregation import Key, group_value
from mediatheca.kernel.hits import as_document, derived, value_key
from mediatheca.kernel.ordering import SortKey, read_field, sort_hits
from mediatheca.kernel.search import Hit
from mediatheca.stages import CollectionView, StageContext, stage
from mediatheca.stages._fields import FieldPath, rename

RANDOM = "_random"


class Params(BaseModel):
    group_by_field: FieldPath = Field("source_object_id", description="Documents with the same value are a group.")
    max_per_group: int = Field(10, ge=1, le=1000, description="Documents kept of each group.")
    max_groups: int = Field(100, ge=1, le=1000, description="Groups kept.")
    output_mode: Literal["first", "all", "flatten"] = Field(
        "all",
        description="first: the best document of each group; all: one document a group that lists its members in "
        "group_documents; flatten: the members one after the other.",
    )
    sort_groups_by: Literal["score", "count", "field"] = Field(
        "score", description="By the best member, the number of members, or the value."
    )
    sort_order: Literal["asc", "desc"] = Field("desc", description="Of the groups.")
    sort_docs_by: FieldPath = Field("score", description="Of the members: score, a field, or _random.")
    exclude_null: bool = Field(False, description="Leave out documents without the field.")
    date_trunc: Literal["year", "quarter", "month", "week", "day", "hour", "minute", "second"] | None = Field(
        None, description="Group dates by the window they lie in."
    )
    date_part: Literal["year", "month", "week", "day", "dayOfWeek", "dayOfYear", "hour", "minute", "second"] | None = (
        Field(None, description="Group dates by a part of them.")
    )


@dataclass(slots=True)
class _Group:
    value: Any
    members: list[Hit]

    @property
    def score(self) -> float:
        return max(hit.score for hit in self.members)


def _prepare(raw: dict[str, Any], collections: Sequence[CollectionView]) -> dict[str, Any]:
    params = dict(raw)
    rename(params, "group_by_field", "field", "group_by", "group_field")
    rename(params, "max_per_group", "docs_per_group", "group_size", "max_features")
    rename(params, "max_groups", "limit")
    return params


@stage(
    "group_by",
    kind="group",
    params=Params,
    use_cases=("Show the best chunks of each source object", "One result for each product or author"),
    icon="group",
    aliases=("group",),
    example={"group_by_field": "source_object_id", "max_per_group": 3},
    prepare=_prepare,
)
async def group_by(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Gather documents with the same value of a field, best groups first: chunks of one file, products of one brand.

    Documents without the field are one group, null, unless they are excluded. The groups are in `groups` of the answer.
    """
    groups = _order(_gather(hits, params), params)
    if len(groups) > params.max_groups:
        ctx.limit("groups", len(groups), params.max_groups)
    # reading the seed marks the result as one that must not be cached
    generator = random.Random(ctx.seed) if params.sort_docs_by == RANDOM else None
    made: list[Hit] = []
    listed: list[dict[str, Any]] = []
    size = 1 if params.output_mode == "first" else params.max_per_group
    for group in groups[: params.max_groups]:
        members = _sorted_members(group.members, params, generator)[:size]
        entry: dict[str, Any] = {"field": params.group_by_field, "key": group.value, "score": group.score}
        entry["count"] = len(group.members)
        if params.output_mode == "all":
            entry["documents"] = [as_document(hit) for hit in members]
            made.append(_row(members[0], entry))
        else:
            entry["document_ids"] = [hit.document_id for hit in members]
            made.extend(members)
        listed.append(entry)
    ctx.side["groups"] = listed
    ctx.metadata.update(field=params.group_by_field, total_groups=len(groups), total_documents=len(hits))
    return made


def _row(best: Hit, entry: dict[str, Any]) -> Hit:
    """The best member, with its group around it: what later stages see."""
    about = {"group_key": entry["key"], "group_count": entry["count"], "group_documents": entry["documents"]}
    return replace(derived(best, {**best.payload, **about}, members="group_documents"), score=entry["score"])


def _gather(hits: Sequence[Hit], params: Params) -> list[_Group]:
    key = Key(params.group_by_field, "key", params.date_trunc, params.date_part)
    groups: dict[bytes, _Group] = {}
    for hit in hits:
        value = group_value(read_field(hit, params.group_by_field), key)
        if value is None and params.exclude_null:
            continue
        groups.setdefault(value_key(value), _Group(value, [])).members.append(hit)
    return list(groups.values())


def _order(groups: list[_Group], params: Params) -> list[_Group]:
    """Groups of equal rank keep the order in which they were found."""
    descending = params.sort_order == "desc"
    if params.sort_groups_by == "count":
        return sorted(groups, key=lambda group: len(group.members), reverse=descending)
    if params.sort_groups_by == "score":
        return sorted(groups, key=lambda group: group.score, reverse=descending)
    rows = [Hit(str(place), "", 0.0, {"value": group.value}, {}) for place, group in enumerate(groups)]
    return [groups[int(row.document_id)] for row in sort_hits(rows, [SortKey("value", params.sort_order)])]


def _sorted_members(members: list[Hit], params: Params, generator: random.Random | None) -> list[Hit]:
    if generator is not None:
        return generator.sample(members, len(members))
    return sort_hits(members, [SortKey(params.sort_docs_by, "desc")])
