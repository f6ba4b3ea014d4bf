"""One search of `feature_search`: which indexes it goes to, what it asks them, and what came back."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mediatheca.kernel.documents import Vector, VectorIndex
from mediatheca.kernel.errors import NotFoundError, ValidationError
from mediatheca.kernel.filters import Filter, all_of
from mediatheca.kernel.search import Hit, TextQuery, VectorQuery
from mediatheca.kernel.sparse import from_wire, shown
from mediatheca.kernel.spelling import corrected, cut_words
from mediatheca.stages import CollectionView, StageContext
from mediatheca.stages._search_concurrently import together
from mediatheca.stages._search_params import Params, Query, Search
from mediatheca.stages._search_spellings import find_index

MAX_WORDS = 64
"""Different words of a text that are looked up: a document's worth of them would match everything, slowly."""


@dataclass(slots=True)
class Arm:
    """One search that ran: its name in `scores.per_feature`, and its hits, best first."""

    search: Search
    label: str
    hits: list[Hit]
    skipped: str = ""
    """Why it did not run; then it has no part in the fusion."""
    notes: dict[str, object] = field(default_factory=dict)
    """What it tells in the stage's metadata."""


def label_of(search: Search) -> str:
    return f"{search.feature_uri}#lexical" if search.lexical else search.feature_uri


def views_of(names: Sequence[str] | None, ctx: StageContext) -> Sequence[CollectionView]:
    """The collections named, else the retriever's."""
    return ctx.resolve(names) if names else ctx.collections


async def run_arm(search: Search, depth: int, params: Params, ctx: StageContext) -> Arm:
    """Search the collections that have the feature.

    Raises:
        ValidationError: none has it and the search is not optional, or the query does not fit.
        UnavailableError: the model or the source of the query is not there.
    """
    arm = Arm(search, label_of(search), [])
    views, targets = targets_of(search, params, ctx)
    if not targets:
        arm.skipped = _without_index(search, views)
    elif is_empty(search.query):
        await _on_empty(arm, views, depth, ctx)
    elif search.lexical:
        keep = all_of(ctx.filter, search.filters)
        arm.hits = await _lexical(arm, [view for view, _ in targets], depth, keep, ctx, bare=params.chooses_first)
    else:
        keep, found = all_of(ctx.filter, search.filters), [(v, i) for v, i in targets if i is not None]
        arm.hits = await _nearest(search, found, depth, keep, ctx, bare=params.chooses_first)
    if search.optional and not arm.hits and not arm.skipped and not await _documents(targets, ctx):
        arm.skipped = f"the optional search on '{search.feature_uri}' was skipped: the index is empty"
    if arm.skipped:
        ctx.warn(arm.skipped)
    return arm


def targets_of(
    search: Search, params: Params, ctx: StageContext
) -> tuple[Sequence[CollectionView], list[tuple[CollectionView, VectorIndex | None]]]:
    """The collections of a search, and those that have its feature, with the index."""
    views = views_of(search.collection_identifiers or params.collection_identifiers, ctx)
    targets = [(view, find_index(view, search.feature_uri)) for view in views]
    return views, [target for target in targets if target[1] is not None] if search.feature_uri else targets


async def _documents(targets: Sequence[tuple[CollectionView, VectorIndex | None]], ctx: StageContext) -> int:
    return sum([await ctx.count(view.collection_id, None) for view, _ in targets])


def _without_index(search: Search, views: Sequence[CollectionView]) -> str:
    names = ", ".join(view.name for view in views) or "none"
    if not search.optional:
        message = f"no collection has '{search.feature_uri}' (searched: {names})"
        raise ValidationError.at("searches.feature_uri", message, "unknown")
    return f"the optional search on '{search.feature_uri}' was skipped: no collection has it"


def is_empty(query: Query) -> bool:
    """Nothing to look for."""
    if query.input_mode == "document":
        ref = query.document_ref
        return ref is None or not ref.collection_id or not ref.document_id
    value = query.value
    return value is None or value == [] or (isinstance(value, str) and not value.strip())


async def _on_empty(arm: Arm, views: Sequence[CollectionView], depth: int, ctx: StageContext) -> None:
    search = arm.search
    if search.on_empty == "error":
        message = f"the {search.query.input_mode} query for '{search.feature_uri}' is empty"
        raise ValidationError.at("searches.query", f"{message}; give a value, or set on_empty to skip", "empty")
    if search.on_empty == "skip":
        arm.skipped = f"the search on '{search.feature_uri}' was skipped: its query is empty"
        return
    found: list[Hit] = []
    for view in views:
        found.extend(await ctx.scroll(view.collection_id, all_of(ctx.filter, search.filters), 1000))
    ctx.warn(f"the query for '{search.feature_uri}' is empty: documents were picked at random")
    arm.hits = random.Random(ctx.seed).sample(found, min(depth, len(found)))


async def _lexical(
    arm: Arm, views: Sequence[CollectionView], depth: int, keep: Filter | None, ctx: StageContext, *, bare: bool
) -> list[Hit]:
    search = arm.search
    text = search.query.value
    if not isinstance(text, str):
        raise ValidationError.at("searches.query.value", "a lexical search needs a text", "string_type")
    query = replace(text_query(search, depth, keep, ctx), bare=bare)
    pages = await together([ctx.search(view.collection_id, query) for view in views])
    _note_corrections(arm, text, pages, ctx)
    if search.min_score is not None:
        pages = [[hit for hit in page if hit.score >= search.min_score] for page in pages]
    return merge_by_rank(pages)[:depth] if len(pages) > 1 else pages[0]


