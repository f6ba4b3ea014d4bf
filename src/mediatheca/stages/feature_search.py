"""The `feature_search` stage."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from mediatheca.kernel.documents import Vector, VectorIndex
from mediatheca.kernel.errors import NotFoundError, ValidationError
from mediatheca.kernel.filters import Filter, all_of
from mediatheca.kernel.fusion import Strategy, fuse, min_max
from mediatheca.kernel.ordering import read_field
from mediatheca.kernel.search import Hit, TextQuery, VectorQuery
from mediatheca.stages import CollectionView, StageContext, stage
from mediatheca.stages._search_params import Facet, GroupBy, Params, Search
from mediatheca.stages._search_spellings import find_index, prepare

MAX_CANDIDATES = 5000
T = TypeVar("T")


@dataclass(slots=True)
class _Arm:
    """One search that ran: its name in `scores.per_feature`, and its hits, best first."""

    search: Search
    label: str
    hits: list[Hit]


@stage(
    "feature_search",
    kind="filter",
    params=Params,
    icon="search",
    starts=True,
    aliases=(
        *("semantic_search", "knn_search", "hybrid_search", "late_interaction_search"),
        *("vector_search", "feature_filter"),
    ),
    cost_tier="moderate",
    example={
        "searches": [
            {
                "feature_uri": "mixpeek://text_extractor@v1/multilingual_e5_large_instruct_v1",
                "query": {"input_mode": "text", "value": "{{INPUT.query}}"},
                "top_k": 100,
            }
        ],
        "final_top_k": 25,
    },
    hard_timeout_ms=5000,
    prepare=prepare,
)
async def feature_search(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Find the documents nearest to a text, a picture, a vector or another document, in one or more vector indexes.

    Several searches are fused (rrf, dbsf, weighted, max). Without searches it lists the documents that pass the filter.
    What earlier stages found is replaced.
    """
    final = params.final_top_k if "final_top_k" in params.model_fields_set else max(params.final_top_k, ctx.wanted)
    if not params.searches:
        found = await _list(params, ctx, final)
    elif params.group_by is not None:
        found = await _grouped(params, params.group_by, ctx)
    else:
        found = (await _collect(params, ctx, final))[:final]
    if params.facets:
        ctx.side["facets"] = ctx.metadata["facets"] = [
            await _facet(facet, params, ctx, found) for facet in params.facets
        ]
    return found


async def _list(params: Params, ctx: StageContext, final: int) -> list[Hit]:
    """No searches: matching documents in the order of the index, without scores."""
    if ctx.filter is None:
        raise ValidationError.at("searches", "is empty; give a search, or filters to list documents by", "missing")
    found: list[Hit] = []
    for view in _views(params.collection_identifiers, ctx):
        found.extend(await ctx.scroll(view.collection_id, ctx.filter, final - len(found)))
        if len(found) >= final:
            break
    return found


async def _collect(params: Params, ctx: StageContext, final: int | None, factor: int = 1) -> list[Hit]:
    """Run the searches and fuse them: `final` documents are needed, None for all. `factor` deepens every search."""
    widest = max(search.top_k for search in params.searches)
    if final is not None and final > widest:
        ctx.warn(f"final_top_k {final} is more than top_k {widest}; a search gives at most top_k documents")
    # A search that is not fused need not look deeper than what is kept.
    ceiling = final if final is not None and len(params.searches) == 1 else MAX_CANDIDATES
    depths = [min(search.top_k * factor, ceiling) for search in params.searches]
    runs = [_run(search, depth, params, ctx) for search, depth in zip(params.searches, depths, strict=True)]
    arms = [arm for arm in await _together(runs) if arm is not None]
    if not arms:
        raise ValidationError.at("searches", "every search was skipped: none has a query and an index", "empty")
    ctx.side["tracked_feature_uris"] = list(dict.fromkeys(arm.search.feature_uri for arm in arms))
    return _single(arms[0]) if len(arms) == 1 else _fused(arms, params, final, ctx)


