"""The `limit` stage."""

from __future__ import annotations

from pydantic import BaseModel, Field

from mediatheca.kernel.search import Hit
from mediatheca.stages import StageContext, stage


class Params(BaseModel):
    limit: int = Field(10, ge=1, le=10_000, description="Documents to keep.")
    offset: int = Field(0, ge=0, le=10_000, description="Documents to leave out at the beginning.")


@stage(
    "limit",
    kind="reduce",
    params=Params,
    use_cases=("Keep the best few", "Cut before an expensive stage"),
    icon="list-end",
    example={"limit": 10},
)
async def limit(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Keep the first documents, after leaving out `offset` of them."""
    return hits[params.offset : params.offset + params.limit]
