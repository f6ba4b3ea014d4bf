"""The `feature_search` stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.filters import all_of
from mediatheca.kernel.ordering import read_field
from mediatheca.kernel.search import Hit
from mediatheca.stages import Need, StageContext, stage
from mediatheca.stages._search_all import run_all
from mediatheca.stages._search_arms import views_of
from mediatheca.stages._search_facets import facets
from mediatheca.stages._search_fusion import fused, single
from mediatheca.stages._search_highlights import highlight
from mediatheca.stages._search_language import spoken_filter
from mediatheca.stages._search_params import GroupBy, Params
from mediatheca.stages._search_spellings import prepare

MAX_CANDIDATES = 5000


def _ranks(raw: Mapping[str, Any]) -> bool:
    return (raw.get("fusion") or "rrf") == "rrf" and len(raw["searches"]) > 1


@stage(
    "feature_search",
    kind="filter",
    params=Params,
    per_document=False,
    use_cases=(
        "Find documents by meaning, by words, or by both",
        "Find what looks or sounds like an example",
        "List documents that pass a filter",
    ),
    icon="search",
    starts=True,
    aliases=(
        *("semantic_search", "knn_search", "hybrid_search", "late_interaction_search"),
        *("vector_search", "feature_filter"),
    ),
    cost_tier="moderate",
    needs=(Need("language", given="natural_language"),),
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
    searches=True,
    rank_scores=_ranks,
)
async def feature_search(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Find the documents nearest to a text, a picture, a vector or another document, in one or more vector indexes.

    Several searches, by meaning or by words (`lexical`), are fused (rrf, dbsf, weighted, max, learned); one that fails
    leaves the others standing. Without searches it lists the documents that pass the filter. What earlier stages found
    is replaced.
    """
    final = params.final_top_k if "final_top_k" in params.model_fields_set else max(params.final_top_k, ctx.wanted)
    ctx.metadata["attempts"] = ctx.metadata.get("attempts", 0) + 1  # the engine tries a search that is late once more
    ctx.filter = all_of(ctx.filter, params.filters, await spoken_filter(params.natural_language, ctx))
    if not params.searches:
        found = await _list(params, ctx, final)
    elif params.group_by is not None:
        found = await _grouped(params, params.group_by, ctx)
    else:
        found = await _collect(params, ctx, final)
        ctx.ranked(found)
        found = found[:final]
    if params.facets:
        ctx.side["facets"] = ctx.metadata["facets"] = await facets(params, found, ctx)
    await highlight(found, params, ctx)
    return found


async def _list(params: Params, ctx: StageContext, final: int) -> list[Hit]:
    """No searches: matching documents in the order of the index, without scores."""
    if ctx.filter is None:
        raise ValidationError.at("searches", "is empty; give a search, or filters to list documents by", "missing")
    found: list[Hit] = []
    for view in views_of(params.collection_identifiers, ctx):
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
    arms = await run_all(params, [min(search.top_k * factor, ceiling) for search in params.searches], ctx)
    ctx.side["tracked_feature_uris"] = list(dict.fromkeys(arm.search.feature_uri for arm in arms))
    return single(arms[0]) if len(arms) == 1 else await fused(arms, params, None if ctx.explaining else final, ctx)


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
    if len(groups) < group.limit and deepest >= MAX_CANDIDATES:
        ctx.limit("candidates", deepest, MAX_CANDIDATES)
    ctx.ranked(found)
    kept = list(groups.values())[: group.limit]
    size = 1 if group.output_mode == "first" else group.max_per_group
    ctx.side["groups"] = [
        {
            "field": group.field,
            "key": members[0][0],
            "score": members[0][1].score,
            "count": len(members),
            "document_ids": [hit.document_id for _, hit in members[:size]],
        }
        for members in kept
    ]
    return [hit for members in kept for _, hit in members[:size]]


def _groups(hits: Sequence[Hit], group: GroupBy) -> dict[str, list[tuple[Any, Hit]]]:
    """Groups in the order of their best member. Documents without the field share the group null."""
    groups: dict[str, list[tuple[Any, Hit]]] = {}
    for hit in hits:
        value = read_field(hit, group.field)
        if value is None and group.exclude_null:
            continue
        groups.setdefault(repr(value), []).append((value, hit))
    return groups