async def _together(runs: Sequence[Awaitable[T]]) -> list[T]:
    """One is awaited in place: a task costs more than a search of a small index."""
    return [await runs[0]] if len(runs) == 1 else list(await asyncio.gather(*runs))


def _single(arm: _Arm) -> list[Hit]:
    for hit in arm.hits:
        hit.scores["feature_search"] = hit.score
        hit.scores["per_feature"] = {arm.label: hit.score}
    return arm.hits


def _fused(arms: Sequence[_Arm], params: Params, final: int | None, ctx: StageContext) -> list[Hit]:
    by_key: dict[tuple[str, str], Hit] = {}
    for arm in arms:
        for hit in arm.hits:
            by_key.setdefault((hit.document_id, hit.collection_id), hit)
    rankings = [[((hit.document_id, hit.collection_id), hit.score) for hit in arm.hits] for arm in arms]
    lexical = frozenset(number for number, arm in enumerate(arms) if arm.search.lexical)
    strategy: Strategy = "minmax" if params.fusion == "dbsf" and params.normalization == "minmax" else params.fusion
    if strategy in ("weighted", "max") and lexical:
        ctx.warn(f"{strategy} fusion with a lexical search: scores have different scales and were scaled by min–max")
        strategy, rankings = _rescale(strategy, rankings)
    fused = fuse(strategy, rankings, [arm.search.weight for arm in arms], k=params.rrf_k)
    ctx.metadata["fusion"] = params.fusion
    found = []
    for entry in fused[:final]:
        hit = by_key[entry.key]
        hit.score = entry.score
        features = {
            arms[n].label: {"score": raw, "rank": entry.ranks[n], "contribution": entry.contributions[n]}
            for n, raw in entry.raw.items()
        }
        hit.scores.update(feature_search=entry.score, per_feature={k: v["score"] for k, v in features.items()})
        hit.scores[params.fusion] = entry.score
        hit.scores["features"] = features
        found.append(hit)
    return found


def _rescale(strategy: Strategy, rankings: list[Any]) -> tuple[Strategy, list[Any]]:
    """BM25 has no upper bound: every ranking is scaled before raw scores meet."""
    if strategy == "weighted":
        return "minmax", rankings
    scaled = [min_max([score for _, score in ranking]) for ranking in rankings]
    return strategy, [
        [(key, value) for (key, _), value in zip(ranking, values, strict=True)]
        for ranking, values in zip(rankings, scaled, strict=True)
    ]


def _views(names: Sequence[str] | None, ctx: StageContext) -> Sequence[CollectionView]:
    return ctx.resolve(names) if names else ctx.collections


async def _run(search: Search, depth: int, params: Params, ctx: StageContext) -> _Arm | None:
    """One search over its collections; None when it is skipped."""
    views = _views(search.collection_identifiers or params.collection_identifiers, ctx)
    targets = [(view, find_index(view, search.feature_uri)) for view in views]
    if search.feature_uri:
        targets = [target for target in targets if target[1] is not None]
    if not targets:
        _skip_without_index(search, views, ctx)
        return None
    if _is_empty(search):
        return await _on_empty(search, views, depth, ctx)
    keep = all_of(ctx.filter, search.filters)
    if search.lexical:
        found = await _lexical(search, [view for view, _ in targets], depth, keep, ctx)
    else:
        found = await _nearest(search, [(v, i) for v, i in targets if i is not None], depth, keep, ctx)
    if not found and search.optional and not sum([await ctx.count(v.collection_id, None) for v, _ in targets]):
        ctx.warn(f"the optional search on '{search.feature_uri}' was skipped: the index is empty")
        return None
    return _Arm(search, f"{search.feature_uri}#lexical" if search.lexical else search.feature_uri, found)


def _skip_without_index(search: Search, views: Sequence[CollectionView], ctx: StageContext) -> None:
    names = ", ".join(view.name for view in views) or "none"
    if not search.optional:
        message = f"no collection has '{search.feature_uri}' (searched: {names})"
        raise ValidationError.at("searches.feature_uri", message, "unknown")
    ctx.warn(f"the optional search on '{search.feature_uri}' was skipped: no collection has it")


