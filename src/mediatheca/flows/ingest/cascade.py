"""Deleting documents together with what was made from them, in every collection below."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from mediatheca.flows.ingest.graph import upstream
from mediatheca.flows.ingest.sources import unit_of
from mediatheca.flows.services import Services
from mediatheca.flows.tables import tombstones
from mediatheca.kernel.scope import Scope
from mediatheca.stores.documents.base import Scan


def delete_with_descendants(
    services: Services, scope: Scope, actor: str, collection_id: str, document_ids: Sequence[str]
) -> dict[str, list[str]]:
    """Delete documents and everything made from them; gone from every read when this returns. Gives the ids that
    existed, by collection.

    Raises:
        NotFoundError: the collection is gone.
    """
    deleted: dict[str, list[str]] = {}
    waiting = [(collection_id, list(document_ids))]
    while waiting:
        source, ids = waiting.pop()
        with services.db.read(scope) as tx:
            dead = tombstones(tx, source)
            committed = tx.count("document_tables", {"collection_id": source}) > 0
            below = [record.id for record in tx.resources("collection") if source in upstream(record)]
        held = services.documents.get(source, ids, tombstones=dead) if committed and below else []
        units = {unit_of(document) for document in held}
        gone = services.writer.delete(scope, actor, source, ids)
        deleted[source] = sorted({*deleted.get(source, ()), *gone})
        for target in below if gone else ():
            made = _made_from(services, scope, target, (source, gone), units)
            if made:
                waiting.append((target, made))
    return deleted


def _made_from(
    services: Services, scope: Scope, target: str, source: tuple[str, Collection[str]], units: Collection[str]
) -> list[str]:
    """The documents of a collection that were made from these. A chunk at work has either written before we look, or
    sees that its sources are gone: both happen under the table's lease."""
    collection_id, gone = source
    with services.leases.acquire(scope, target):
        with services.db.read(scope) as tx:
            table = tx.row("document_tables", {"collection_id": target})
            dead = tombstones(tx, target)
        if table is None or not table["committed_seq"]:
            return []
        found = services.documents.scan(target, Scan(object_ids=sorted(units)), tombstones=dead)
        return [
            document.document_id
            for document in found
            if document.system.get("source_collection_id") == collection_id
            and document.system.get("source_document_id") in gone
        ]
