"""Writing documents one by one or by the thousand: group commit, deletes, and the rules a written document keeps.

Requests that arrive while a commit of their collection is running are collected and written together by the next one:
one lease, one commit of the document store, and each caller gets its own outcome. Changes of one document apply in the
order in which they arrived. A write is acknowledged after the store committed it and the index has caught up with it.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import numpy as np
import structlog

from mediatheca.flows.indexing import Indexer, stored_vectors
from mediatheca.flows.tables import Lease, TableLeases, bury
from mediatheca.kernel import clock
from mediatheca.kernel.documents import Document
from mediatheca.kernel.errors import MediathecaError, NotFoundError, UnavailableError, ValidationError
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.tx import LeaseLostError, ReadTx, Record, Tx
from mediatheca.stores.documents.base import DocumentStore
from mediatheca.stores.index.patches import KEPT_VECTORS, vectors_since

log = structlog.get_logger()

Told: TypeAlias = Literal["each", "batch", "none"]

MAX_ROWS = 1000
"""Rows of one request."""
GROUP_ROWS = 2000
"""Rows of one commit; what is over waits for the next."""
MAX_ID = 512
"""Characters of a document id."""


@dataclass(frozen=True, slots=True)
class Change:
    """What to do to one document. `apply` gets the stored document, None where there is none, and gives the new one;
    what it raises is that change's own outcome."""

    document_id: str
    apply: Callable[[Document | None], Document]


@dataclass(slots=True)
class Outcome:
    """What became of one change: exactly one of `document` and `error` is set."""

    document: Document | None = None
    created: bool = False
    searchable: bool = False
    error: MediathecaError | None = None

    def result(self) -> Document:
        if self.error is not None:
            raise self.error
        if self.document is None:
            raise UnavailableError("the document was not written; try again")
        return self.document


@dataclass(slots=True)
class _Pending:
    """One request that waits for its commit."""

    collection: Record
    changes: Sequence[Change]
    actor: str
    events: Told = "each"
    reason: str = ""
    wait: bool = True
    outcomes: list[Outcome] = field(default_factory=list)
    failure: BaseException | None = None
    woken: threading.Event = field(default_factory=threading.Event)
    leads: bool = False
    done: bool = False


@dataclass(slots=True)
class _Queue:
    pending: deque[_Pending] = field(default_factory=deque)
    running: bool = False


