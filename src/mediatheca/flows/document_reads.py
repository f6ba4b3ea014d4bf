"""Reading documents from the document store: one, some, pages of them, groups. Deletes are respected by every read."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import orjson

from mediatheca.flows.documents import has_documents, possible_id
from mediatheca.flows.services import Services
from mediatheca.flows.tables import tombstones
from mediatheca.kernel.errors import NotFoundError, ValidationError
from mediatheca.kernel.filters import Filter
from mediatheca.kernel.ordering import SortKey, sort_hits
from mediatheca.kernel.present import as_hit, field_value, stored_path
from mediatheca.kernel.scope import Scope
from mediatheca.kernel.search import Hit
from mediatheca.stores.db.listing import ListQuery, Page, decode_cursor, encode_cursor
from mediatheca.stores.db.tx import Record
from mediatheca.stores.documents.base import Scan, Tombstones

GROUP_DOCUMENTS = 100
"""Documents shown of one group; its count is exact."""

Vectors = bool | Collection[str]


@dataclass(frozen=True, slots=True)
class Partition:
    """One of `count` disjoint parts of a list: every document falls in exactly one."""

    index: int
    count: int

    def holds(self, hit: Hit) -> bool:
        return zlib.crc32(hit.document_id.encode()) % self.count == self.index


@dataclass(frozen=True, slots=True)
class Query:
    """What a caller asked of a list of documents."""

    page: ListQuery = field(default_factory=ListQuery)
    partition: Partition | None = None
    vectors: Vectors = False
    object_ids: Collection[str] | None = None
    """Only what was derived from these objects, directly or over other documents."""

    @property
    def plain(self) -> bool:
        """Whether the document store decides alone which documents match."""
        return not self.page.search and self.partition is None

    def keeps(self, hit: Hit) -> bool:
        if self.partition is not None and not self.partition.holds(hit):
            return False
        needle = self.page.search
        return not needle or _mentions((hit.document_id, hit.payload), needle.casefold())


@dataclass(slots=True)
class Group:
    """Documents that share a value; `hits` are the first of them."""

    key: Any
    hits: list[Hit]
    count: int


class DocumentReader:
    """Reads in one scope. Holds no transaction between calls."""

    def __init__(self, services: Services, scope: Scope) -> None:
        self._services = services
        self.scope = scope

    # ---- finding

    def collection(self, identifier: str) -> Record:
        """Raises NotFoundError."""
        with self._services.db.read(self.scope) as tx:
            return tx.get("collection", identifier)

    def collections(self, identifiers: Sequence[str] | None) -> tuple[list[Record], list[str]]:
        """Collections by id or name (None: all), oldest first, and the identifiers nothing answers to."""
        with self._services.db.read(self.scope) as tx:
            everything = tx.resources("collection")
        if identifiers is None:
            return everything, []
        known = {name for record in everything for name in (record.id, record.name)}
        return [r for r in everything if r.id in identifiers or r.name in identifiers], [
            name for name in dict.fromkeys(identifiers) if name not in known
        ]

    def get(self, collection_id: str, document_ids: Sequence[str], vectors: Vectors = False) -> list[Hit]:
        """Live documents in the order asked; missing ones are left out."""
        dead = self._tombstones(collection_id)
        if dead is None:
            return []
        asked = [ident for ident in document_ids if possible_id(ident)]
        found = self._services.documents.get(collection_id, asked, tombstones=dead, vectors=vectors)
        return [as_hit(document) for document in found]

    def one(self, collection_id: str, document_id: str, vectors: Vectors = False) -> Hit:
        """Raises NotFoundError."""
        found = self.get(collection_id, [document_id], vectors)
        if not found:
            raise NotFoundError("document", document_id)
        return found[0]

    def anywhere(self, document_ids: Sequence[str], vectors: Vectors = False) -> dict[str, Hit]:
        """Documents of the namespace by id; an id that several collections use means the oldest collection's."""
        found: dict[str, Hit] = {}
        for collection in self.collections(None)[0]:
            missing = [ident for ident in dict.fromkeys(document_ids) if ident not in found]
            if not missing:
                break
            found |= {hit.document_id: hit for hit in self.get(collection.id, missing, vectors)}
        return found

    def locate(self, document_id: str, vectors: Vectors = False) -> Hit:
        """Raises NotFoundError."""
        found = self.anywhere([document_id], vectors)
        if document_id not in found:
            raise NotFoundError("document", document_id)
        return found[document_id]

    # ---- walking

    def _tombstones(self, collection_id: str) -> Tombstones | None:
        """None: nothing was ever written."""
        with self._services.db.read(self.scope) as tx:
            return tombstones(tx, collection_id) if has_documents(tx, collection_id) else None

    def walk(self, collection_id: str, filter: Filter | None = None, after: str = "", limit: int | None = None,
             object_ids: Collection[str] | None = None) -> Iterator[Hit]:  # fmt: skip
        """Live documents by id, without vectors."""
        dead = self._tombstones(collection_id)
        if dead is None:
            return
        scan = Scan(filter, after, limit, object_ids=object_ids)
        for document in self._services.documents.scan(collection_id, scan, tombstones=dead):
            yield as_hit(document)

    def count(self, collection_id: str, filter: Filter | None = None, object_ids: Collection[str] | None = None) -> int:
        dead = self._tombstones(collection_id)
        if dead is None:
            return 0
        return self._services.documents.count(collection_id, filter, tombstones=dead, object_ids=object_ids)

    def _matching(
        self, collections: Sequence[Record], query: Query, limit: int | None = None, after: tuple[str, str] = ("", "")
    ) -> Iterator[Hit]:
        """By collection (oldest first), then document id; `after`: the last (collection, document) already seen."""
        for collection in collections:
            if collection.id < after[0]:
                continue
            start = after[1] if collection.id == after[0] else ""
            most = limit if query.plain else None
            hits = self.walk(collection.id, query.page.filter, start, most, query.object_ids)
            yield from hits if query.plain else filter(query.keeps, hits)

    # ---- pages

    def page(self, collections: Sequence[Record], query: Query) -> tuple[list[Hit], Page]:
        """One page, and where it stands in the whole."""
        wanted = query.page
        state = _cursor(wanted.cursor)
        offset = state.get("o", wanted.offset)
        total: int | None
        if wanted.sort:
            hits, total = self._sorted(collections, query, offset)
            hits, more = hits[: wanted.limit], len(hits) > wanted.limit
            following = {"o": offset + wanted.limit}
        else:
            after = (state.get("c", ""), state.get("k", ""))
            skip = 0 if "k" in state else offset
            stream = self._matching(collections, query, skip + wanted.limit + 1, after)
            hits = list(islice(stream, skip, skip + wanted.limit + 1))
            hits, more = hits[: wanted.limit], len(hits) > wanted.limit
            last = hits[-1] if hits else None
            following = {"o": offset + wanted.limit} | (
                {"c": last.collection_id, "k": last.document_id} if last else {}
            )
            total = self._total(collections, query) if wanted.include_total else None
        cursor = encode_cursor(following) if more else None
        if query.vectors is not False or wanted.sort:
            hits = self._full(hits, query.vectors)
        return hits, Page([], total if wanted.include_total else None, offset, wanted.limit, cursor)

    def _total(self, collections: Sequence[Record], query: Query) -> int:
        if query.plain:
            return sum(self.count(record.id, query.page.filter, query.object_ids) for record in collections)
        return sum(1 for _ in self._matching(collections, query))

    def _sorted(self, collections: Sequence[Record], query: Query, offset: int) -> tuple[list[Hit], int]:
        """The hits of a page and one more, with only the fields they were sorted by."""
        keys = [SortKey(stored_path(name), "desc" if descending else "asc") for name, descending in query.page.sort]
        paths = {key.field for key in keys}
        slim = [_slim(hit, paths) for hit in self._matching(collections, query)]
        return sort_hits(slim, keys)[offset : offset + query.page.limit + 1], len(slim)

    def _full(self, hits: Sequence[Hit], vectors: Vectors) -> list[Hit]:
        """The same documents whole; one that was deleted in between is left out."""
        by_collection: dict[str, list[str]] = defaultdict(list)
        for hit in hits:
            by_collection[hit.collection_id].append(hit.document_id)
        found = {
            (collection_id, hit.document_id): hit
            for collection_id, ids in by_collection.items()
            for hit in self.get(collection_id, ids, vectors)
        }
        keys = ((hit.collection_id, hit.document_id) for hit in hits)
        return [found[key] for key in keys if key in found]

    def groups(self, collections: Sequence[Record], query: Query, path: str) -> tuple[list[Group], Page, int]:
        """A page of groups, largest first, and how many documents there are in all of them."""
        found: dict[bytes, Group] = {}
        total = 0
        for hit in self._matching(collections, query):
            total += 1
            value = field_value(hit, path)
            group = found.setdefault(orjson.dumps(value), Group(value, [], 0))
            group.count += 1
            if len(group.hits) < GROUP_DOCUMENTS:
                group.hits.append(_slim(hit, ()))
        ordered = sorted(found.items(), key=lambda item: (-item[1].count, item[0]))
        wanted = query.page
        offset = _cursor(wanted.cursor).get("o", wanted.offset)
        shown = [group for _, group in ordered[offset : offset + wanted.limit]]
        for group in shown:
            group.hits = self._full(group.hits, query.vectors)
        more = len(ordered) > offset + wanted.limit
        cursor = encode_cursor({"o": offset + wanted.limit}) if more else None
        return shown, Page([], len(ordered), offset, wanted.limit, cursor), total


def _slim(hit: Hit, paths: Collection[str]) -> Hit:
    """Only the values at these paths: a list may pass over a million documents."""
    return Hit(hit.document_id, hit.collection_id, 0.0, {path: field_value(hit, path) for path in paths}, {})


def _mentions(value: Any, needle: str) -> bool:
    """Whether a text anywhere in the value holds the needle, ignoring case."""
    if isinstance(value, str):
        return needle in value.casefold()
    if isinstance(value, dict):
        return any(_mentions(inner, needle) for inner in value.values())
    if isinstance(value, list | tuple):
        return any(_mentions(inner, needle) for inner in value)
    return False


def _cursor(cursor: str | None) -> dict[str, Any]:
    if not cursor:
        return {}
    state = decode_cursor(cursor)
    offset, places = state.get("o"), [state.get("c", ""), state.get("k", "")]
    if type(offset) is not int or offset < 0 or not all(isinstance(place, str) for place in places):
        raise ValidationError.at("cursor", "is not a cursor of this list", "cursor")
    return state