def _is_empty(search: Search) -> bool:
    query = search.query
    if query.input_mode == "document":
        ref = query.document_ref
        return ref is None or not ref.collection_id or not ref.document_id
    value = query.value
    return value is None or value == [] or (isinstance(value, str) and not value.strip())


async def _on_empty(search: Search, views: Sequence[CollectionView], depth: int, ctx: StageContext) -> _Arm | None:
    if search.on_empty == "error":
        message = f"the {search.query.input_mode} query for '{search.feature_uri}' is empty"
        raise ValidationError.at("searches.query", f"{message}; give a value, or set on_empty to skip", "empty")
    if search.on_empty == "skip":
        ctx.warn(f"the search on '{search.feature_uri}' was skipped: its query is empty")
        return None
    found: list[Hit] = []
    for view in views:
        found.extend(await ctx.scroll(view.collection_id, ctx.filter, 1000))
    ctx.warn(f"the query for '{search.feature_uri}' is empty: documents were picked at random")
    return _Arm(search, search.feature_uri, random.sample(found, min(depth, len(found))))


async def _lexical(
    search: Search, views: Sequence[CollectionView], depth: int, keep: Filter | None, ctx: StageContext
) -> list[Hit]:
    if not isinstance(search.query.value, str):
        raise ValidationError.at("searches.query.value", "a lexical search needs a text", "string_type")
    query = TextQuery(search.query.value, depth, tuple(search.lexical_fields), keep)
    pages = await _together([ctx.search(view.collection_id, query) for view in views])
    if search.min_score is not None:
        pages = [[hit for hit in page if hit.score >= search.min_score] for page in pages]
    return _merge_by_rank(pages)[:depth] if len(pages) > 1 else pages[0]


async def _nearest(
    search: Search,
    targets: Sequence[tuple[CollectionView, VectorIndex]],
    depth: int,
    keep: Filter | None,
    ctx: StageContext,
) -> list[Hit]:
    queries = []
    for view, index in targets:  # one after the other: the second index of a model finds the vector in the cache
        vector, exclude = await _query_vector(search, index, ctx)
        queries.append((view, VectorQuery(index.name, vector, depth, keep, search.min_score, exclude=exclude)))
    pages = await _together([ctx.search(view.collection_id, query) for view, query in queries])
    spaces = {(index.weights, index.model, index.metric) for _, index in targets}
    if len(spaces) > 1:
        ctx.warn(f"'{search.feature_uri}' has vectors of different models or metrics; results were merged by rank")
        return _merge_by_rank(pages)[:depth]
    merged = [hit for page in pages for hit in page]
    merged.sort(key=_by_score)
    return merged[:depth]


def _by_score(hit: Hit) -> tuple[float, str, str]:
    return (-hit.score, hit.document_id, hit.collection_id)


def _merge_by_rank(pages: Sequence[list[Hit]]) -> list[Hit]:
    """Scores of different indexes do not compare: reciprocal rank takes their place."""
    merged: list[Hit] = []
    for page in pages:
        for rank, hit in enumerate(page, start=1):
            hit.scores["raw"] = hit.score
            hit.score = 1.0 / (60 + rank)
            merged.append(hit)
    merged.sort(key=lambda hit: (-hit.score, -hit.scores["raw"], hit.document_id, hit.collection_id))
    return merged


async def _query_vector(search: Search, index: VectorIndex, ctx: StageContext) -> tuple[Vector, tuple[str, ...]]:
    query = search.query
    if query.input_mode == "vector":
        return _given_vector(query.value, index), ()
    if query.input_mode == "document":
        return await _stored_vector(search, index, ctx)
    if not isinstance(query.value, str):
        raise ValidationError.at("searches.query.value", f"must be a text, got {type(query.value).__name__}")
    if query.input_mode == "content":
        return await ctx.embed(index, content=query.value), ()
    if query.embedding_task == "none":
        ctx.warn("embedding_task 'none' is not known here; the text was embedded as a query")
    return await ctx.embed(index, text=query.value, query=query.embedding_task != "retrieval_document"), ()


