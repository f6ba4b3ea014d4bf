"""One ranking out of the searches of a `feature_search`."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from mediatheca.kernel.fusion import Fused, Strategy, fuse, min_max
from mediatheca.kernel.search import FINDINGS, Hit
from mediatheca.stages import StageContext
from mediatheca.stages._search_arms import Arm
from mediatheca.stages._search_params import Params


def single(arm: Arm) -> list[Hit]:
    """One search: its raw similarity is the score."""
    for hit in arm.hits:
        hit.scores["feature_search"] = hit.score
        hit.scores["per_feature"] = {arm.label: hit.score}
    return arm.hits


async def fused(arms: Sequence[Arm], params: Params, final: int | None, ctx: StageContext) -> list[Hit]:
    """The documents of several searches, best first; each says what every search gave it."""
    by_key: dict[tuple[str, str], Hit] = {}
    for arm in arms:
        for hit in arm.hits:
            held = by_key.setdefault((hit.document_id, hit.collection_id), hit)
            for name in ("lexical", *FINDINGS):
                if name in hit.scores:
                    held.scores.setdefault(name, hit.scores[name])
    strategy, rankings, weights = await _plan(arms, params, ctx)
    entries = fuse(strategy, rankings, weights, k=params.rrf_k, limit=final)
    ctx.metadata["fusion"] = params.fusion
    return await _read([_scored(by_key[entry.key], entry, arms, params.fusion) for entry in entries], ctx)


async def _read(hits: list[Hit], ctx: StageContext) -> list[Hit]:
    """The hits, those of bare searches with their documents; without those that were deleted meanwhile."""
    bare: dict[str, list[str]] = {}
    for hit in hits:
        if not hit.system:
            bare.setdefault(hit.collection_id, []).append(hit.document_id)
    if not bare:
        return hits
    found = {
        (document.document_id, collection_id): document
        for collection_id, ids in bare.items()
        for document in await ctx.documents(collection_id, ids)
    }
    for hit in hits:
        document = None if hit.system else found.get((hit.document_id, hit.collection_id))
        if document is not None:
            hit.payload, hit.system = document.payload, document.system
    return [hit for hit in hits if hit.system]


def _scored(hit: Hit, entry: Fused[tuple[str, str]], arms: Sequence[Arm], name: str) -> Hit:
    features = {
        arms[n].label: {"score": score, "rank": entry.ranks[n], "contribution": entry.contributions[n]}
        for n, score in entry.raw.items()
    }
    hit.score = entry.score
    hit.scores.update(feature_search=entry.score, per_feature={k: v["score"] for k, v in features.items()})
    hit.scores[name] = entry.score
    hit.scores["features"] = features
    return hit


async def _plan(arms: Sequence[Arm], params: Params, ctx: StageContext) -> tuple[Strategy, list[Any], list[float]]:
    """Strategy, rankings and weights."""
    rankings: list[list[tuple[Hashable, float]]] = [
        [((hit.document_id, hit.collection_id), hit.score) for hit in arm.hits] for arm in arms
    ]
    weights = [arm.search.weight for arm in arms]
    if params.fusion == "learned":
        return await _learned(arms, rankings, weights, ctx)
    strategy: Strategy = "minmax" if params.fusion == "dbsf" and params.normalization == "minmax" else params.fusion
    if strategy in ("weighted", "max") and any(arm.search.lexical for arm in arms):
        ctx.warn(f"{strategy} fusion with a lexical search: scores have different scales and were scaled by min–max")
        if strategy == "weighted":
            return "minmax", rankings, weights
        rankings = [_rescaled(ranking) for ranking in rankings]
    return strategy, rankings, weights


def _rescaled(ranking: Sequence[tuple[Hashable, float]]) -> list[tuple[Hashable, float]]:
    values = min_max([score for _, score in ranking])
    return [(key, value) for (key, _), value in zip(ranking, values, strict=True)]


async def _learned(
    arms: Sequence[Arm], rankings: list[Any], weights: list[float], ctx: StageContext
) -> tuple[Strategy, list[Any], list[float]]:
    """What was learned, on scores scaled by min–max; ranks as long as nothing was."""
    names = list(dict.fromkeys(name for arm in arms for name in (arm.label, arm.search.feature_uri)))
    learned = await ctx.fusion_weights(names)
    if not learned:
        ctx.warn("nothing has been learned for these searches yet: they were fused by rank (rrf)")
        ctx.metadata["fusion_used"] = "rrf"
        return "rrf", rankings, weights
    used = [learned.get(arm.label, learned.get(arm.search.feature_uri)) for arm in arms]
    known = [weight for weight in used if weight is not None]
    middle = sum(known) / len(known) if known else 1.0
    final = [middle if weight is None else weight for weight in used]
    ctx.metadata["fusion_used"] = "learned"
    ctx.metadata["weights"] = {arm.label: weight for arm, weight in zip(arms, final, strict=True)}
    return "minmax", rankings, [own * weight for own, weight in zip(weights, final, strict=True)]
