"""Queries, paging, counting and facets over any `Engine`: plans, rechecks, scores, order. Shared by all adapters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from mediatheca.kernel.documents import Document
from mediatheca.kernel.filter_values import at_path
from mediatheca.kernel.filters import Filter, document_view
from mediatheca.kernel.search import Hit, TextQuery, VectorQuery
from mediatheca.kernel.sparse import is_sparse
from mediatheca.stores.index.engine import Engine
from mediatheca.stores.index.lexical import text_hits
from mediatheca.stores.index.points import (
    BARE,
    OBJECT_ID,
    ODD,
    ROOT_OBJECT_ID,
    SLICE,
    WRITE_SEQ,
    Raw,
    check_vector,
    decode,
    decode_bare,
    first_uuid_from,
    index_path,
    newest,
    point_id,
)
from mediatheca.stores.index.qdrant_filters import compile_qdrant

PAGE = 1000
_FACETABLE = frozenset({"keyword", "bool"})
"""Field types whose engine facet equals ours; other fields are counted here."""


def run(engine: Engine, query: VectorQuery | TextQuery, collection_id: str) -> list[Hit]:
    """The best `limit` hits, by score descending, then document id.

    Raises:
        ValidationError: an unknown vector index or text field, or a vector of the wrong shape.
    """
    if query.limit <= 0:
        return []
    native, exact = _compile(engine, query.filter)
    rest = None if exact else query.filter
    if query.bare and not (exact and _payload_free(query)):
        query = replace(query, bare=False)
    made = partial(decode_bare, collection_id=collection_id) if query.bare else decode
    if isinstance(query, TextQuery):
        hits = text_hits(engine, query, native, lambda fetch, limit: _recheck(fetch, limit, rest, made))
    else:
        hits = _recheck(_nearest(engine, query, native), query.limit, rest, made)
        if query.min_score is not None:
            low = query.min_score
            hits = [hit for hit in hits if hit.score >= low]
    hits.sort(key=_rank)
    return hits


def _payload_free(query: VectorQuery | TextQuery) -> bool:
    """Whether no payload is needed besides what a filter is checked on: neighbouring words are looked for in it."""
    return not isinstance(query, TextQuery) or query.phrase == 1.0


def _rank(hit: Hit) -> tuple[float, str]:
    return (-hit.score, hit.document_id)


def _compile(engine: Engine, filter: Filter | None) -> tuple[Any, bool]:
    return (None, True) if filter is None else compile_qdrant(filter, engine.models, engine.fields)


def matches(filter: Filter | None, hit: Hit) -> bool:
    return filter is None or filter.matches(document_view(hit.payload, hit.document_id, hit.collection_id, hit.system))


def _recheck(
    fetch: Callable[[int], list[Raw]], limit: int, filter: Filter | None, made: Callable[[Raw], Hit]
) -> list[Hit]:
    """Fetch twice as many until enough pass the filter that the engine could not say in full, or none are left."""
    wanted = limit if filter is None else max(2 * limit, 32)
    while True:
        raw = fetch(wanted)
        exhausted = len(raw) < wanted
        hits = [hit for hit in map(made, raw) if matches(filter, hit)]
        if len(hits) >= limit or exhausted:
            return hits[:limit]
        wanted *= 2


def _nearest(engine: Engine, query: VectorQuery, native: Any) -> Callable[[int], list[Raw]]:
    vector = check_vector(query.using, query.vector, engine.vectors)
    if is_sparse(vector):
        return _overlapping(engine, replace(query, vector=vector), native)
    euclid = engine.vectors[query.using].metric == "euclid"
    filter = _without(engine, native, query.exclude)
    names, keys = [name for name in query.with_vectors if name in engine.vectors], BARE if query.bare else None

    def fetch(limit: int) -> list[Raw]:
        raws = engine.nearest(query.using, vector, limit, filter, exact=query.exact, with_vectors=names, keys=keys)
        if euclid:
            for raw in raws:
                raw.score = 1.0 / (1.0 + raw.score)
        return raws

    return fetch


def _overlapping(engine: Engine, query: VectorQuery, native: Any) -> Callable[[int], list[Raw]]:
    """The fetch of a sparse query. Terms that cancel out to 0 are no match: some engines say so, some do not."""
    filter = _without(engine, native, query.exclude)
    names, keys = [name for name in query.with_vectors if name in engine.vectors], BARE if query.bare else None

    def fetch(limit: int) -> list[Raw]:
        if not len(query.vector):
            return []
        raws = engine.nearest(query.using, query.vector, limit, filter, exact=True, with_vectors=names, keys=keys)
        return [raw for raw in raws if raw.score != 0]

    return fetch


def _without(engine: Engine, native: Any, exclude: Collection[str]) -> Any:
    if not exclude:
        return native
    ids = engine.has_ids({point_id(document_id) for document_id in exclude})
    return engine.models.Filter(must=None if native is None else [native], must_not=[ids])


def get(engine: Engine, document_ids: Sequence[str], with_vectors: Collection[str]) -> list[Hit]:
    """Points by id in the order asked."""
    return _in_order(engine, document_ids, with_vectors, None, decode)


def get_bare(
    engine: Engine, document_ids: Sequence[str], with_vectors: Collection[str], collection_id: str
) -> list[Hit]:
    """The same without payloads and system fields."""
    return _in_order(engine, document_ids, with_vectors, BARE, partial(decode_bare, collection_id=collection_id))


def _in_order(
    engine: Engine,
    document_ids: Sequence[str],
    with_vectors: Collection[str],
    keys: Sequence[str] | None,
    made: Callable[[Raw], Hit],
) -> list[Hit]:
    names = [name for name in with_vectors if name in engine.vectors]
    found: dict[str, Hit] = {}
    for start in range(0, len(document_ids), PAGE):
        ids = [point_id(document_id) for document_id in document_ids[start : start + PAGE]]
        found |= {hit.document_id: hit for hit in map(made, engine.retrieve(ids, keys, names))}
    return [found[document_id] for document_id in document_ids if document_id in found]


def scroll(engine: Engine, filter: Filter | None, limit: int, after: str) -> list[Hit]:
    """Matching points by document id ascending. Ids that are not UUIDs have no order in the engine: sorted here."""
    if limit <= 0:
        return []
    native, exact = _compile(engine, filter)
    recheck = None if exact else filter
    if not engine.has_odd_ids():
        return _scroll_uuids(engine, native, recheck, limit, after)
    models = engine.models
    plain = models.Filter(must=None if native is None else [native], must_not=[_is_odd(engine)])
    hits = _scroll_uuids(engine, plain, recheck, limit, after)
    hits += _scroll_odd(engine, _odd(engine, native), recheck, limit, after)
    return sorted(hits, key=lambda hit: hit.document_id)[:limit]


def _is_odd(engine: Engine) -> Any:
    return engine.models.FieldCondition(key=ODD, match=engine.models.MatchValue(value="1"))


def _odd(engine: Engine, native: Any) -> Any:
    condition = _is_odd(engine)
    return engine.models.Filter(must=[condition] if native is None else [native, condition])


def _scroll_uuids(engine: Engine, native: Any, recheck: Filter | None, limit: int, after: str) -> list[Hit]:
    start = first_uuid_from(after) if after else None
    hits: list[Hit] = []
    if after and start is None:
        return hits
    while True:
        raws, start = engine.page(native, limit + 1, start, None)
        hits += [hit for hit in map(decode, raws) if hit.document_id > after and matches(recheck, hit)]
        if len(hits) >= limit or start is None:
            return hits[:limit]


def _scroll_odd(engine: Engine, native: Any, recheck: Filter | None, limit: int, after: str) -> list[Hit]:
    later = sorted(i for i in _ids(engine, native) if i > after)
    hits: list[Hit] = []
    for at in range(0, len(later), max(limit, 100)):
        hits += [hit for hit in get(engine, later[at : at + max(limit, 100)], ()) if matches(recheck, hit)]
        if len(hits) >= limit:
            break
    return hits[:limit]


def _pages(engine: Engine, native: Any, keys: Sequence[str] | None) -> Iterator[Raw]:
    start: str | None = None
    while True:
        raws, start = engine.page(native, PAGE, start, keys)
        yield from raws
        if start is None:
            return


def _ids(engine: Engine, native: Any) -> Iterator[str]:
    return (raw.payload["document_id"] for raw in _pages(engine, native, ["document_id"]))


def all_ids(engine: Engine, start: str | None) -> tuple[list[str], str | None]:
    """One page of document ids and where the next one starts; the caller takes its lease page by page."""
    raws, following = engine.page(None, PAGE, start, ["document_id"])
    return [raw.payload["document_id"] for raw in raws], following


def count(engine: Engine, filter: Filter | None) -> int:
    """How many points match, exactly."""
    native, exact = _compile(engine, filter)
    if exact:
        return engine.count(native)
    return sum(matches(filter, decode(raw)) for raw in _pages(engine, native, None))


def facet(engine: Engine, key: str, limit: int, filter: Filter | None) -> list[tuple[Any, int]]:
    """The most frequent scalar values; an array counts once for each different element."""
    if limit <= 0:
        return []
    native, exact = _compile(engine, filter)
    path = index_path(key)
    if exact and path is not None and engine.fields.get(key) in _FACETABLE:
        return _native_facet(engine, path, limit, native)
    counts: Counter[tuple[str, Any]] = Counter()
    for raw in _pages(engine, native, None):
        hit = decode(raw)
        if exact or matches(filter, hit):
            view = document_view(hit.payload, hit.document_id, hit.collection_id, hit.system)
            counts.update({(_kind(value), value) for value in at_path(view, key) if _kind(value)})
    return _ordered([(value, number) for (_, value), number in counts.items()])[:limit]


def _native_facet(engine: Engine, path: str, limit: int, native: Any) -> list[tuple[Any, int]]:
    asked = 2 * limit + 50
    while True:
        found = _ordered(engine.facet(path, asked, native))
        # Equal counts at the edge may continue beyond what was asked for; the smallest values must win.
        if len(found) < asked or found[limit - 1][1] > found[-1][1]:
            return found[:limit]
        asked *= 4


def _kind(value: Any) -> str:
    """Type name of a scalar ('' for anything else): True and 1 are different values."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    return "string" if isinstance(value, str) else ""


