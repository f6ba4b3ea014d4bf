"""What a chunk reads: objects of buckets, or documents of other collections. Both come as `SourceObject`s."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from mediatheca.flows.ingest.graph import reads_collections, upstream
from mediatheca.flows.ingest.items import SourceObject, gather
from mediatheca.flows.services import JobServices
from mediatheca.flows.tables import tombstones
from mediatheca.kernel.documents import Document
from mediatheca.kernel.filters import Filter, document_view, parse_filter
from mediatheca.kernel.mapping import MISSING, Passthrough, parse_passthrough, read_path
from mediatheca.kernel.present import system_fields
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.listing import ListQuery
from mediatheca.stores.db.tx import Cmp, ReadTx, Record, Row
from mediatheca.stores.documents.base import Scan, Tombstones

IN_USE = Cmp("!=", "DEACTIVATED")
"""Objects that were switched off keep their row; nothing is made of them."""
Outcome: TypeAlias = Literal["skipped", "filtered"]


@dataclass(frozen=True, slots=True)
class State:
    """What the documents of an object were made from. `order` grows with every change of the source; equal `mark`s say
    that nothing has changed."""

    order: int
    mark: str

    @staticmethod
    def of(row: Row) -> State:
        """Of a row of `derivations`."""
        order, _, mark = row["source_state"].partition(":")
        return State(int(order), mark) if mark else State(row["object_version"], f"v{row['object_version']}")

    def __str__(self) -> str:
        return f"{self.order}:{self.mark}"

    @property
    def partial(self) -> State:
        """The same where some items failed: never equal to what is read, so that a later batch takes them up."""
        return State(self.order, "partial")


NEVER = State(-1, "")


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An item that is not processed, and why."""

    object_id: str
    outcome: Outcome
    reason: str
    source_document_id: str = ""


@dataclass(slots=True)
class Fetched:
    """What a chunk works on."""

    fetched: int = 0
    """Objects, or documents of the source; `sources` and `left_out` together."""
    sources: list[SourceObject] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    states: dict[str, State] = field(default_factory=dict)
    """Of every object of the chunk that is to be processed, those that have no documents in the source included."""
    objects: set[str] = field(default_factory=set)
    """Those of `states` that are objects of a bucket; the others are documents that stand for themselves."""


def fetch(services: JobServices, scope: Scope, chunk: Row, collection: Record, *, skips: bool) -> Fetched:
    """What a chunk has to do. `skips`: what has not changed since it was processed is left out."""
    source = collection.body["source"]
    tree = parse_filter(source.get("source_filters"), path="source_filters")
    maps = {ident: parse_passthrough(raw) for ident, raw in (source.get("field_map") or {}).items()}
    if reads_collections(collection):
        found = _Documents(services, scope, chunk, collection, tree).fetch(skips=skips)
    else:
        with services.db.read(scope) as tx:
            found = _objects(tx, chunk["object_ids"], collection, tree, skips=skips)
    found.sources = [_mapped(source, maps) for source in found.sources] if maps else found.sources
    return found


def derived(tx: ReadTx, collection_id: str, object_ids: Iterable[str]) -> dict[str, State]:
    """What the documents of these objects were made from last."""
    where = {"collection_id": collection_id, "object_id": list(object_ids)}
    return {row["object_id"]: State.of(row) for row in tx.rows("derivations", where)}


# ---- objects of buckets


def _objects(tx: ReadTx, object_ids: Sequence[str], collection: Record, tree: Filter | None, *, skips: bool) -> Fetched:
    rows = {row["object_id"]: row for row in tx.rows("objects", {"object_id": object_ids, "status": IN_USE})}
    seen = derived(tx, collection.id, object_ids) if skips or tree is not None else {}
    passing = rows.keys() if tree is None else _passing(tx, list(rows), tree)
    found = Fetched(len(object_ids))
    kept = []
    for ident in object_ids:
        row = rows.get(ident)
        if row is None:
            found.left_out.append(LeftOut(ident, "skipped", "the object was deleted or switched off"))
            continue
        state, before = State(row["version"], f"v{row['version']}"), seen.get(ident)
        if ident not in passing:
            found.left_out.append(LeftOut(ident, "filtered", "source_filters of the collection do not select it"))
            if before is not None and not (skips and before.order == state.order):
                found.states[ident] = state  # what its former version gave, or what it gave at all, goes
        elif skips and before == state:
            found.left_out.append(LeftOut(ident, "skipped", UNCHANGED))
        else:
            kept.append(row)
            found.states[ident] = state
    blobs = tx.rows("blobs", {"object_id": [row["object_id"] for row in kept]}) if kept else []
    found.sources, found.objects = gather(kept, blobs), set(found.states)
    return found


