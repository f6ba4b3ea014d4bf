"""The one indexer: tails every collection's commits and deletes into its search index.

Nothing is acknowledged by the index: the documents are the truth, and the index is what has been tailed so far. A
collection is served from the index once everything after the durable watermark has been replayed; until then the
documents answer, exactly and slower, and the result says `degraded`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import structlog
from sqlalchemy import select

from mediatheca.flows.index_state import IndexState
from mediatheca.flows.index_upkeep import IndexUpkeep
from mediatheca.flows.tables import TableLeases, tombstones
from mediatheca.kernel.documents import Document, VectorIndex
from mediatheca.kernel.errors import MediathecaError, NotFoundError
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db import tables
from mediatheca.stores.db.engine import Database
from mediatheca.stores.documents.base import DocumentStore, Tombstones
from mediatheca.stores.index.base import IndexSpec, SearchIndex
from mediatheca.stores.index.patches import vectors_since
from mediatheca.telemetry import INDEX_LAG

log = structlog.get_logger()


def index_spec(collection_id: str, body: dict[str, Any]) -> IndexSpec:
    """The index a collection's stored body describes."""
    fields, languages = dict(body.get("indexed_fields", {})), dict(body.get("languages", {}))
    return IndexSpec(collection_id, all_vectors(body), fields, languages)


def all_vectors(body: dict[str, Any]) -> tuple[VectorIndex, ...]:
    """The vector indexes that are searched, and those beside them that a change of model builds or keeps."""
    return (*stored_vectors(body), *stored_vectors({"vector_indexes": body.get("side_indexes", [])}))


def stored_vectors(body: dict[str, Any]) -> tuple[VectorIndex, ...]:
    """The vector indexes recorded at creation."""
    return tuple(
        VectorIndex(**{**entry, "modalities": tuple(entry["modalities"])}) for entry in body.get("vector_indexes", [])
    )


