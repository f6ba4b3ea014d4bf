"""The `mmr` stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import AliasChoices, BaseModel, Field, model_validator

from mediatheca.kernel.diversity import Similar, by_blocks, by_values, by_vectors, weighted
from mediatheca.kernel.diversity import mmr as pick
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.fusion import min_max
from mediatheca.kernel.hits import number, rescore, write_field
from mediatheca.kernel.ordering import read_field
from mediatheca.kernel.search import Hit
from mediatheca.stages import CollectionView, StageContext, stage
from mediatheca.stages._fields import FieldPath, OutputField, rename
from mediatheca.stages._vectors import Space, known_feature, searched_feature, vector_spaces

MAX_CANDIDATES = 5000


class Feature(BaseModel):
    feature_uri: str = Field(min_length=1)
    weight: float = Field(1.0, ge=0, le=1, description="Relative weight of this feature.")


class Params(BaseModel):
    balance: float = Field(
        0.7,
        allow_inf_nan=False,
        validation_alias=AliasChoices("lambda", "lambda_", "lambda_param", "balance"),
        serialization_alias="lambda",
        description="1: relevance alone; 0: diversity alone.",
    )
    top_k: int = Field(25, ge=1, le=500, validation_alias=AliasChoices("top_k", "top_n"), description="How many stay.")
    diversity_feature_uri: str | None = Field(None, description="The vectors that say what is alike.")
    diversity_features: list[Feature] = Field([], max_length=10, description="Several features, weighted.")
    diversity_fields: list[FieldPath] = Field([], max_length=20, description="Fields whose equal values are alike.")
    diversity_field_weights: dict[str, float] = Field({}, description="Field → weight; 1 where not given.")
    score_field: FieldPath = Field("score", description="Where the relevance is read.")
    mmr_score_field: OutputField = Field("scores.mmr", description="Where the result is written, besides score.")
    similarity_metric: Literal["cosine", "dot", "euclidean"] = "cosine"

    @model_validator(mode="after")
    def _weights(self) -> Params:
        unknown = sorted(set(self.diversity_field_weights) - set(self.diversity_fields))
        if unknown:
            raise ValueError(f"diversity_field_weights names {', '.join(unknown)}, which diversity_fields does not")
        for name, weights in (
            ("diversity_features", [feature.weight for feature in self.diversity_features]),
            ("diversity_field_weights", self.field_weights()),
        ):
            if weights and (min(weights) < 0 or sum(weights) <= 0):
                raise ValueError(f"{name}: weights must not be negative, and one must be above 0")
        return self

    def field_weights(self) -> list[float]:
        return [self.diversity_field_weights.get(name, 1.0) for name in self.diversity_fields]


def _prepare(raw: dict[str, Any], collections: Sequence[CollectionView]) -> dict[str, Any]:
    params = dict(raw)
    rename(params, "diversity_feature_uri", "embedding_field", "feature_uri")
    if isinstance(params.get("diversity_feature_uri"), str):
        known_feature(params["diversity_feature_uri"], collections, "diversity_feature_uri")
    for place, feature in enumerate(params.get("diversity_features") or ()):
        if isinstance(feature, dict) and isinstance(feature.get("feature_uri"), str):
            known_feature(feature["feature_uri"], collections, f"diversity_features.{place}.feature_uri")
    return params


@stage(
    "mmr",
    kind="sort",
    params=Params,
    use_cases=("Show different results instead of near copies", "Vary what a page recommends"),
    icon="shuffle",
    writes=True,
    example={"lambda": 0.7, "top_k": 25},
    prepare=_prepare,
)
async def mmr(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Reorder for relevance and variety (maximal marginal relevance), and keep the first top_k.

    What is alike is told by the vectors of the last search, of another feature, of several weighted features, or by
    fields with equal values. The relevance is scaled to 0–1 first. A document without a vector is like nothing.
    """
    balance = min(1.0, max(0.0, params.balance))
    if balance != params.balance:
        ctx.warn(f"lambda {params.balance:g} lies outside of 0 to 1; {balance:g} was used")
    if not hits:
        return hits
    candidates = _by_relevance(hits, params, ctx)
    similar = await _similar([hit for hit, _ in candidates], params, ctx)
    relevance = [score for _, score in candidates]
    chosen = []
    for place, score in pick(relevance, similar, balance, params.top_k):
        hit = candidates[place][0]
        rescore(hit, "mmr", score)
        if params.mmr_score_field != "scores.mmr":
            write_field(hit, params.mmr_score_field, score)
        chosen.append(hit)
    ctx.metadata.update(candidates=len(candidates), **{"lambda": balance})
    return chosen


def _by_relevance(hits: list[Hit], params: Params, ctx: StageContext) -> list[tuple[Hit, float]]:
    """Candidates and their relevance from 0 to 1, the best first; without a number it is 0."""
    found = [number(read_field(hit, params.score_field)) for hit in hits]
    known = [value for value in found if value is not None]
    if len(known) < len(hits):
        ctx.warn(f"{len(hits) - len(known)} documents have no number in '{params.score_field}'; their relevance is 0")
    scaled = iter(min_max(known))
    rated = [(hit, 0.0 if value is None else next(scaled)) for hit, value in zip(hits, found, strict=True)]
    rated.sort(key=lambda entry: (-entry[1], entry[0].document_id, entry[0].collection_id))
    if len(rated) > MAX_CANDIDATES:
        ctx.limit("candidates", len(rated), MAX_CANDIDATES)
    return rated[:MAX_CANDIDATES]


async def _similar(hits: list[Hit], params: Params, ctx: StageContext) -> Similar:
    features = [(feature.weight, feature.feature_uri) for feature in params.diversity_features if feature.weight]
    if params.diversity_feature_uri:
        features = [(1.0, params.diversity_feature_uri)]
    if not features and params.diversity_fields:
        ctx.metadata["mode"] = "fields"
        columns = [[read_field(hit, name) for hit in hits] for name in params.diversity_fields]
        return by_values(columns, params.field_weights())
    if not features:
        searched = searched_feature(ctx)
        if searched is None:
            message = "is needed: no search ran before, and the collections have several features or none"
            raise ValidationError.at("diversity_feature_uri", message, "missing")
        features = [(1.0, searched)]
    ctx.metadata.update(mode="features", features=[uri for _, uri in features])
    parts = [(weight, await _by_feature(hits, uri, params, ctx)) for weight, uri in features]
    return weighted(parts)


async def _by_feature(hits: list[Hit], uri: str, params: Params, ctx: StageContext) -> Similar:
    spaces = await vector_spaces(hits, uri, ctx.collections, ctx)
    without = len(hits) - sum(len(space.rows) for space in spaces)
    if without:
        ctx.warn(f"{without} documents have no vector for '{uri}': they count as different from everything")
        ctx.metadata["without_vector"] = without
    blocks = [(np.asarray(space.rows), _within(space, params)) for space in spaces]
    if len(blocks) == 1 and not without:
        return blocks[0][1]
    return by_blocks(blocks, len(hits))


def _within(space: Space, params: Params) -> Similar:
    return by_vectors(space.matrix, params.similarity_metric, min(params.top_k, len(space.rows)))