def _ordered(counts: list[tuple[Any, int]]) -> list[tuple[Any, int]]:
    def order(item: tuple[Any, int]) -> tuple[int, str, float, str]:
        value, number = item
        kind = _kind(value)
        return (-number, kind, 0.0 if kind == "string" else float(value), value if kind == "string" else "")

    return sorted(counts, key=order)


def drop_stale(engine: Engine, documents: list[Document]) -> list[Document]:
    """Without the documents that are older than what is stored."""
    if not any(engine.may_be_stale(document.write_seq) for document in documents):
        return documents
    stored: dict[str, int] = {}
    ids = [point_id(document.document_id) for document in documents]
    for raw in engine.retrieve(ids, ["document_id", WRITE_SEQ], ()):
        stored[raw.payload["document_id"]] = raw.payload["_internal"]["write_seq"]
    return [d for d in documents if d.write_seq >= stored.get(d.document_id, d.write_seq)]


def derived_from(engine: Engine, object_ids: Collection[str], upto_seq: int) -> Any:
    """A filter for the points of these objects (direct or root) written at or before `upto_seq`."""
    models, ids = engine.models, list(object_ids)
    either = models.Filter(
        should=[models.FieldCondition(key=key, match=models.MatchAny(any=ids)) for key in (OBJECT_ID, ROOT_OBJECT_ID)]
    )
    return models.Filter(must=[either, models.FieldCondition(key=WRITE_SEQ, range=engine.span(high=upto_seq))])


def apply(engine: Engine, documents: Sequence[Document]) -> None:
    """Upsert the newest state of each document, slice by slice; dead rows remove their points."""
    for start in range(0, len(documents), SLICE):
        part = drop_stale(engine, newest(documents[start : start + SLICE]))
        dead = [point_id(document.document_id) for document in part if document.deleted]
        if dead:
            engine.remove(dead)
        engine.write([document for document in part if not document.deleted])
