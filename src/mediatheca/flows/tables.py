"""Who may write a collection's documents: one leased writer per table, and the sequence number of its commit.

The lease lives in the database (another process may hold it), and the database's time decides when it ends: the clocks
of the machines may differ. Inside this process a lock keeps writers from polling.
A commit is: take the lease and a sequence number → write → in one transaction record the result and return the lease.

Between the write and the record anything may happen: the process dies, the job is cancelled, the record is refused. The
rows are there all the same, so their number always becomes the committed one: by whoever wrote them, if it is alive,
else by the indexer, which finds the lease that ran out (`abandoned`).
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import update

from mediatheca.kernel.errors import NotFoundError, UnavailableError
from mediatheca.kernel.ids import new_uuid
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db import tables
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.tx import LeaseLostError, ReadTx, Row, Tx
from mediatheca.stores.documents.base import Tombstones

_POLL_S = 0.05


def tombstones(tx: ReadTx, collection_id: str) -> Tombstones:
    """The deletes of a collection that are not purged yet."""
    found: dict[str, dict[str, int]] = {"document": {}, "object": {}}
    for row in tx.rows("tombstones", {"collection_id": collection_id}):
        found[row["kind"]][row["key"]] = row["seq"]
    return Tombstones(found["document"], found["object"])


def bury(tx: Tx, collection_id: str, kind: str, keys: list[str]) -> int:
    """Record deletes in the caller's transaction; visible to every read after its commit. Returns their sequence."""
    seq = tx.next_seq(collection_id)
    tx.delete("tombstones", {"collection_id": collection_id, "kind": kind, "key": keys})
    tx.insert("tombstones", [{"collection_id": collection_id, "kind": kind, "key": key, "seq": seq} for key in keys])
    return seq


@dataclass(slots=True)
class Lease:
    """The right to make one commit, numbered `seq`."""

    scope: Scope
    collection_id: str
    seq: int
    token: str
    inherited: bool = False
    """The holder before us died with it, maybe between its write and its record."""
    wrote: bool = False
    """Rows with our number may be in the table."""
    ended: bool = False


class TableLeases:
    """Hands out leases. Thread-safe."""

    def __init__(self, database: Database, lease_s: float = 30) -> None:
        self._db = database
        self._lease_us = int(lease_s * 1e6)
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    @contextmanager
    def acquire(self, scope: Scope, collection_id: str, wait_s: float = 60) -> Iterator[Lease]:
        """Wait for the lease; given back when the block ends, unless `commit` did.

        Raises:
            NotFoundError: the collection is gone.
            UnavailableError: somebody else held it all the time.
        """
        deadline = time.monotonic() + wait_s
        lock = self._locks[collection_id]
        if not lock.acquire(timeout=wait_s):
            raise UnavailableError(f"collection '{collection_id}' is being written by somebody else; try again")
        try:
            lease = self._take(scope, collection_id)
            while lease is None:
                if time.monotonic() > deadline:
                    raise UnavailableError(f"collection '{collection_id}' is being written by another process")
                time.sleep(_POLL_S)
                lease = self._take(scope, collection_id)
            try:
                yield lease
            finally:
                if not lease.ended:
                    self._give_back(lease)
        finally:
            lock.release()

    def _take(self, scope: Scope, collection_id: str) -> Lease | None:
        token = new_uuid()

        def take(tx: Tx) -> Lease | None:
            row = tx.row("document_tables", {"collection_id": collection_id})
            if row is None:
                raise NotFoundError("collection", collection_id)
            moment = tx.time_us()
            if row["lease_token"] is not None and row["lease_until"] > moment:
                return None
            held = {"collection_id": collection_id, "lease_token": row["lease_token"]}
            if not tx.update("document_tables", held, {"lease_token": token, "lease_until": moment + self._lease_us}):
                return None
            inherited = row["lease_token"] is not None
            return Lease(scope, collection_id, tx.next_seq(collection_id), token, inherited)

        return self._db.run(scope, take)

    def check(self, lease: Lease) -> None:
        """Call right before the write, when the table exists: from here on its rows count, whatever happens.

        Raises:
            LeaseLostError: it ran out, and somebody else may be writing.
        """
        with self._db.read(lease.scope) as tx:
            row = tx.row("document_tables", {"collection_id": lease.collection_id, "lease_token": lease.token})
            if row is None or row["lease_until"] <= tx.time_us():
                raise LeaseLostError(lease.collection_id)
        lease.wrote = True

    def commit(self, lease: Lease, record: Callable[[Tx], Any] | None = None, *, maintained: bool = False) -> None:
        """The write is durable: say so, run `record` in the same transaction, and give the lease back.

        `record` may run several times, each time in a fresh transaction, while it loses to other transactions.
        `maintained`: the table was put in order; its commits are counted from here on.

        Raises:
            LeaseLostError: nothing of `record` is kept.
        """
        where = {"collection_id": lease.collection_id, "lease_token": lease.token}

        def end(tx: Tx) -> None:
            row = tx.row("document_tables", where)
            if row is None:
                raise LeaseLostError(lease.collection_id)
            # First the record: rows of objects and jobs are locked before the table's by everybody, so nobody waits
            # in a circle.
            if record is not None:
                record(tx)
            commits = 0 if maintained else row["commits"] + 1
            done = {"committed_seq": lease.seq, "commits": commits, "lease_token": None}
            if not tx.update("document_tables", where, done):
                raise LeaseLostError(lease.collection_id)

        self._db.run(lease.scope, end)
        lease.ended = True

    def _give_back(self, lease: Lease) -> None:
        where = {"collection_id": lease.collection_id, "lease_token": lease.token}
        if lease.wrote:
            values: Row = {"lease_token": None, "committed_seq": lease.seq}
        else:  # what we inherited stays to be seen to
            values = {"lease_until": 0} if lease.inherited else {"lease_token": None}
        self._db.run(lease.scope, lambda tx: tx.update("document_tables", where, values))
        lease.ended = True

    def abandoned(self, row: Row) -> bool:
        """Whether the holder of this table's lease died with it."""
        if row["lease_token"] is None:
            return False
        with self._db.read(Scope(row["organization_id"], row["namespace_id"])) as tx:
            return bool(row["lease_until"] <= tx.time_us())

    def expire(self) -> None:
        """End every lease: for the start of the only process that writes."""
        table = tables.document_tables
        with self._db.system() as connection:
            connection.execute(update(table).where(table.c.lease_token.is_not(None)).values(lease_until=0))

    @contextmanager
    def excluded(self, collection_id: str) -> Iterator[None]:
        """No writer of this process is inside; for removing the table of a collection that is gone."""
        with self._locks[collection_id]:
            yield
        self._locks.pop(collection_id, None)