UNCHANGED = "unchanged since it was processed (dedup_strategy skip)"


def _passing(tx: ReadTx, object_ids: Sequence[str], tree: Filter) -> set[str]:
    query = ListQuery(limit=max(1, len(object_ids)), filter=tree, include_total=False)
    return {row["object_id"] for row in tx.page("objects", {"object_id": object_ids}, query).rows}


# ---- documents of collections


@dataclass(slots=True)
class _Documents:
    """Reads the documents that the objects of a chunk have in the collections that it is sourced from."""

    services: JobServices
    scope: Scope
    chunk: Row
    collection: Record
    tree: Filter | None
    _dead: dict[str, Tombstones] = field(default_factory=dict)
    _order: int = 0
    _alive: set[str] = field(default_factory=set)
    """Objects of buckets that are in use."""
    _known: set[str] = field(default_factory=set)
    _seen: dict[str, State] = field(default_factory=dict)

    def fetch(self, *, skips: bool) -> Fetched:
        units: list[str] = self.chunk["object_ids"]
        # Before the documents: a state that is older than what is read is processed again, never the other way round.
        with self.services.db.read(self.scope) as tx:
            self._look(tx, units, skips=skips)
        by_unit: dict[str, list[Document]] = {unit: [] for unit in units}
        for document in self._read(units):
            by_unit[unit_of(document)].append(document)
        found = Fetched()
        for unit, documents in by_unit.items():
            self._take(found, unit, documents)
        with self.services.db.read(self.scope) as tx:
            hashes = _hashes(tx, found.sources)
        for source in found.sources:
            for blob in source.blobs:
                blob["hash"] = blob["hash"] or hashes.get(blob["store_key"], "")
        return found

    def _look(self, tx: ReadTx, units: Sequence[str], *, skips: bool) -> None:
        wanted = upstream(self.collection)
        for row in tx.rows("document_tables", {"collection_id": wanted}):
            self._order += row["write_seq"]
            if row["committed_seq"]:
                self._dead[row["collection_id"]] = tombstones(tx, row["collection_id"])
        rows = tx.rows("objects", {"object_id": list(units)}, columns=("object_id", "status"))
        self._known = {row["object_id"] for row in rows}
        self._alive = {row["object_id"] for row in rows if row["status"] != "DEACTIVATED"}
        self._seen = derived(tx, self.collection.id, units) if skips else {}

    def _read(self, units: Sequence[str]) -> Iterable[Document]:
        """Live documents, by collection and id."""
        wanted, documents = set(units), self.services.documents
        for collection_id, dead in sorted(self._dead.items()):
            scan = Scan(object_ids=list(units))
            for document in documents.scan(collection_id, scan, tombstones=dead):
                if document.object_id in wanted:
                    yield document
            loose = [unit for unit in units if unit not in self._known]
            for document in documents.get(collection_id, loose, tombstones=dead) if loose else ():
                if not document.object_id:
                    yield document

    def _take(self, found: Fetched, unit: str, documents: Sequence[Document]) -> None:
        """The documents of one object."""
        gone = unit in self._known and unit not in self._alive
        state = State(self._order, _mark(documents, self.collection.body["source"].get("source_filters")))
        only = self.chunk["document_ids"]
        asked = [document for document in documents if only is None or document.document_id in only]
        found.fetched += len(asked)
        same = self._seen.get(unit, NEVER).mark == state.mark  # the order grows with every write to the source
        reason = "the object was switched off" if gone else UNCHANGED if same else ""
        if reason:
            found.left_out += [LeftOut(unit, "skipped", reason, document.document_id) for document in asked]
            return
        found.states[unit] = state
        if unit in self._known:
            found.objects.add(unit)
        for document in asked:
            if self.tree is None or self._selects(document):
                found.sources.append(_as_source(document, unit, self.scope))
            else:
                why = "source_filters of the collection do not select it"
                found.left_out.append(LeftOut(unit, "filtered", why, document.document_id))

    def _selects(self, document: Document) -> bool:
        view = document_view(document.payload, document.document_id, document.collection_id, system_fields(document))
        return self.tree is None or self.tree.matches(view)


