"""The `sort_relevance` stage."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import AliasChoices, BaseModel, Field

from mediatheca.kernel.fusion import min_max
from mediatheca.kernel.ordering import read_field
from mediatheca.kernel.search import Hit
from mediatheca.stages import StageContext, stage


class Params(BaseModel):
    score_field: str = Field("score", min_length=1, description="Where the score is read.")
    direction: Literal["asc", "desc"] = Field("desc", validation_alias=AliasChoices("direction", "order"))
    missing_score: Literal["bottom", "top", "preserve"] = Field(
        "bottom", description="Where documents without a number go; preserve: they keep their place."
    )
    normalize: bool = Field(False, description="Scale the scores to 0–1 (min–max).")


@stage(
    "sort_relevance",
    kind="sort",
    params=Params,
    icon="arrow-down-wide-narrow",
    example={"score_field": "score", "direction": "desc"},
)
async def sort_relevance(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Sort by a score. Equal scores keep their order; documents without a number go where `missing_score` says."""
    values = [read_field(hit, params.score_field) for hit in hits]
    places = [place for place, value in enumerate(values) if _is_number(value)]
    ranked = sorted(places, key=lambda place: values[place], reverse=params.direction == "desc")
    if params.normalize:
        for place, value in zip(places, min_max([values[place] for place in places]), strict=True):
            hits[place].scores["normalized"] = hits[place].score = value
    if params.missing_score == "preserve":
        result = list(hits)
        for target, source in zip(places, ranked, strict=True):
            result[target] = hits[source]
        return result
    scored = [hits[place] for place in ranked]
    missing = [hit for hit, value in zip(hits, values, strict=True) if not _is_number(value)]
    return [*missing, *scored] if params.missing_score == "top" else [*scored, *missing]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
