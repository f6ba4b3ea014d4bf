"""The `score_normalize` stage."""

from __future__ import annotations

from pydantic import BaseModel, Field, model_validator

from mediatheca.kernel.hits import number, write_field
from mediatheca.kernel.normalise_scores import Method, normalise
from mediatheca.kernel.ordering import read_field
from mediatheca.kernel.search import Hit
from mediatheca.stages import StageContext, stage
from mediatheca.stages._fields import OutputField


class Params(BaseModel):
    method: Method = "min_max"
    score_field: OutputField = Field("score", description="Where the score is read.")
    output_field: OutputField | None = Field(None, description="Where it is written; not given: it is overwritten.")
    min_value: float | None = Field(
        None, allow_inf_nan=False, description="min_max: the lowest score there can be, instead of the lowest found."
    )
    max_value: float | None = Field(
        None, allow_inf_nan=False, description="min_max: the highest score there can be, instead of the highest found."
    )

    @model_validator(mode="after")
    def _ends(self) -> Params:
        low, high = self.min_value, self.max_value
        if self.method != "min_max" and (low is not None or high is not None):
            raise ValueError("min_value and max_value are for method min_max")
        if low is not None and high is not None and low >= high:
            raise ValueError(f"min_value {low:g} must be less than max_value {high:g}")
        return self


@stage(
    "score_normalize",
    kind="sort",
    params=Params,
    use_cases=("Bring scores to one scale", "Prepare scores for a threshold or a boost"),
    icon="scale",
    writes=True,
    example={"method": "min_max", "output_field": "scores.normalized"},
)
async def score_normalize(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Bring the scores to a known scale: min_max to 0–1, z_score, softmax (shares of 1) or l2. The order is kept.

    Documents without a number get 0.
    """
    found: list[tuple[Hit, float]] = []
    for hit in hits:
        value = number(read_field(hit, params.score_field))
        if value is None:
            _write(hit, params, 0.0)
        else:
            found.append((hit, value))
    made = normalise(params.method, [value for _, value in found], params.min_value, params.max_value)
    for (hit, _), value in zip(found, made, strict=True):
        _write(hit, params, value)
    ctx.metadata.update(method=params.method, missing_score=len(hits) - len(found))
    return hits


def _write(hit: Hit, params: Params, value: float) -> None:
    target = params.output_field or params.score_field
    if target == "score":
        hit.scores.setdefault("original_score", hit.score)
    hit.scores["normalized"] = value
    write_field(hit, target, value)
