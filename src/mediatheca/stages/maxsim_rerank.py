"""The `maxsim_rerank` stage."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from mediatheca.kernel.documents import Vector, VectorIndex
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.filters import parse_filter
from mediatheca.kernel.hits import identity, rescore
from mediatheca.kernel.ordering import read_field
from mediatheca.kernel.search import Hit, VectorQuery
from mediatheca.stages import CollectionView, StageContext, stage
from mediatheca.stages._fields import rename, require
from mediatheca.stages._search_arms import given_vector
from mediatheca.stages._search_spellings import find_index
from mediatheca.stages._vectors import known_feature

AT_ONCE = 500
"""Documents asked for in one query."""
MAX_DERIVED = 5000


class Params(BaseModel):
    feature_uri: str = Field(min_length=1, description="A multi-vector index: one vector per token or region.")
    query: str | list[list[float]] | None = Field(
        None,
        description="A text, for indexes whose model takes one, or the query's vectors; by default the input `query`.",
    )
    top_n: int | None = Field(None, ge=1, le=1000, description="Only the first so many are scored; the rest follow.")
    match_on: Literal["document_id", "root_object_id"] = Field(
        "document_id",
        description="root_object_id: the vectors may be those of another collection over the same objects.",
    )
    missing: Literal["bottom", "drop"] = Field("bottom", description="What becomes of documents without such vectors.")


def prepare(raw: dict[str, Any], collections: Sequence[CollectionView]) -> dict[str, Any]:
    """Older spellings, and what can be checked before the first execution.

    Raises:
        ValidationError: no collection has the feature, or it has one vector a document.
    """
    params = dict(raw)
    rename(params, "top_n", "top_k", "limit")
    params.setdefault("query", "{{INPUT.query}}")
    require(params, "feature_uri", what="the multi-vector index to score with")
    uri = params["feature_uri"]
    if isinstance(uri, str):
        known_feature(uri, collections, "feature_uri")
        found = [index for view in collections if (index := find_index(view, uri)) is not None]
        if found and not any(index.multi for index in found):
            message = f"'{uri}' has one vector a document; maxsim_rerank needs a multi-vector index"
            raise ValidationError.at("feature_uri", message, "modality")
    return params


@stage(
    "maxsim_rerank",
    kind="sort",
    params=Params,
    per_document=False,
    use_cases=("Rank by the best match of every query token", "Refine candidates with multi-vector models"),
    icon="grid-3x3",
    aliases=("late_interaction_rerank", "colbert_rerank"),
    cost_tier="moderate",
    example={"feature_uri": "mixpeek://document_extractor@v1/colpali_v1", "query": "{{INPUT.query}}", "top_n": 100},
    prepare=prepare,
)
async def maxsim_rerank(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Sort by MaxSim over stored multi-vectors: for each vector of the query its best match in the document, added up.

    The number is written to `scores.maxsim`. Only the vectors of these documents are read.
    """
    if not params.query:
        ctx.warn("the query is empty: documents stay in their order")
        return hits
    candidates, rest = (hits, []) if params.top_n is None else (hits[: params.top_n], hits[params.top_n :])
    keys = [_key(hit, params.match_on) for hit in candidates]
    best: dict[str, float] = {}
    for view, index in _indexes(params.feature_uri, ctx):
        wanted = keys if params.match_on == "root_object_id" else _of(view, candidates)
        vector = await _vector(params.query, index, ctx)
        for key, score in (await _scores(view, index, vector, wanted, params, ctx)).items():
            best[key] = max(score, best.get(key, score))
    scored, without = [], []
    for hit, key in zip(candidates, keys, strict=True):
        if key and key in best:
            rescore(hit, "maxsim", best[key])
            scored.append(hit)
        else:
            without.append(hit)
    scored.sort(key=lambda hit: -hit.score)
    ctx.metadata |= {"scored": len(scored), "missing": len(without)}
    if without:
        what = "were dropped" if params.missing == "drop" else "follow at the end of those scored"
        ctx.warn(f"{len(without)} documents have no vectors of '{params.feature_uri}'; they {what}")
    below = [*(without if params.missing == "bottom" else ()), *rest]
    floor = scored[-1].score if scored else 0.0
    for place, hit in enumerate(below, start=1):
        hit.scores.setdefault("original_score", hit.score)
        hit.score = floor - 1e-6 * place
    return [*scored, *below]


def _key(hit: Hit, match_on: str) -> str:
    return "/".join(identity(hit)) if match_on == "document_id" else str(read_field(hit, "root_object_id") or "")


def _of(view: CollectionView, hits: Sequence[Hit]) -> list[str]:
    return [identity(hit)[1] for hit in hits if identity(hit)[0] == view.collection_id]


def _indexes(uri: str, ctx: StageContext) -> list[tuple[CollectionView, VectorIndex]]:
    found = [(view, index) for view in ctx.collections if (index := find_index(view, uri)) is not None and index.multi]
    if not found:
        names = ", ".join(view.name for view in ctx.collections) or "none"
        raise ValidationError.at("feature_uri", f"no collection has the multi-vector '{uri}' (looked in: {names})")
    return found


async def _vector(query: str | list[list[float]], index: VectorIndex, ctx: StageContext) -> Vector:
    if not isinstance(query, str):
        return given_vector(query, index)
    vector = await ctx.embed(index, text=query)
    return vector.reshape(1, -1) if vector.ndim == 1 else vector


async def _scores(
    view: CollectionView,
    index: VectorIndex,
    vector: Vector,
    wanted: Sequence[str],
    params: Params,
    ctx: StageContext,
) -> dict[str, float]:
    """MaxSim of the wanted documents, by key; of several documents of one object the best."""
    field = "document_id" if params.match_on == "document_id" else "_internal.root_object_id"
    different = [key for key in dict.fromkeys(wanted) if key]
    found: dict[str, float] = defaultdict(lambda: -float("inf"))
    for start in range(0, len(different), AT_ONCE):
        part = different[start : start + AT_ONCE]
        among = parse_filter({"field": field, "operator": "in", "value": part, "case_sensitive": True})
        many = len(part)
        if params.match_on == "root_object_id":
            derived = await ctx.count(view.collection_id, among)
            many = min(derived, MAX_DERIVED)
            if derived > many:
                ctx.limit("derived_documents", derived, many)
        query = VectorQuery(index.name, vector, max(many, 1), among, exact=True)
        for hit in await ctx.search(view.collection_id, query):
            key = _key(hit, params.match_on)
            found[key] = max(found[key], hit.score)
    return dict(found)
