"""Processing failed items again: all, some, one; of some tiers. What is made from them follows in the tiers below."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mediatheca.flows.ingest.graph import enabled, followers
from mediatheca.flows.ingest.plan import ENDED, change_task, get_batch
from mediatheca.flows.ingest.tiers import Again, add_parts, take_up
from mediatheca.kernel import clock
from mediatheca.kernel.errors import ConflictError
from mediatheca.stores.db.tx import Cmp, ReadTx, Record, Row, Tx


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which failed items; nothing said: all."""

    object_ids: Sequence[str] | None = None
    document_ids: Sequence[str] | None = None
    """Of the source; for collections that read from collections."""
    collection_ids: Sequence[str] | None = None
    tier_nums: Sequence[int] | None = None
    transient_only: bool = False
    max_attempts: int | None = None
    """Items that were tried more often are left alone."""

    def where(self, batch_id: str) -> dict[str, Any]:
        given = {
            "object_id": self.object_ids, "source_document_id": self.document_ids,
            "collection_id": self.collection_ids, "tier": self.tier_nums,
        }  # fmt: skip
        found: dict[str, Any] = {"batch_id": batch_id, "outcome": "failed", "retried_at": None}
        found |= {name: list(values) for name, values in given.items() if values is not None}
        if self.transient_only:
            found["error_type"] = "transient"
        if self.max_attempts is not None:
            found["attempt"] = Cmp("<=", self.max_attempts)
        return found


def retry_failed(tx: Tx, batch: Row, chunk_size: int, wanted: Wanted) -> int:
    """Process failed items of an ended batch again; how many objects that concerns.

    Raises:
        ConflictError: the batch still runs, or was never submitted.
    """
    if batch["status"] not in ENDED:
        waiting = ", failed items of it are being tried again" if _waits(tx, batch) else ""
        raise ConflictError(f"batch '{batch['batch_id']}' is {batch['status']}{waiting}; retry when it has ended")
    by_collection: dict[str, list[Row]] = {}
    for row in tx.rows("failed_items", wanted.where(batch["batch_id"]), order=("tier", "object_id")):
        by_collection.setdefault(row["collection_id"], []).append(row)
    objects: set[str] = set()
    concerned: set[str] = set()
    for collection_id, rows in by_collection.items():
        collection = tx.find("collection", collection_id)
        if collection is None or not enabled(collection):
            continue
        whole = {row["object_id"] for row in rows if not row["source_document_id"]}
        for wholly in (True, False):
            items = [row for row in rows if (row["object_id"] in whole) is wholly]
            _again(tx, batch, collection, items, chunk_size, wholly=wholly)
        objects.update(row["object_id"] for row in rows)
        concerned.add(collection_id)
    if objects:
        reopen(tx, batch, concerned)
    return len(objects)


def _waits(tx: ReadTx, batch: Row) -> bool:
    where = {"batch_id": batch["batch_id"], "outcome": "failed", "retried_at": Cmp("!=", None)}
    return tx.count("failed_items", where) > 0


def reopen(tx: Tx, batch: Row, collection_ids: Collection[str]) -> None:
    """An ended batch has work again, in these collections and those made from them."""
    again = {*collection_ids, *followers(batch["body"].get("dag_edges", {}), collection_ids)}
    told = [ident for ident in batch["body"].get("indexed_collections", ()) if ident not in again]
    body = {**batch["body"], "indexed_collections": told}
    values = {"status": "QUEUED", "completed_at": None, "started_at": None, "body": body, "updated_at": clock.now()}
    tx.update("batches", {"batch_id": batch["batch_id"]}, values)
    for task_id in dict.fromkeys([batch["task_id"], *batch["body"].get("tier_tasks", ())]):
        change_task(tx, task_id, "QUEUED", {})


def _again(tx: Tx, batch: Row, collection: Record, items: Sequence[Row], chunk_size: int, *, wholly: bool) -> None:
    """`wholly`: the objects failed as a whole; else only the documents of the source that failed are processed."""
    again = Again.of(items, wholly=wholly)
    layers = layers_below(tx, batch["body"], collection)
    add_parts(tx, batch["batch_id"], layers, sorted(again.failed), chunk_size, again)
    take_up(tx, items)


def layers_below(tx: Tx, body: Mapping[str, Any], collection: Record) -> list[list[tuple[int, Record]]]:
    """A collection of a batch and what the batch makes from its documents, in layers with the numbers of the tiers."""
    wanted = {collection.id, *followers(body.get("dag_edges", {}), [collection.id])}
    found: list[list[tuple[int, Record]]] = []
    for number, tier in enumerate(body.get("dag_tiers", ())):
        records = [tx.find("collection", ident) for ident in tier if ident in wanted]
        layer = [(number, record) for record in records if record is not None and enabled(record)]
        if layer:
            found.append(layer)
    return found


def retry_tier(tx: Tx, batch: Row, tier: int, chunk_size: int) -> int:
    """Run what failed, was canceled or was skipped in a tier once more, and what is made from it; how many objects.

    Raises:
        ConflictError: the batch still runs, or was never submitted.
    """
    wanted = Wanted(tier_nums=[tier])
    whole = {
        (row["collection_id"], row["object_id"])
        for row in tx.rows("failed_items", wanted.where(batch["batch_id"]))
        if not row["source_document_id"]
    }
    count = retry_failed(tx, batch, chunk_size, wanted)
    where = {"batch_id": batch["batch_id"], "tier": tier, "status": ["CANCELED", "SKIPPED"]}
    objects: set[str] = set()
    concerned: set[str] = set()
    for row in tx.rows("chunks", where, order=("part", "chunk_id")):
        collection = tx.find("collection", row["collection_id"])
        if collection is None or not enabled(collection):
            continue
        left = [ident for ident in row["object_ids"] if (collection.id, ident) not in whole]
        if row["document_ids"] is not None or not left:  # it would have tried again what is retried now
            tx.delete("chunks", {"chunk_id": row["chunk_id"]})
            continue
        layers = layers_below(tx, batch["body"], collection)
        _forget(tx, row, [record.id for layer in layers for _, record in layer])
        add_parts(tx, batch["batch_id"], layers, left, chunk_size)
        objects.update(left)
        concerned.add(collection.id)
    if objects:
        reopen(tx, get_batch(tx, batch["batch_id"]), concerned)
    return count + len(objects)


def _forget(tx: Tx, chunk: Row, collection_ids: Sequence[str]) -> None:
    """The chunk that did not run, and those that were to follow it."""
    tx.delete("chunks", {"chunk_id": chunk["chunk_id"]})
    rest = {"batch_id": chunk["batch_id"], "part": chunk["part"], "collection_id": list(collection_ids)}
    tx.delete("chunks", {**rest, "status": ["CANCELED", "SKIPPED"]})
