"""Removing objects: with their blobs, their files and every document made from them; or hiding them from searches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from mediatheca.flows.ingest.graph import below, reads_bucket
from mediatheca.flows.tables import bury
from mediatheca.kernel import clock
from mediatheca.stores.db.tx import ReadTx, Row, Tx

if TYPE_CHECKING:  # services are made of what looks uploads up, and those of this
    from mediatheca.flows.services import Services

_CHUNK = 500


def cuts(keys: Sequence[str]) -> Iterable[Sequence[str]]:
    """Keys in pieces that fit into one statement."""
    return (keys[start : start + _CHUNK] for start in range(0, len(keys), _CHUNK))


def fed_by(tx: ReadTx, bucket_id: str) -> list[str]:
    """Ids of the collections that may hold documents of a bucket's objects, directly or through other collections."""
    everything = tx.resources("collection")
    first = [record.id for record in everything if reads_bucket(record, bucket_id)]
    return sorted({*first, *(record.id for record in below(everything, first, disabled=True))})


def delete_objects(tx: Tx, services: Services, bucket_id: str, object_ids: Sequence[str]) -> list[str]:
    """Delete objects with blobs, files and derived documents; gone for every reader once the transaction commits.

    Returns the ids that existed.
    """
    existing: list[str] = []
    for cut in cuts(object_ids):
        where = {"bucket_id": bucket_id, "object_id": cut}
        rows = tx.rows("objects", where, columns=("object_id",), order=("object_id",), hold="update")
        ids = [row["object_id"] for row in rows]
        if not ids:
            continue
        hide_documents(tx, services, bucket_id, ids)
        blobs = tx.rows("blobs", {"object_id": ids}, columns=("store_key",))
        tx.delete("blobs", {"object_id": ids})
        release_files(tx, services, blobs)
        tx.delete("objects", {"object_id": ids})
        tx.emit_many("object.deleted", [(object_id, {"bucket_id": bucket_id}) for object_id in ids])
        existing += ids
    return existing


def hide_documents(tx: Tx, services: Services, bucket_id: str, object_ids: Sequence[str]) -> list[str]:
    """Bury the documents of these objects. Returns the collections that may have held some."""
    derived = {
        row["collection_id"] for row in tx.sums("derivations", {"object_id": object_ids}, (), by=("collection_id",))
    }
    collections = sorted(derived | set(fed_by(tx, bucket_id)))
    tx.delete("derivations", {"object_id": object_ids})
    for collection_id in collections:
        bury(tx, collection_id, "object", list(object_ids))
    if collections:
        scope, ids = tx.scope, list(object_ids)
        tx.after(lambda: services.indexer.object_deleted(scope, collections, ids))
    return collections


def release_files(tx: Tx, services: Services, blobs: Sequence[Row]) -> None:
    """After the commit, delete the files of removed blob rows that no row refers to any more."""
    keys = sorted({blob["store_key"] for blob in blobs if blob["store_key"]})
    for cut in cuts(keys):
        used = {row["store_key"] for row in tx.rows("blobs", {"store_key": cut}, columns=("store_key",))}
        for key in set(cut) - used:
            tx.after(lambda key=key: services.blobs.delete(key))  # type: ignore[misc]


def switch_off(tx: Tx, services: Services, bucket_id: str, object_ids: Sequence[str], event: Row) -> tuple[int, int]:
    """Keep the objects but hide them: their documents leave every search. Returns (objects, collections)."""
    count, collections = 0, 0
    for cut in cuts(list(dict.fromkeys(object_ids))):
        where = {"bucket_id": bucket_id, "object_id": cut}
        rows = tx.rows("objects", where, columns=("object_id", "status"), order=("object_id",), hold="update")
        ids = [row["object_id"] for row in rows if row["status"] != "DEACTIVATED"]
        if ids:
            values = {"status": "DEACTIVATED", "updated_at": clock.now()}
            tx.update("objects", {"object_id": ids}, values)
            collections = max(collections, len(hide_documents(tx, services, bucket_id, ids)))
            tx.emit_many("object.soft_deleted", [(object_id, event) for object_id in ids])
            count += len(ids)
    return count, collections
