"""The turn from one model to another, and what goes when nobody wants to turn back.

A turn is one transaction of the table's lease: no writer is at work, every document that can have the vector has it,
and from the commit on searches and new documents use the other model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mediatheca.flows.held import held
from mediatheca.flows.migration.compare import after_switch
from mediatheca.flows.migration.fill import Fill
from mediatheca.flows.services import Services
from mediatheca.kernel.errors import BadRequestError, NotFoundError, UnavailableError
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.tx import Record, Tx

ATTEMPTS = 20
"""Looks for documents that were written between a build and its turn."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn to the new indexes of `fill`, whose vectors its parameters make."""

    fill: Fill

    def make(self) -> int:
        """Build what is lacking, then turn; returns the sequence number at which both sides are complete.

        Raises:
            BadRequestError: documents would not be found any more, and `allow_incomplete` was not said.
            UnavailableError: writers were faster all the time.
        """
        for _ in range(ATTEMPTS):
            done = self.fill.run()
            self._need_complete()
            if self._turned(done):
                scope, ident = self.fill.scope, self.fill.collection.id
                self.fill.services.indexer.catch_up(scope, ident)
                return done
        raise UnavailableError(f"collection '{self.fill.collection.id}' is written faster than it can be followed")

    def _need_complete(self) -> None:
        with self.fill.services.db.read(self.fill.scope) as tx:
            body = tx.get(self.fill.migration.kind, self.fill.migration.id).body
        failed = body["failed"]
        if failed and not body["options"].get("allow_incomplete"):
            ident, reason = next(iter(failed.items()))
            raise BadRequestError(
                f"{len(failed)} documents have no vector of the other model and would not be found, e.g. '{ident}': "
                f"{reason}. Mend or delete them, or turn with allow_incomplete"
            )

    def _turned(self, done: int) -> bool:
        """Turn, unless something was written since `done`."""
        services, scope, ident = self.fill.services, self.fill.scope, self.fill.collection.id
        services.indexer.catch_up(scope, ident)  # what searches will find is there before they look
        with services.leases.acquire(scope, ident) as lease:
            if self.fill.lacking(done, lease.seq):
                return False
            services.leases.commit(lease, self._record)
        return True

    def _record(self, tx: Tx) -> None:
        collection = held(tx, "collection", self.fill.collection.id)
        body = after_switch(collection.body, self.fill.pairs)
        config = {**body["feature_extractor"], "parameters": dict(self.fill.parameters)}
        tx.change(collection, {**body, "feature_extractor": config})
        tx.emit("collection.updated", collection.id, {"index_map": body["index_map"]})


def drop_side(services: Services, scope: Scope, collection: Record, names: Sequence[str]) -> None:
    """Remove vector indexes that no search uses: from the declaration, the documents, the index. May be repeated.

    Raises:
        BadRequestError: one of them answers searches.
    """

    def forget(tx: Tx) -> None:
        current = held(tx, "collection", collection.id)
        used = {entry["name"] for entry in current.body["vector_indexes"]} & set(names)
        if used:
            raise BadRequestError(f"'{min(used)}' answers the searches of the collection")
        side = [entry for entry in current.body.get("side_indexes", []) if entry["name"] not in names]
        tx.change(current, {**current.body, "side_indexes": side, "migration_id": None})

    services.db.run(scope, forget)
    try:
        with services.leases.acquire(scope, collection.id) as lease:
            services.documents.drop_vectors(collection.id, names)
            services.leases.commit(lease)
    except NotFoundError:
        return
    services.indexer.refresh(scope, collection.id)
    services.indexer.rebuild(scope, collection.id)