class Indexer:
    """Runs in the server process. Other threads may call every public method."""

    def __init__(self, database: Database, documents: DocumentStore, index: SearchIndex, leases: TableLeases) -> None:
        self.index = index
        self.documents = documents
        self.on_advance: Callable[[], None] = lambda: None
        self.on_change: Callable[[str, Sequence[str] | None], None] = lambda collection_id, document_ids: None
        """Told of documents that the index took, changed or dropped; None: it may be any. It must be quick."""
        self._buried: dict[str, dict[str, int]] = {}
        self._db = database
        self._leases = leases
        # Commits of this process wake us; those of another process (PostgreSQL) are polled for.
        self._poll_s = 0.1 if database.dialect == "postgresql" else 1.0
        self._tables: dict[str, IndexState] = {}
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._upkeep = IndexUpkeep(database, documents, index, leases, self._apply, self._closing)
        self._thread = threading.Thread(target=self._loop, name="indexer", daemon=True)
        database.listen(self._woken)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop tailing and flush what was applied, so that a clean restart replays nothing."""
        self._closing.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(30)
        self._upkeep.close()
        for table in list(self._tables.values()):
            if table.dirty:
                self._upkeep.flush(table)

    def _woken(self, topics: set[str]) -> None:
        if topics & {"document_tables", "tombstones", "resource:collection"}:
            self._wake.set()

    # ---- what callers ask

    def ready(self, collection_id: str) -> bool:
        table = self._tables.get(collection_id)
        return table is not None and table.ready

    def applied(self, collection_id: str) -> int:
        """The sequence number up to which the collection is searchable."""
        table = self._tables.get(collection_id)
        return 0 if table is None else table.applied

    def version(self, collection_id: str) -> int | None:
        """A number that moves with every change of what a search finds; None while the index is not ready."""
        table = self._tables.get(collection_id)
        return table.version if table is not None and table.ready else None

    def catch_up(self, scope: Scope, collection_id: str) -> None:
        """Make everything committed so far searchable before returning: read-your-writes."""
        table = self._table(scope, collection_id)
        with self._db.read(scope) as tx:
            row = tx.row("document_tables", {"collection_id": collection_id})
        if row is not None:
            self._apply(table, row["committed_seq"])

    def caught_up(self, collection_id: str) -> int:
        """`catch_up` for a caller that knows only the collection; up to where it is searchable then."""
        self.catch_up(self._known(collection_id).scope, collection_id)
        return self.applied(collection_id)

    def rebuild(self, scope: Scope, collection_id: str) -> None:
        """Build a fresh index from the documents aside and swap it in; the old one answers meanwhile."""
        self._upkeep.rebuild(self._table(scope, collection_id))

    def tombstones(self, scope: Scope, collection_id: str) -> Tombstones:
        with self._db.read(scope) as tx:
            return tombstones(tx, collection_id)

    def object_deleted(self, scope: Scope, collection_ids: Sequence[str], object_ids: Sequence[str]) -> None:
        """Call after the transaction that buried these objects: they leave the index before the caller answers."""
        for collection_id in collection_ids:
            self._bury(scope, collection_id, lambda table, dead: self._drop_objects(table, dead, object_ids))

    def documents_deleted(self, scope: Scope, collection_id: str, document_ids: Sequence[str]) -> None:
        """Call after the transaction that buried these documents."""
        self._bury(scope, collection_id, lambda table, dead: self._drop_documents(table, dead, document_ids))

    def drop(self, collection_id: str) -> None:
        """Forget a deleted collection and remove its index and documents."""
        table = self._tables.pop(collection_id, None)
        with table.lock if table is not None else nullcontext():
            if table is not None:
                table.ready, table.dropped = False, True
            self.index.drop(collection_id)
        with self._leases.excluded(collection_id):
            self.documents.drop(collection_id)

    def tombstones_of(self, collection_id: str) -> Tombstones:
        """The same for a caller that knows only the collection: its scope is that of its table."""
        return self.tombstones(self._known(collection_id).scope, collection_id)

    def unwritten(self, collection_id: str) -> bool:
        """Whether nothing was ever committed to the collection: then the document store may have no table of it."""
        with self._db.read(self._known(collection_id).scope) as tx:
            row = tx.row("document_tables", {"collection_id": collection_id})
        return row is None or not row["committed_seq"]

    def spec(self, collection_id: str) -> IndexSpec:
        """What the index of a collection holds."""
        return self._known(collection_id).spec

    def refresh(self, scope: Scope, collection_id: str) -> None:
        """Read anew what the index of a collection holds: its vector indexes may change (`side_indexes`)."""
        table = self._table(scope, collection_id)
        with self._db.read(scope) as tx:
            spec = index_spec(collection_id, tx.get("collection", collection_id).body)
        with table.lock:
            table.spec = spec
            if table.ready:  # else it is made with this when it is opened
                self.index.ensure(spec)

    def vector_index(self, collection_id: str, name: str) -> VectorIndex:
        """A vector index of a collection by name."""
        if all(index.name != name for index in self.spec(collection_id).vectors):
            self.refresh(self._known(collection_id).scope, collection_id)
        found = [index for index in self.spec(collection_id).vectors if index.name == name]
        if not found:
            raise NotFoundError("vector index", name)
        return found[0]

    def _known(self, collection_id: str) -> IndexState:
        table = self._tables.get(collection_id)
        if table is not None:
            return table
        for row in self._rows():
            if row["collection_id"] == collection_id:
                return self._table(Scope(row["organization_id"], row["namespace_id"]), collection_id)
        raise NotFoundError("collection", collection_id)

    def lag(self) -> int:
        """Commits not yet searchable, over all collections."""
        return sum(max(0, row["committed_seq"] - self.applied(row["collection_id"])) for row in self._rows())

    def _bury(self, scope: Scope, collection_id: str, act: Callable[[IndexState, Tombstones], None]) -> None:
        try:
            table = self._table(scope, collection_id)
        except NotFoundError:
            return
        with table.lock:
            table.dirty = table.buried = True
            table.touched = time.monotonic()
            try:
                act(table, self.tombstones(scope, collection_id))
            except Exception:
                table.ready = False  # what is deleted must not be found: the documents answer until it is replayed
                raise
            finally:
                table.version += 1

    def _drop_documents(self, table: IndexState, dead: Tombstones, document_ids: Sequence[str]) -> None:
        """Only what the tombstones cover: a document may have been written again since."""
        seqs = {ident: dead.documents[ident] for ident in document_ids if ident in dead.documents}
        if table.ready:  # otherwise the replay that makes it ready does it
            self._replay_deletes(table.spec.collection_id, Tombstones(seqs))

    def _drop_objects(self, table: IndexState, dead: Tombstones, object_ids: Sequence[str]) -> None:
        for object_id in object_ids if table.ready else ():
            if object_id in dead.objects:
                self.index.delete_objects(table.spec.collection_id, [object_id], dead.objects[object_id])
                self.on_change(table.spec.collection_id, None)

    # ---- tailing

    def _rows(self) -> list[dict[str, Any]]:
        with self._db.translate(), self._db.engine.connect() as connection, connection.begin():
            return [dict(row) for row in connection.execute(select(tables.document_tables)).mappings()]

    def _loop(self) -> None:
        while not self._closing.is_set():
            self._wake.wait(self._poll_s)
            self._wake.clear()
            try:
                self.tick()
            except MediathecaError as error:
                log.error("indexer.tick_failed", error=error.message)
                self._closing.wait(1)
            except Exception as error:
                log.error("indexer.crashed", exc_info=error)
                self._closing.wait(1)

    def tick(self) -> None:
        """One round over all collections: apply what is new, then keep house."""
        rows = self._rows()
        lag = 0
        for row in rows:
            if self._closing.is_set():
                return
            scope = Scope(row["organization_id"], row["namespace_id"])
            try:
                table = self._table(scope, row["collection_id"])
                self._apply(table, self._committed(table, row))
                self._upkeep.run(table, row)
            except MediathecaError as error:
                lag += 1
                log.error("indexer.collection_failed", collection=row["collection_id"], error=error.message)
            except Exception as error:  # one collection must not stop the others
                lag += 1
                log.error("indexer.collection_failed", collection=row["collection_id"], exc_info=error)
        INDEX_LAG.set(lag)
        self.on_advance()

    def _committed(self, table: IndexState, row: dict[str, Any]) -> int:
        """The number up to which documents count. What a writer that died has left behind counts from now on."""
        if not self._leases.abandoned(row):
            return int(row["committed_seq"])
        with self._leases.acquire(table.scope, table.spec.collection_id, wait_s=0) as lease:
            self.documents.ensure(table.spec.collection_id, table.spec.vectors)
            self._leases.commit(lease)
        return lease.seq

    def _table(self, scope: Scope, collection_id: str) -> IndexState:
        table = self._tables.get(collection_id)
        if table is not None:
            return table
        with self._db.read(scope) as tx:
            body = tx.get("collection", collection_id).body
        return self._tables.setdefault(collection_id, IndexState(scope, index_spec(collection_id, body)))

    def _apply(self, table: IndexState, target: int) -> None:
        """Bring the index to `target`: first the deletes, then the rows, so that a later row survives its tombstone."""
        if table.ready and table.applied >= target:
            return
        collection_id = table.spec.collection_id
        with table.lock:
            if table.dropped:
                raise NotFoundError("collection", collection_id)
            if table.ready and table.applied >= target:
                return  # whoever held the lock has brought it there: nothing moves, the version neither
            if not table.ready:
                self._upkeep.open(table)
            dead = self.tombstones(table.scope, collection_id)
            if not table.ready or dead.documents or dead.objects:
                self._replay_deletes(collection_id, dead)
            if dead.objects != self._buried.get(collection_id, {}):
                self._buried[collection_id] = dict(dead.objects)
                self.on_change(collection_id, None)
            if target > table.applied and not self._replay_rows(table, target, dead):
                return
            table.ready = True
            table.version += 1

    def _replay_deletes(self, collection_id: str, dead: Tombstones) -> None:
        stale = self.index.get(collection_id, list(dead.documents))
        gone = [hit.document_id for hit in stale if hit.system.get("write_seq", 0) <= dead.documents[hit.document_id]]
        if gone:
            self.index.delete(collection_id, gone)
            self.on_change(collection_id, gone)
        for object_id, seq in dead.objects.items():
            self.index.delete_objects(collection_id, [object_id], seq)

    def _replay_rows(self, table: IndexState, target: int, dead: Tombstones) -> bool:
        """Apply what was written up to `target`, a page at a time; False when the server closed in between."""
        collection_id = table.spec.collection_id
        for page in self.documents.changes(collection_id, table.applied, target):
            self._apply_page(table, page, dead)
            table.applied = max(table.applied, page[-1].write_seq - 1)
            table.version += 1
            table.dirty = True
            if self._closing.is_set():
                return False
        table.applied = target
        table.dirty = True
        table.touched = time.monotonic()
        table.measured = False
        return True

    def _apply_page(self, table: IndexState, page: list[Document], dead: Tombstones) -> None:
        collection_id = table.collection_id
        self._meet_vectors(table, page)
        gone = [document.document_id for document in page if document.deleted or dead.cover(document)]
        if gone:
            self.index.delete(collection_id, gone)
        alive = [document for document in page if not document.deleted and not dead.cover(document)]
        kept = [document for document in alive if vectors_since(document) < document.write_seq]
        fresh = [document for document in alive if vectors_since(document) == document.write_seq]
        self.index.upsert(collection_id, [*fresh, *(self.index.patch(collection_id, kept) if kept else ())])
        self.on_change(collection_id, [document.document_id for document in page])

    def _meet_vectors(self, table: IndexState, page: list[Document]) -> None:
        """Make room for vector indexes that came with a change of model; leave out those that went with it."""
        written = {name for document in page for name in document.vectors}
        if written <= {index.name for index in table.spec.vectors}:
            return
        self.refresh(table.scope, table.collection_id)
        self.index.ensure(table.spec)
        known = {index.name for index in table.spec.vectors}
        for document in page:
            document.vectors = {name: vector for name, vector in document.vectors.items() if name in known}
