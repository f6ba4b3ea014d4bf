"""The `sort_relevance` stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, Field

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.fusion import min_max
from mediatheca.kernel.hits import number
from mediatheca.kernel.ordering import read_field
from mediatheca.kernel.search import Hit
from mediatheca.stages import CollectionView, StageContext, stage


class Params(BaseModel):
    score_field: str = Field("score", min_length=1, description="Where the score is read.")
    direction: Literal["asc", "desc"] = Field("desc", validation_alias=AliasChoices("direction", "order"))
    missing_score: Literal["bottom", "top", "preserve"] = Field(
        "bottom", description="Where documents without a number go; preserve: they keep their place."
    )
    normalize: bool = Field(False, description="Scale the scores to 0–1 (min–max).")


def _prepare(raw: dict[str, Any], collections: Sequence[CollectionView]) -> dict[str, Any]:
    if raw.get("feature_address") is not None:
        message = "is no longer accepted: this stage sorts by score_field; put a feature_search stage before it"
        raise ValidationError.at("feature_address", message, "extra_forbidden")
    return {key: value for key, value in raw.items() if key != "feature_address"}


@stage(
    "sort_relevance",
    kind="sort",
    params=Params,
    per_document=False,
    use_cases=("Bring results back into the order of a score", "Order by a score that another stage wrote"),
    icon="arrow-down-wide-narrow",
    example={"score_field": "score", "direction": "desc"},
    prepare=_prepare,
)
async def sort_relevance(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Sort by a score. Equal scores keep their order; documents without a number go where `missing_score` says."""
    values = [number(read_field(hit, params.score_field)) for hit in hits]
    scores = {place: value for place, value in enumerate(values) if value is not None}
    places, ranked = list(scores), sorted(scores, key=scores.__getitem__, reverse=params.direction == "desc")
    if params.normalize:
        for place, value in zip(places, min_max(list(scores.values())), strict=True):
            hits[place].scores["normalized"] = hits[place].score = value
    if params.missing_score == "preserve":
        result = list(hits)
        for target, source in zip(places, ranked, strict=True):
            result[target] = hits[source]
        return result
    scored = [hits[place] for place in ranked]
    missing = [hit for hit, value in zip(hits, values, strict=True) if value is None]
    return [*missing, *scored] if params.missing_score == "top" else [*scored, *missing]