def unit_of(document: Document) -> str:
    """What stands for a document in chunks: its object; itself where it was written directly."""
    return document.object_id or document.document_id


def _mark(documents: Sequence[Document], filters: Mapping[str, Any] | None) -> str:
    """Names a set of documents as they are, and what chooses among them: any write raises the last number, any delete
    changes how many there are."""
    found: dict[str, list[int]] = {}
    for document in documents:
        entry = found.setdefault(document.collection_id, [0, 0])
        entry[0] += 1
        entry[1] = max(entry[1], document.write_seq)
    text = repr(sorted(found.items())) + (json.dumps(filters, sort_keys=True) if filters else "")
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _as_source(document: Document, unit: str, scope: Scope) -> SourceObject:
    """A document as what is mapped and passed through: its fields, and its files under the names of their fields."""
    system = document.system
    row: Row = {
        "object_id": unit,
        "organization_id": scope.organization_id,
        "namespace_id": scope.namespace_id,
        "bucket_id": system.get("root_bucket_id") or "",
        "version": system.get("object_version", 0),
        "status": "COMPLETED",
        "error": None,
        "fields": document.payload,
        "metadata": {},
        "key_prefix": "",
    }
    blobs = [_blob(entry, unit) for entry in system.get("document_blobs") or () if entry.get("key")]
    metadata = document.payload.get("metadata")
    view = {**document.payload, "metadata": metadata if isinstance(metadata, dict) else {}, "key_prefix": ""}
    return SourceObject(row, blobs, view, document)


def _blob(entry: Mapping[str, Any], unit: str) -> Row:
    key = str(entry["key"])
    return {
        "object_id": unit, "position": 0, "property": entry.get("field", ""), "inline": None, "store_key": key,
        "source_url": None, "mime_type": entry.get("type") or "", "type": entry.get("type") or "",
        "hash": _digest_in(key), "metadata": {},
    }  # fmt: skip


def _digest_in(key: str) -> str:
    """Files that extractors made are named by their content."""
    name = key.rsplit("/", 1)[-1].partition(".")[0]
    made = "/artifacts/" in key and len(name) == 64 and all(char in "0123456789abcdef" for char in name)
    return name if made else ""


def _hashes(tx: ReadTx, sources: Sequence[SourceObject]) -> dict[str, str]:
    """SHA-256 of the files that were uploaded, by store key: under it results are kept."""
    keys = {blob["store_key"] for source in sources for blob in source.blobs if not blob["hash"]}
    found: dict[str, str] = {}
    wanted = sorted(keys)
    for start in range(0, len(wanted), 500):
        rows = tx.rows("blobs", {"store_key": wanted[start : start + 500]}, columns=("store_key", "hash"))
        found |= {row["store_key"]: row["hash"] or "" for row in rows}
    return found


# ---- what is still there, asked right before the write


def living(
    services: JobServices, scope: Scope, collection_ids: Collection[str], document_ids: Sequence[str]
) -> set[tuple[str, str]]:
    """(collection, document) of those that still are."""
    with services.db.read(scope) as tx:
        tables = tx.rows("document_tables", {"collection_id": list(collection_ids)})
        dead = {row["collection_id"]: tombstones(tx, row["collection_id"]) for row in tables if row["committed_seq"]}
    return {
        (ident, document.document_id)
        for ident, stones in dead.items()
        for document in services.documents.get(ident, document_ids, tombstones=stones)
    }


# ---- fields of each source under names of their own


def _mapped(source: SourceObject, maps: Mapping[str, Sequence[Passthrough]]) -> SourceObject:
    """With the fields that the map of its bucket or collection chooses; all of them where it has none."""
    document = source.document
    origin = document.collection_id if document is not None else source.row["bucket_id"]
    if origin not in maps:
        return source
    view: dict[str, Any] = {"metadata": {}, "key_prefix": source.view.get("key_prefix", "")}
    blobs = []
    for entry in maps[origin]:
        value = read_path(source.view, entry.source_path)
        if value is not MISSING or entry.default is not None:
            view[entry.target_path] = entry.default if value is MISSING else value
        blobs += [{**b, "property": entry.target_path} for b in source.blobs if b["property"] == entry.source_path]
    return replace(source, view=view, blobs=blobs)