def text_query(search: Search, depth: int, keep: Filter | None, ctx: StageContext) -> TextQuery:
    """The text query of a lexical search, cut to what can be looked up."""
    text, count = cut_words(str(search.query.value), MAX_WORDS)
    if count > MAX_WORDS:
        ctx.limit("query_words", count, MAX_WORDS)
    fields = {entry.field: entry.boost for entry in search.lexical_fields}
    return TextQuery(
        text,
        depth,
        tuple(fields),
        keep,
        tuple((name, boost) for name, boost in fields.items() if boost != 1.0),
        search.minimum(min(count, MAX_WORDS)),
        search.fuzziness,
        search.phrase_boost,
    )


def _note_corrections(arm: Arm, text: str, pages: Sequence[Sequence[Hit]], ctx: StageContext) -> None:
    """`did_you_mean`, when a word stands nowhere and another spelling found something."""
    found: dict[str, str] = {}
    for page in pages:
        if page and "lexical" in page[0].scores:
            found = page[0].scores["lexical"].get("corrections", {}) | found
        elif page:
            return  # a collection that has every word: nothing to correct
    if found:
        suggestion = corrected(text, found)
        arm.notes["did_you_mean"] = suggestion
        ctx.metadata["did_you_mean"] = suggestion
        ctx.side.setdefault("did_you_mean", suggestion)


async def _nearest(
    search: Search,
    targets: Sequence[tuple[CollectionView, VectorIndex]],
    depth: int,
    keep: Filter | None,
    ctx: StageContext,
    *,
    bare: bool,
) -> list[Hit]:
    queries = []
    for view, index in targets:  # one after the other: the second index of a model finds the vector in the cache
        vector, exclude = await query_vector(search.query, search.feature_uri, index, ctx)
        query = VectorQuery(index.name, vector, depth, keep, search.min_score, exclude=exclude, bare=bare)
        queries.append((view, query))
    pages = await together([ctx.search(view.collection_id, query) for view, query in queries])
    spaces = {(index.weights, index.model, index.metric) for _, index in targets}
    if len(spaces) > 1:
        ctx.warn(f"'{search.feature_uri}' has vectors of different models or metrics; results were merged by rank")
        return merge_by_rank(pages)[:depth]
    merged = [hit for page in pages for hit in page]
    merged.sort(key=_by_score)
    return merged[:depth]


def _by_score(hit: Hit) -> tuple[float, str, str]:
    return (-hit.score, hit.document_id, hit.collection_id)


def merge_by_rank(pages: Sequence[list[Hit]]) -> list[Hit]:
    """Scores of different indexes do not compare: reciprocal rank takes their place."""
    merged: list[Hit] = []
    for page in pages:
        for rank, hit in enumerate(page, start=1):
            hit.scores["raw"] = hit.score
            hit.score = 1.0 / (60 + rank)
            merged.append(hit)
    merged.sort(key=lambda hit: (-hit.score, -hit.scores["raw"], hit.document_id, hit.collection_id))
    return merged


async def query_vector(
    query: Query, feature_uri: str, index: VectorIndex, ctx: StageContext
) -> tuple[Vector, tuple[str, ...]]:
    """The vector of a query for an index, and the document it must not find."""
    if query.input_mode == "vector":
        return given_vector(query.value, index), ()
    if query.input_mode == "document":
        return await _stored_vector(query, feature_uri, index, ctx)
    if not isinstance(query.value, str):
        raise ValidationError.at("searches.query.value", f"must be a text, got {type(query.value).__name__}")
    if query.input_mode == "content":
        return await ctx.embed(index, content=query.value), ()
    return await ctx.embed(index, text=query.value, task=query.embedding_task), ()


def given_vector(value: object, index: VectorIndex) -> Vector:
    """A vector of the caller's, checked.

    Raises:
        ValidationError: it does not fit the index.
    """
    place = "searches.query.value"
    if index.sparse:
        return from_wire(value, place)
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


async def _stored_vector(
    query: Query, feature_uri: str, index: VectorIndex, ctx: StageContext
) -> tuple[Vector, tuple[str, ...]]:
    ref = query.document_ref
    if ref is None or not ref.collection_id or not ref.document_id:
        raise ValidationError.at("searches.query.document_ref", "needs collection_id and document_id", "missing")
    view = ctx.resolve([ref.collection_id])[0]
    source = find_index(view, feature_uri)
    name = source.name if source else index.name
    found = await ctx.documents(view.collection_id, [ref.document_id], [name])
    if not found:
        raise NotFoundError("document", ref.document_id)
    vector = found[0].vectors.get(name)
    if vector is None:
        message = f"document '{ref.document_id}' has no vector '{name}'"
        raise ValidationError.at("searches.query.document_ref", message, "missing")
    return vector, () if query.include_self else (ref.document_id,)


def with_query(search: Search, value: str | Vector) -> Search:
    """The same search for another text, or for a vector."""
    asked = {"input_mode": "text", "value": value}
    if not isinstance(value, str):
        asked = {"input_mode": "vector", "value": shown(value)}
    query = search.query.model_copy(update=asked)
    return search.model_copy(update={"query": query, "query_preprocessing": None})