class DocumentWriter:
    """One for a process. Thread-safe; every method blocks until its outcome is durable. Hold no transaction meanwhile:
    the commit needs one of its own."""

    def __init__(self, database: Database, documents: DocumentStore, leases: TableLeases, indexer: Indexer) -> None:
        self._db = database
        self._documents = documents
        self._leases = leases
        self._indexer = indexer
        self._lock = threading.Lock()
        self._queues: defaultdict[str, _Queue] = defaultdict(_Queue)

    def write(
        self,
        scope: Scope,
        actor: str,
        collection: Record,
        changes: Sequence[Change],
        *,
        events: Told = "each",
        reason: str = "",
        wait: bool = True,
    ) -> list[Outcome]:
        """Apply changes to documents of one collection, each with its own outcome, in the order given.

        `events`: one for each document, one `documents.updated.batch` for them together (with `reason`, by which
        readers know their own work), or none. `wait`: also until the index has caught up; else it follows by itself.

        Raises:
            NotFoundError: the collection is gone.
            UnavailableError: nothing was acknowledged; try again.
        """
        if not changes:
            return []
        own = _Pending(collection, changes, actor, events, reason, wait)
        with self._lock:
            queue = self._queues[collection.id]
            queue.pending.append(own)
            own.leads, queue.running = not queue.running, True
        if not own.leads:
            own.woken.wait()
        if own.leads and not own.done:
            self._lead(scope, collection.id)
        if own.failure is not None:
            raise own.failure
        return own.outcomes

    def _lead(self, scope: Scope, collection_id: str) -> None:
        """Commit everything that waits, then let the first who came meanwhile lead: nobody works for ever."""
        group = self._take(collection_id)
        try:
            self._commit_group(scope, group)
        except BaseException:  # not even an error of ours, as when an engine panics: nobody was acknowledged
            self._fail(group, UnavailableError("the write broke off; try again"))
            raise
        finally:
            for pending in group:
                pending.done = True
                pending.woken.set()
            with self._lock:
                queue = self._queues[collection_id]
                if queue.pending:
                    queue.pending[0].leads = True
                    queue.pending[0].woken.set()
                else:
                    del self._queues[collection_id]

    def _take(self, collection_id: str) -> list[_Pending]:
        with self._lock:
            waiting = self._queues[collection_id].pending
            group = [waiting.popleft()]
            rows = len(group[0].changes)
            while waiting and rows + len(waiting[0].changes) <= GROUP_ROWS:
                rows += len(waiting[0].changes)
                group.append(waiting.popleft())
        return group

    def _commit_group(self, scope: Scope, group: list[_Pending]) -> None:
        """Every request of the group gets its outcomes or a failure; nothing is raised."""
        try:
            self._commit(scope, group)
        except ValidationError as error:
            if len(group) > 1:  # one request's rows must not fail another's
                for pending in group:
                    self._commit_group(scope, [pending])
            else:
                group[0].failure = error
        except LeaseLostError:
            message = f"collection '{group[0].collection.id}': the write took longer than its lease; try again"
            self._fail(group, UnavailableError(message))
        except Exception as error:
            self._fail(group, error)

    @staticmethod
    def _fail(group: list[_Pending], error: BaseException) -> None:
        for pending in group:
            pending.failure = error

    def _commit(self, scope: Scope, group: list[_Pending]) -> None:
        collection = group[0].collection
        with self._leases.acquire(scope, collection.id) as lease:
            self._documents.ensure(collection.id, stored_vectors(collection.body))
            before, after = self._apply(lease, group)
            if after:
                self._leases.check(lease)
                self._documents.upsert(collection.id, list(after.values()), lease.seq)
                self._leases.commit(lease, lambda tx: self._record(tx, collection.id, group, before, after))
        if after:
            self._acknowledge(scope, collection.id, group, lease.seq)

    def _apply(self, lease: Lease, group: list[_Pending]) -> tuple[set[str], dict[str, Document]]:
        """The ids that existed before, and the documents to write."""
        ids = list(dict.fromkeys(change.document_id for pending in group for change in pending.changes))
        dead = self._indexer.tombstones(lease.scope, lease.collection_id)
        stored = self._documents.get(lease.collection_id, ids, tombstones=dead, vectors=True)
        current = {document.document_id: document for document in stored}
        before, written = set(current), dict(current)
        after: dict[str, Document] = {}
        for pending in group:
            pending.outcomes = [self._outcome(change, current) for change in pending.changes]
            after |= {
                done.document.document_id: done.document for done in pending.outcomes if done.document is not None
            }
        return before, {ident: _counted(document, written.get(ident), lease.seq) for ident, document in after.items()}

    @staticmethod
    def _outcome(change: Change, current: dict[str, Document]) -> Outcome:
        held = current.get(change.document_id)
        try:
            made = change.apply(held)
        except MediathecaError as error:
            return Outcome(error=error)
        current[change.document_id] = made
        return Outcome(made, created=held is None)

    @staticmethod
    def _record(
        tx: Tx, collection_id: str, group: list[_Pending], before: set[str], after: dict[str, Document]
    ) -> None:
        for pending in group:
            tx.actor = pending.actor
            _tell(tx, collection_id, pending)
        count_documents(tx, collection_id, Counter(d.object_id for d in after.values() if d.document_id not in before))

    def _acknowledge(self, scope: Scope, collection_id: str, group: list[_Pending], seq: int) -> None:
        """The write is durable; now make it searchable. If that fails it is still acknowledged: the indexer goes on."""
        try:
            if any(pending.wait for pending in group):
                self._indexer.catch_up(scope, collection_id)
            searchable = self._indexer.applied(collection_id) >= seq
        except MediathecaError as error:
            log.error("documents.not_searchable_yet", collection=collection_id, error=error.message)
            searchable = False
        for pending in group:
            for outcome in pending.outcomes:
                if outcome.document is not None:
                    outcome.document.write_seq = seq
                    outcome.searchable = searchable

    def delete(self, scope: Scope, actor: str, collection_id: str, document_ids: Sequence[str]) -> set[str]:
        """Delete documents: gone from every read and from the index when this returns. Gives the ids that existed.

        Raises:
            NotFoundError: the collection is gone.
        """
        with self._db.read(scope) as tx:
            if not has_documents(tx, collection_id):
                return set()
        asked = [ident for ident in dict.fromkeys(document_ids) if possible_id(ident)]
        dead = self._indexer.tombstones(scope, collection_id)
        stored = self._documents.get(collection_id, asked, tombstones=dead)
        with self._db.begin(scope, actor) as tx:
            tx.next_seq(collection_id)  # takes the row's lock: two deletes of one document count it once
            where = {"collection_id": collection_id, "kind": "document", "key": [d.document_id for d in stored]}
            buried = {row["key"]: row["seq"] for row in tx.rows("tombstones", where)}
            alive = [d for d in stored if d.write_seq > buried.get(d.document_id, -1)]
            ids = [d.document_id for d in alive]
            if ids:
                bury(tx, collection_id, "document", ids)
                count_documents(
                    tx, collection_id, Counter({k: -n for k, n in Counter(d.object_id for d in alive).items()})
                )
                tx.emit_many("document.deleted", [(ident, {"collection_id": collection_id}) for ident in ids])
        if ids:
            self._indexer.documents_deleted(scope, collection_id, ids)
        return set(ids)


