"""Keeping house beside the tailing: flush the watermark, purge what is dead, rebuild an index that has grown."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import structlog

from mediatheca.flows.index_state import IndexState
from mediatheca.flows.tables import TableLeases, tombstones
from mediatheca.kernel.documents import Document
from mediatheca.kernel.errors import MediathecaError, NotFoundError, UnavailableError
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.tx import LeaseLostError, Tx
from mediatheca.stores.documents.base import DocumentStore, Tombstones
from mediatheca.stores.index.base import SearchIndex

log = structlog.get_logger()

FLUSH_S = 5.0
PURGE_S = 2.0
MAINTAIN_COMMITS = 100
REBUILD_POINTS = 20_000
"""Unindexed points that make a rebuild worth it; fewer are scanned fast enough."""


class IndexUpkeep:
    """Works on states that the indexer hands in. `apply` brings an index up to a sequence number."""

    def __init__(
        self,
        database: Database,
        documents: DocumentStore,
        index: SearchIndex,
        leases: TableLeases,
        apply: Callable[[IndexState, int], None],
        closing: threading.Event,
    ) -> None:
        self._db, self._documents, self._index, self._leases = database, documents, index, leases
        self._apply, self._closing = apply, closing
        self._rebuilds: list[threading.Thread] = []

    def close(self) -> None:
        """A rebuild that is sending documents stops; one that optimises is left to itself."""
        for thread in self._rebuilds:
            thread.join(2)

    def run(self, state: IndexState, row: dict[str, Any]) -> None:
        """What is due for one collection; `row` is that of its table of documents."""
        if not row["committed_seq"]:
            return  # never written: there is no table of documents to purge
        moment = time.monotonic()
        if state.dirty and moment - state.flushed_at > FLUSH_S:
            self.flush(state)
        idle = moment - state.touched > PURGE_S
        maintain = row["commits"] >= MAINTAIN_COMMITS
        if not state.rebuilding and (maintain or (idle and state.buried)):
            self._purge_unless_busy(state, maintain=maintain)
        if idle and not state.rebuilding and not state.measured:
            state.measured = True
            stats = self._index.stats(state.collection_id)
            if stats["points"] - stats["indexed_points"] > REBUILD_POINTS:
                self._start_rebuild(state)

    # ---- flushing and purging

    def flush(self, state: IndexState) -> None:
        """Make what was applied durable, and with it the watermark."""
        with state.lock:
            state.dirty = False
            self._index.flush(state.collection_id, state.applied)
            state.flushed = state.applied
            state.flushed_at = time.monotonic()

    def _tombstones(self, state: IndexState) -> Tombstones:
        with self._db.read(state.scope) as tx:
            return tombstones(tx, state.collection_id)

    def _purge_unless_busy(self, state: IndexState, *, maintain: bool) -> None:
        """Other collections must not wait for a writer of this one."""
        try:
            self._purge(state, maintain=maintain)
        except (UnavailableError, LeaseLostError) as error:
            log.info("indexer.purge_put_off", collection=state.collection_id, reason=str(error))
            state.touched = time.monotonic()

    def _purge(self, state: IndexState, *, maintain: bool) -> None:
        """Remove dead rows for good. Under the lease no commit is in flight: all up to our number is known."""
        collection_id = state.collection_id
        with self._leases.acquire(state.scope, collection_id, wait_s=1) as lease:
            # Only deletes that the index has applied and flushed: those that come later wait for the next purge.
            dead = self._tombstones(state)
            self._apply(state, lease.seq)
            self.flush(state)
            self._documents.purge(collection_id, dead, state.flushed)
            if maintain:
                self._documents.maintain(collection_id)
            self._leases.commit(lease, lambda tx: _forget(tx, collection_id, dead), maintained=maintain)
        with state.lock, self._db.read(state.scope) as tx:
            state.buried = tx.count("tombstones", {"collection_id": collection_id}) > 0

    # ---- rebuilding

    def _start_rebuild(self, state: IndexState) -> None:
        state.rebuilding = True
        thread = threading.Thread(target=self._rebuild_safely, args=(state,), name="index-rebuild", daemon=True)
        self._rebuilds = [other for other in self._rebuilds if other.is_alive()] + [thread]
        thread.start()

    def _rebuild_safely(self, state: IndexState) -> None:
        try:
            self.rebuild(state)
        except MediathecaError as error:
            log.error("indexer.rebuild_failed", collection=state.collection_id, error=error.message)

    def rebuild(self, state: IndexState) -> None:
        """Build a fresh index from the documents aside, swap it in, catch it up. The old one answers meanwhile."""
        with state.rebuild_lock, ExitStack() as swapping:
            state.rebuilding = True
            swapping.callback(setattr, state, "rebuilding", False)

            def hide() -> None:
                # The fresh index knows nothing of what came after `upto`: nobody may see it before the replay.
                swapping.enter_context(state.lock)
                state.ready = False

            with state.lock:
                if state.dropped:  # opening it would make it anew
                    raise NotFoundError("collection", state.collection_id)
                self.open(state)
                upto = state.applied
            self._index.rebuild(state.spec, self._live_pages(state, upto), upto, before_swap=hide)
            state.applied = state.flushed = upto
            self._catch_up(state)
            state.touched = time.monotonic()

    def open(self, state: IndexState) -> None:
        """Make the index, and read its watermark the first time."""
        self._index.ensure(state.spec)
        if not state.opened:
            state.applied = state.flushed = self._index.watermark(state.collection_id)
            state.opened = True

    def _catch_up(self, state: IndexState) -> None:
        with self._db.read(state.scope) as tx:
            row = tx.row("document_tables", {"collection_id": state.collection_id})
        if row is not None:
            self._apply(state, row["committed_seq"])

    def _live_pages(self, state: IndexState, upto: int) -> Iterator[list[Document]]:
        dead = self._tombstones(state)
        for page in self._documents.changes(state.collection_id, 0, upto):
            if self._closing.is_set():
                raise UnavailableError("the server is stopping; the index is rebuilt after the next start")
            yield [document for document in page if not document.deleted and not dead.cover(document)]


def _forget(tx: Tx, collection_id: str, dead: Tombstones) -> None:
    for kind, keys in (("document", dead.documents), ("object", dead.objects)):
        for key, seq in keys.items():
            tx.delete("tombstones", {"collection_id": collection_id, "kind": kind, "key": key, "seq": seq})
