"""The `retriever` stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import AliasChoices, BaseModel, Field

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.fusion import fuse
from mediatheca.kernel.hits import Identity, identity
from mediatheca.kernel.search import Hit
from mediatheca.stages import CollectionView, StageContext, stage
from mediatheca.stages._fields import given, rename
from mediatheca.stages._language import MAX_TIME_MS

_WHAT = "the id or name of a retriever"


class Params(BaseModel):
    retriever_id: str | None = Field(
        None, validation_alias=AliasChoices("retriever_id", "retriever_name", "retriever"), description=_WHAT
    )
    inputs: dict[str, Any] | None = Field(
        None,
        validation_alias=AliasChoices("inputs", "input_mappings", "retriever_inputs"),
        description="Its inputs; not given: those of this execution.",
    )
    merge: Literal["replace", "append", "rrf"] = Field(
        "replace",
        validation_alias=AliasChoices("merge", "merge_strategy"),
        description="Its documents instead of ours; ours, then its new ones; or both fused by rank.",
    )
    limit: int | None = Field(None, ge=1, le=1000, description="Documents taken from it.")
    version: int | None = Field(
        None,
        ge=1,
        validation_alias=AliasChoices("version", "retriever_version"),
        description="The version of it to run; not given: the current one.",
    )
    rrf_k: int = Field(60, ge=1, le=1000)
    weight: float = Field(0.5, ge=0, le=1, description="rrf: its share; ours is the rest.")
    degrade_retry: ClassVar[bool] = False


def _prepare(raw: dict[str, Any], collections: Sequence[CollectionView]) -> dict[str, Any]:
    params = {name: value for name, value in raw.items() if value is not None}
    rename(params, "retriever_id", "retriever_name", "retriever")
    if not isinstance(params.get("retriever_id"), str) or not params["retriever_id"]:
        raise ValidationError.at("retriever_id", f"is required: {_WHAT}", "missing")
    return params


@stage(
    "retriever",
    kind="apply",
    params=Params,
    per_document=False,
    use_cases=("Reuse one search inside another", "Fuse the rankings of several retrievers"),
    icon="git-merge",
    starts=True,
    aliases=("compose",),
    cost_tier="moderate",
    example={"retriever_id": "products by picture", "inputs": {"image": "{{INPUT.image}}"}, "merge": "rrf"},
    hard_timeout_ms=MAX_TIME_MS,
    prepare=_prepare,
)
async def retriever(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Run another retriever of the namespace, and take its documents, add them, or fuse both rankings.

    It runs as a part of this execution: same tenant, same filters, what is left of the budgets.
    Retrievers that call each other in a circle, or more than three deep, are refused.
    """
    name = given(params.retriever_id, "retriever_id", _WHAT)
    inputs = ctx.inputs if params.inputs is None else params.inputs
    found = await ctx.execute(
        name, dict(inputs), limit=params.limit or max(ctx.wanted, 25), filter=ctx.filter, version=params.version
    )
    ctx.metadata.update(retriever_id=name, found=len(found), **({"version": params.version} if params.version else {}))
    if params.merge == "replace" or not hits:
        return found
    if params.merge == "append":
        held = {identity(hit) for hit in hits}
        return [*hits, *(hit for hit in found if identity(hit) not in held)]
    return _fused(hits, found, params)


def _fused(ours: Sequence[Hit], theirs: Sequence[Hit], params: Params) -> list[Hit]:
    by_key: dict[Identity, Hit] = {}
    for hit in (*ours, *theirs):
        by_key.setdefault(identity(hit), hit)
    rankings = [[(identity(hit), hit.score) for hit in hits] for hits in (ours, theirs)]
    made = []
    for entry in fuse("rrf", rankings, [1 - params.weight, params.weight], k=params.rrf_k):
        hit = by_key[entry.key]
        hit.scores.setdefault("original_score", hit.score)
        hit.score = hit.scores["rrf"] = entry.score
        made.append(hit)
    return made
