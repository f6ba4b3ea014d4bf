"""The `score_threshold` stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, Field

from mediatheca.kernel.hits import number
from mediatheca.kernel.ordering import read_field
from mediatheca.kernel.search import Hit
from mediatheca.stages import CollectionView, StageContext, stage
from mediatheca.stages._fields import FieldPath, given, require

_WHAT = "the lowest score that passes"


class Params(BaseModel):
    min_score: float | None = Field(
        None,
        allow_inf_nan=False,
        validation_alias=AliasChoices("min_score", "threshold"),
        description="The lowest score that passes.",
    )
    score_field: FieldPath = Field("score", description="Where the score is read.")
    comparison: Literal["gte", "gt"] = "gte"
    missing_score: Literal["drop", "keep"] = Field("drop", description="What happens to documents without a number.")


def _prepare(raw: dict[str, Any], collections: Sequence[CollectionView]) -> dict[str, Any]:
    require(raw, "min_score", "threshold", what=_WHAT)
    return raw


@stage(
    "score_threshold",
    kind="filter",
    params=Params,
    use_cases=("Say that nothing fits instead of showing bad results", "Keep only confident matches"),
    icon="gauge",
    neutral=True,
    aliases=("score_filter",),
    example={"min_score": 0.5, "score_field": "scores.rerank"},
    prepare=_prepare,
)
async def score_threshold(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Drop the documents below an absolute score, in their order.

    Best on a calibrated score, such as that of a reranker: after rank fusion a score only says which place a document
    has, and after min–max normalisation the best document always has 1.
    """
    bar = given(params.min_score, "min_score", _WHAT)
    if params.score_field == "score" and any("rrf" in hit.scores and hit.score == hit.scores["rrf"] for hit in hits):
        ctx.warn(
            "the scores come from rrf fusion and tell ranks, not relevance: put the threshold into the searches "
            "(min_score), or behind a rerank stage"
        )
    kept: list[Hit] = []
    missing, top = 0, None
    for hit in hits:
        score = number(read_field(hit, params.score_field))
        if score is None:
            missing += 1
            if params.missing_score == "keep":
                kept.append(hit)
            continue
        top = score if top is None else max(top, score)
        if score > bar or (score == bar and params.comparison == "gte"):
            kept.append(hit)
    passed = top is not None and (top > bar or (top == bar and params.comparison == "gte"))
    ctx.metadata.update(
        min_score=bar,
        top_score=top,
        missing_score=missing,
        dropped=len(hits) - len(kept),
        all_below_threshold=bool(hits) and not passed,
    )
    return kept
