"""Highlights of a `feature_search`: the fragments of its documents that match the query."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import numpy as np

from mediatheca.kernel.documents import VectorIndex
from mediatheca.kernel.highlights import Style, candidate_sentences, lexical_fragments, sentence_fragments
from mediatheca.kernel.ordering import read_field
from mediatheca.kernel.passages import words
from mediatheca.kernel.search import Hit
from mediatheca.stages import CollectionView, StageContext
from mediatheca.stages._fields import TEXT_FIELDS, as_text
from mediatheca.stages._search_arms import label_of
from mediatheca.stages._search_params import Highlight, Params, Search
from mediatheca.stages._search_spellings import find_index

MAX_HITS = 500
MAX_SENTENCES = 120
"""Sentences embedded for one answer: each costs as much as a query."""
PER_DOCUMENT = 12


async def highlight(hits: Sequence[Hit], params: Params, ctx: StageContext) -> None:
    """Note `highlights` on the first hits; those without a match have an empty list."""
    how = params.highlight
    if how is None or not hits:
        return
    searches = [s for s in params.searches if s.query.input_mode == "text" and isinstance(s.query.value, str)]
    if not searches:
        ctx.warn("highlights need a search with a text query; there is none")
        return
    shown = hits[:MAX_HITS] if how.mode == "lexical" else hits[: max(ctx.wanted, 10)]
    if len(hits) > len(shown):
        ctx.limit("highlighted_documents", len(hits), len(shown))
    if how.mode == "lexical":
        _lexical(shown, searches, how, ctx)
    else:
        await _semantic(shown, searches, how, ctx)


def _style(how: Highlight) -> Style:
    return Style(how.fragment_size, how.number, how.pre, how.post, how.escape)


def _fields(how: Highlight, searches: Sequence[Search], hit: Hit, ctx: StageContext) -> list[str]:
    """The fields asked for; else those the searches read; else every text field of the collection."""
    if how.fields:
        return how.fields
    read = [entry.field for search in searches for entry in search.lexical_fields]
    if read:
        return list(dict.fromkeys(read))
    declared = [
        path
        for view in ctx.collections
        if view.collection_id == hit.collection_id
        for path, kind in view.fields.items()
        if kind == "text"
    ]
    return declared or list(TEXT_FIELDS)


class _Analysers:
    """Which words the index takes for the same, field by field; each word is looked up once."""

    def __init__(self, ctx: StageContext) -> None:
        self._ctx = ctx
        self._languages = {view.collection_id: view.languages for view in ctx.collections}
        self._known: dict[str, dict[str, Hashable]] = {}

    def of(self, collection_id: str, path: str) -> Callable[[str], Hashable]:
        language = self._languages.get(collection_id, {}).get(path)
        return str if language is None else partial(self._stem, language)

    def _stem(self, language: str, word: str) -> Hashable:
        known = self._known.setdefault(language, {})
        if word not in known:
            known[word] = frozenset(self._ctx.words(word, language)) or None
        return known[word]


def _lexical(hits: Sequence[Hit], searches: Sequence[Search], how: Highlight, ctx: StageContext) -> None:
    asked = {word for search in searches for word in words(str(search.query.value)[:10_000])}
    arm = next((search for search in searches if search.lexical), searches[0])
    source = label_of(arm)
    analysers = _Analysers(ctx)
    for hit in hits:
        spelled = hit.scores.get("lexical", {})
        wanted = asked | set(spelled.get("words", ())) | set(spelled.get("corrections", {}).values())
        found = []
        for path in _fields(how, searches, hit, ctx):
            text = as_text(read_field(hit, path))
            alike = analysers.of(hit.collection_id, path)
            for fragment in lexical_fragments(text, wanted, _style(how), alike) if text else ():
                found.append({"field": path, **fragment, "source_arm": source})
        hit.scores["highlights"] = found


async def _semantic(hits: Sequence[Hit], searches: Sequence[Search], how: Highlight, ctx: StageContext) -> None:
    """The sentences nearest to the query, by the model of the search."""
    dense = next((search for search in searches if not search.lexical), None)
    if dense is None:
        ctx.warn("semantic highlights need a search by meaning; there is none")
        return
    indexes = {view.collection_id: index for view in ctx.collections if (index := _text_index(view, dense)) is not None}
    left = MAX_SENTENCES
    for hit in hits:
        hit.scores["highlights"] = []
        index = indexes.get(hit.collection_id)
        if index is None or left <= 0:
            continue
        query = await ctx.embed(index, text=str(dense.query.value))
        for path in _fields(how, searches, hit, ctx):
            text = as_text(read_field(hit, path))
            spans = candidate_sentences(text, _style(how), min(PER_DOCUMENT, max(left, 0)))
            left -= len(spans)
            hit.scores["highlights"] += await _nearest(text, spans, query, index, how, path, ctx)
    if left <= 0:
        ctx.limit("highlighted_sentences", MAX_SENTENCES - left, MAX_SENTENCES)


def _text_index(view: CollectionView, search: Search) -> VectorIndex | None:
    index = find_index(view, search.feature_uri)
    return (
        index
        if index is not None and "text" in index.modalities and index.model and not index.multi and not index.sparse
        else None
    )


async def _nearest(
    text: str,
    spans: Sequence[tuple[int, int]],
    query: Any,
    index: VectorIndex,
    how: Highlight,
    path: str,
    ctx: StageContext,
) -> list[dict[str, Any]]:
    if not spans:
        return []
    vectors = np.stack([await ctx.embed(index, text=text[a:b], task="retrieval_document") for a, b in spans])
    order = np.argsort(-(vectors @ query), kind="stable")
    best = [spans[place] for place in order.tolist()]
    return [
        {"field": path, **fragment, "source_arm": index.feature_uri}
        for fragment in sentence_fragments(text, best, _style(how))
    ]