def _given_vector(value: Any, index: VectorIndex) -> Vector:
    place = "searches.query.value"
    try:
        vector = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValidationError.at(place, f"must be a list of numbers: {error}", "vector") from error
    if vector.shape[-1:] != (index.dimensions,) or vector.ndim != (2 if index.multi else 1):
        wanted = f"a list of vectors of {index.dimensions}" if index.multi else f"{index.dimensions}"
        shape = " × ".join(map(str, vector.shape)) or "no"
        raise ValidationError.at(place, f"'{index.name}' takes {wanted} numbers, got {shape}", "vector_dimensions")
    if not np.isfinite(vector).all():
        raise ValidationError.at(place, "every number must be finite", "vector")
    return vector


async def _stored_vector(search: Search, index: VectorIndex, ctx: StageContext) -> tuple[Vector, tuple[str, ...]]:
    ref = search.query.document_ref
    if ref is None or not ref.collection_id or not ref.document_id:
        raise ValidationError.at("searches.query.document_ref", "needs collection_id and document_id", "missing")
    view = ctx.resolve([ref.collection_id])[0]
    source = find_index(view, search.feature_uri)
    name = source.name if source else index.name
    found = await ctx.documents(view.collection_id, [ref.document_id], [name])
    if not found:
        raise NotFoundError("document", ref.document_id)
    vector = found[0].vectors.get(name)
    if vector is None:
        message = f"document '{ref.document_id}' has no vector '{name}'"
        raise ValidationError.at("searches.query.document_ref", message, "missing")
    return vector, () if search.query.include_self else (ref.document_id,)


async def _grouped(params: Params, group: GroupBy, ctx: StageContext) -> list[Hit]:
    """Fuse first, group afterwards; search deeper until there are enough groups or the candidates end."""
    factor, seen = 1, -1
    while True:
        found = await _collect(params, ctx, None, factor)
        groups = _groups(found, group)
        deepest = max(search.top_k for search in params.searches) * factor
        if len(groups) >= group.limit or len(found) == seen or deepest >= MAX_CANDIDATES:
            break
        seen, factor = len(found), factor * 2
    kept = [(key, members) for key, members in groups.items()][: group.limit]
    size = 1 if group.output_mode == "first" else group.max_per_group
    ctx.side["groups"] = [
        {
            "field": group.field,
            "key": members[0][0],
            "score": members[0][1].score,
            "count": len(members),
            "document_ids": [hit.document_id for _, hit in members[:size]],
        }
        for _, members in kept
    ]
    return [hit for _, members in kept for _, hit in members[:size]]


def _groups(hits: Sequence[Hit], group: GroupBy) -> dict[str, list[tuple[Any, Hit]]]:
    """Groups in the order of their best member. Documents without the field share the group null."""
    groups: dict[str, list[tuple[Any, Hit]]] = {}
    for hit in hits:
        value = read_field(hit, group.field)
        if value is None and group.exclude_null:
            continue
        groups.setdefault(repr(value), []).append((value, hit))
    return groups


async def _facet(facet: Facet, params: Params, ctx: StageContext, found: Sequence[Hit]) -> dict[str, Any]:
    """Counts over everything that passes the filters, or over what was found."""
    counts: Counter[Any] = Counter()
    if facet.scope == "candidates":
        for hit in found:
            value = read_field(hit, facet.key)
            counts.update(v for v in (value if isinstance(value, list) else [value]) if v is not None and _hashable(v))
    else:
        depth = facet.limit if len(ctx.collections) == 1 else 1000
        for view in _views(params.collection_identifiers, ctx):
            counts.update(dict(await ctx.facet(view.collection_id, facet.key, depth, ctx.filter)))
    ranked = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))[: facet.limit]
    return {"key": facet.key, "values": [{"value": value, "count": count} for value, count in ranked]}


def _hashable(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool))
