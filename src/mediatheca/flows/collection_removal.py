"""Deleting a collection: what goes with it, and what becomes of the collections that are made from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mediatheca.flows.ingest.graph import below, upstream
from mediatheca.flows.ingest.tiers import UNFINISHED, end_unfinished, release
from mediatheca.flows.migration.state import KIND as MIGRATION
from mediatheca.kernel import clock
from mediatheca.stores.db.tx import ReadTx, Record, Tx

SOURCE_DELETED = "source_collection_deleted"
_TABLES = ("document_tables", "tombstones", "derivations", "failed_items")


def remove_collection(
    tx: Tx, record: Record, drop_schedule: Callable[[Tx, str], None], *, cascade: bool
) -> dict[str, Any]:
    """Documents, index and open work go with it; the files are removed by a durable job. What is made from it is
    switched off, with the reason, and keeps its documents; with `cascade` it is deleted, too."""
    dependent = below(tx.resources("collection"), [record.id], disabled=True)
    _take_away(tx, record, drop_schedule)
    extra: dict[str, Any] = {"collection_id": record.id}
    if cascade:
        for other in dependent:
            _take_away(tx, other, drop_schedule)
            tx.remove(other)
            tx.emit("collection.deleted", other.id, {"name": other.name, "cause": record.id})
        return extra | {"deleted_collection_ids": [other.id for other in dependent]}
    near = [other for other in dependent if record.id in upstream(other)]
    for other in near:
        _switch_off(tx, other, record)
    return extra | {"disabled_collection_ids": [other.id for other in near]}


def _take_away(tx: Tx, record: Record, drop_schedule: Callable[[Tx, str], None]) -> None:
    where = {"collection_id": record.id}
    _end_chunks(tx, record)
    for table in _TABLES:
        tx.delete(table, where)
    tx.delete("resources", {"kind": MIGRATION, "parent": record.id})
    drop_schedule(tx, record.id)
    tx.enqueue("collection.drop", where, group=record.id)


def _end_chunks(tx: Tx, record: Record) -> None:
    """Its open chunks are canceled, and those that waited for them go on, or have nothing to wait for any more."""
    where = {"collection_id": record.id}
    open_ = tx.rows("chunks", {**where, "status": UNFINISHED}, columns=("batch_id", "part"), order=("batch_id", "part"))
    if not open_:
        return
    end_unfinished(tx, where, "CANCELED", "the collection was deleted")
    for batch_id, part in dict.fromkeys((row["batch_id"], row["part"]) for row in open_):
        batch = tx.row("batches", {"batch_id": batch_id})
        if batch is not None:
            release(tx, batch, part, record.id)


def _switch_off(tx: Tx, record: Record, source: Record) -> None:
    reason = {
        "code": SOURCE_DELETED,
        "message": f"it is made from collection '{source.name}', which was deleted",
        "source_collection_id": source.id,
        "source_collection_name": source.name,
        "disabled_at": clock.wire_time(clock.now()),
    }
    tx.change(record, {**record.body, "enabled": False, "disabled_reason": reason})
    tx.emit("collection.updated", record.id, {"name": record.name, "enabled": False, "disabled_reason": SOURCE_DELETED})


def missing_sources(tx: ReadTx, record: Record) -> list[str]:
    """Collections that it reads from and that are no more."""
    return [ident for ident in upstream(record) if tx.find("collection", ident) is None]
