"""Facets of a `feature_search`: how often each value of a field occurs, and among what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from mediatheca.kernel.filter_tree import And, Leaf
from mediatheca.kernel.filters import Filter, all_of, fields_of
from mediatheca.kernel.ordering import read_field
from mediatheca.kernel.search import Hit
from mediatheca.stages import StageContext
from mediatheca.stages._search_arms import text_query, views_of
from mediatheca.stages._search_params import Facet, Params, Search

DEEPEST = 1000
"""Values read of each of several collections: their counts are added up."""
MAX_MATCHES = 5000


async def facets(params: Params, found: Sequence[Hit], ctx: StageContext) -> list[dict[str, Any]]:
    """What is told of each facet: `key`, `values` by count, then value, its `scope`, and whether counts are exact."""
    return [await _facet(facet, params, found, ctx) for facet in params.facets]


async def _facet(facet: Facet, params: Params, found: Sequence[Hit], ctx: StageContext) -> dict[str, Any]:
    scope = facet.scope
    if scope == "candidates":
        counts, exact = _counted(found, facet.key), True
    elif scope == "lexical_matches" and (search := _text_search(params)) is not None:
        counts, exact = await _among_matches(facet, search, params, ctx)
    else:
        if scope == "lexical_matches":
            ctx.warn(f"facet '{facet.key}': no search has a text; all documents that pass the filters were counted")
            scope = "filtered"
        counts, exact = await _among_filtered(facet, params, ctx)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))[: facet.limit]
    if facet.exact and not exact:
        ctx.warn(f"the counts of facet '{facet.key}' are lower bounds: there was too much to count")
    return {
        "key": facet.key,
        "scope": scope,
        "exact": exact,
        "values": [{"value": value, "count": count} for value, count in ranked],
    }


async def _among_filtered(facet: Facet, params: Params, ctx: StageContext) -> tuple[Counter[Any], bool]:
    views = views_of(params.collection_identifiers, ctx)
    depth = facet.limit if len(views) == 1 else DEEPEST
    counts: Counter[Any] = Counter()
    exact = True
    for view in views:
        page = await ctx.facet(view.collection_id, facet.key, depth, _kept(facet, ctx))
        counts.update(dict(page))
        exact = exact and (len(views) == 1 or len(page) < depth)
    return counts, exact


def _kept(facet: Facet, ctx: StageContext) -> Filter | None:
    """The filter; for a field that several values may be chosen of, without what was chosen of it.

    Access rules stay in any case: the engine adds them to every read.
    """
    if not facet.exclude_own_filter or ctx.filter is None:
        return ctx.filter
    return all_of(*(part for part in _conjuncts(ctx.filter) if not _only_about(part, facet.key)))


def _conjuncts(tree: Filter) -> Iterable[Filter]:
    if isinstance(tree, And):
        for child in tree.children:
            yield from _conjuncts(child)
    else:
        yield tree


def _only_about(tree: Filter, key: str) -> bool:
    return (isinstance(tree, Leaf) and tree.field == key) or fields_of(tree) == {key}


def _text_search(params: Params) -> Search | None:
    texts = [s for s in params.searches if s.query.input_mode == "text" and isinstance(s.query.value, str)]
    return next((s for s in texts if s.lexical), texts[0] if texts else None)


async def _among_matches(facet: Facet, search: Search, params: Params, ctx: StageContext) -> tuple[Counter[Any], bool]:
    """Documents that hold a word of the query, as a lexical search with these filters finds them."""
    counts: Counter[Any] = Counter()
    exact = True
    keep = all_of(_kept(facet, ctx), search.filters)
    for view in views_of(search.collection_identifiers or params.collection_identifiers, ctx):
        hits = await ctx.search(view.collection_id, text_query(search, MAX_MATCHES, keep, ctx))
        counts.update(_counted(hits, facet.key))
        exact = exact and len(hits) < MAX_MATCHES
    return counts, exact


def _counted(hits: Iterable[Hit], key: str) -> Counter[Any]:
    """An array counts once for each different element."""
    counts: Counter[Any] = Counter()
    for hit in hits:
        value = read_field(hit, key)
        held = value if isinstance(value, list) else [value]
        counts.update({item for item in held if isinstance(item, str | int | float | bool)})
    return counts
