"""Results of a retriever written into a collection as documents of their own, with vectors and lineage."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mediatheca.flows.document_rows import is_system_key, upsertion
from mediatheca.flows.documents import Change, DocumentWriter
from mediatheca.flows.indexing import stored_vectors
from mediatheca.flows.retrieve.seams import Searcher
from mediatheca.kernel.errors import MediathecaError
from mediatheca.kernel.scope import Scope
from mediatheca.kernel.search import Hit
from mediatheca.kernel.sparse import shown
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.tx import Record


def derived_id(target_id: str, hit: Hit) -> str:
    """The id of a document's copy in a collection: always the same, so that writing again replaces."""
    source = f"{target_id}\x1f{hit.collection_id}\x1f{hit.document_id}"
    return f"doc_{hashlib.blake2b(source.encode(), digest_size=12).hexdigest()}"


@dataclass(frozen=True, slots=True)
class ResultWriter:
    """Writes the page that an execution shows. One per request, bound to its tenant."""

    database: Database
    writer: DocumentWriter
    searcher: Searcher
    scope: Scope
    actor: str

    async def __call__(self, target: str, hits: Sequence[Hit]) -> dict[str, Any]:
        """What was written where. A document that cannot be written is skipped, with the reason.

        Raises:
            NotFoundError: no such collection in this namespace.
        """

        def look_up() -> Record:
            with self.database.read(self.scope) as tx:
                return tx.get("collection", target)

        record = await asyncio.to_thread(look_up)
        rows = await self._rows(record, hits)
        return await asyncio.to_thread(self._write, record, rows)

    async def _rows(self, record: Record, hits: Sequence[Hit]) -> list[dict[str, Any]]:
        names = [index.name for index in stored_vectors(record.body)]
        by_collection: dict[str, list[str]] = {}
        for hit in hits:
            if hit.collection_id:
                by_collection.setdefault(hit.collection_id, []).append(hit.document_id)
        vectors: dict[tuple[str, str], dict[str, Any]] = {}
        for collection_id, ids in by_collection.items() if names else ():
            found, _ = await self.searcher.get(collection_id, ids, names)
            vectors |= {(collection_id, hit.document_id): dict(hit.vectors) for hit in found}
        return [self._row(record, hit, vectors.get((hit.collection_id, hit.document_id), {})) for hit in hits]

    def _row(self, record: Record, hit: Hit, vectors: dict[str, Any]) -> dict[str, Any]:
        payload = {name: value for name, value in hit.payload.items() if not is_system_key(name)}
        row: dict[str, Any] = {
            "document_id": derived_id(record.id, hit),
            "payload": payload,
            "vectors": {name: shown(vector) for name, vector in vectors.items()},
            "source_document_id": hit.document_id,
            "source_collection_id": hit.collection_id,
            "root_object_id": hit.system.get("root_object_id"),
            "source_object_id": hit.system.get("object_id"),
        }
        return {name: value for name, value in row.items() if value}

    def _write(self, record: Record, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        changes: list[Change] = []
        skipped: list[dict[str, Any]] = []
        for row in rows:
            try:
                changes.append(upsertion(record, row, ("documents", row["document_id"]))[0])
            except MediathecaError as error:
                skipped.append({"document_id": row.get("source_document_id"), "reason": error.message})
        outcomes = self.writer.write(self.scope, self.actor, record, changes)
        for change, outcome in zip(changes, outcomes, strict=True):
            if outcome.error is not None:
                skipped.append({"document_id": change.document_id, "reason": outcome.error.message})
        written = sum(outcome.error is None for outcome in outcomes)
        return {
            "collection_id": record.id,
            "documents_written": written,
            "documents_skipped": len(skipped),
            "skipped": skipped[:20],
        }