def _counted(document: Document, held: Document | None, seq: int) -> Document:
    """With a note of the commit that wrote its vectors, if that is not this one: then the index need not take them."""
    system = {name: value for name, value in document.system.items() if name != KEPT_VECTORS}
    if held is not None and _same_vectors(document, held):
        system[KEPT_VECTORS] = [vectors_since(held), seq]
    return document if system == document.system else replace(document, system=system)


def _same_vectors(one: Document, other: Document) -> bool:
    if one.vectors.keys() != other.vectors.keys():
        return False
    pairs = ((vector, other.vectors[name]) for name, vector in one.vectors.items())
    return all(a is b or (a.dtype == b.dtype and np.array_equal(a, b)) for a, b in pairs)


def _tell(tx: Tx, collection_id: str, pending: _Pending) -> None:
    """The events of one request."""
    made = [(outcome.document.document_id, outcome.created) for outcome in pending.outcomes if outcome.document]
    if pending.events == "each":
        for kind, created in (("document.created", True), ("document.updated", False)):
            tx.emit_many(kind, [(ident, {"collection_id": collection_id}) for ident, fresh in made if fresh is created])
    elif pending.events == "batch" and made:
        payload = {"collection_id": collection_id, "document_ids": [ident for ident, _ in made]}
        tx.emit("documents.updated.batch", collection_id, {**payload, "reason": pending.reason})


def possible_id(ident: str) -> bool:
    """Whether a document could have this id; what cannot be an id never reaches the store."""
    return 1 <= len(ident) <= MAX_ID and not any(
        ord(char) < 32 or char == "/" or "\ud800" <= char <= "\udfff" for char in ident
    )


def has_documents(tx: ReadTx, collection_id: str) -> bool:
    """Whether anything was ever committed: before that the document store has no table.

    Raises:
        NotFoundError: the collection is gone.
    """
    row = tx.row("document_tables", {"collection_id": collection_id})
    if row is None:
        raise NotFoundError("collection", collection_id)
    return bool(row["committed_seq"])


def count_documents(tx: Tx, collection_id: str, deltas: Counter[str]) -> None:
    """Keep the number of documents per object true; documents without an object are counted under the empty id.

    A number may be below zero for a moment: a delete sees a document before the write that made it has been counted.
    """
    deltas = Counter({object_id: delta for object_id, delta in deltas.items() if delta})
    if not deltas:
        return
    where = {"collection_id": collection_id}
    known = {row["object_id"]: row for row in tx.rows("derivations", {**where, "object_id": list(deltas)})}
    moment = clock.now()
    for object_id, delta in deltas.items():
        row = known.get(object_id)
        if row is not None:
            values = {"documents": row["documents"] + delta, "updated_at": moment}
            tx.update("derivations", {**where, "object_id": object_id}, values)
        elif delta > 0 or not object_id:
            fresh = {
                "object_id": object_id,
                "object_version": 0,
                "documents": delta,
                "batch_id": "",
                "updated_at": moment,
            }
            tx.insert("derivations", [{**where, **fresh}])
