"""Batches: which objects go to which collections, cut into chunks, one job each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mediatheca.kernel import clock
from mediatheca.kernel.errors import BadRequestError, ConflictError, NotFoundError
from mediatheca.kernel.ids import new_id, new_uuid
from mediatheca.stores.db.tx import ReadTx, Record, Row, Tx

OPEN = ("QUEUED", "PROCESSING")
ENDED = ("COMPLETED", "COMPLETED_WITH_ERRORS", "FAILED", "CANCELED")
MAX_OBJECTS = 50_000


def sourced_from(tx: ReadTx, bucket_id: str) -> list[Record]:
    """The enabled collections fed by a bucket."""
    found = tx.resources("collection")
    return [c for c in found if bucket_id in c.body["source"]["bucket_ids"] and c.body.get("enabled", True)]


def create_batch(tx: Tx, bucket_id: str, object_ids: Sequence[str], **options: Any) -> Row:
    """A DRAFT batch.

    Raises:
        NotFoundError: some objects do not exist in the bucket; all are named.
    """
    wanted = list(dict.fromkeys(object_ids))
    check_objects(tx, bucket_id, wanted)
    moment = clock.now()
    row: Row = {
        "batch_id": new_id("btch"), "bucket_id": bucket_id, "status": "DRAFT", "task_id": None,
        "object_count": len(wanted), "current_tier": 0, "body": {key: v for key, v in options.items() if v is not None},
        "created_at": moment, "updated_at": moment,
    }  # fmt: skip
    tx.insert("batches", [row])
    tx.insert("batch_objects", [{"batch_id": row["batch_id"], "object_id": object_id} for object_id in wanted])
    tx.emit("batch.created", row["batch_id"], {"bucket_id": bucket_id, "object_count": len(wanted)})
    return get_batch(tx, row["batch_id"])


def check_objects(tx: ReadTx, bucket_id: str, wanted: Sequence[str]) -> None:
    """Raises NotFoundError naming every id that is no object of the bucket."""
    known: set[str] = set()
    for start in range(0, len(wanted), 500):
        where = {"bucket_id": bucket_id, "object_id": wanted[start : start + 500]}
        known.update(tx.column("objects", "object_id", where))
    missing = [object_id for object_id in wanted if object_id not in known]
    if missing:
        error = NotFoundError("object", ", ".join(missing[:10]))
        error.details["missing_object_ids"] = missing[:1000]
        raise error


def get_batch(tx: ReadTx, batch_id: str, bucket_id: str | None = None) -> Row:
    """Raises NotFoundError: no such batch (in that bucket)."""
    where = {"batch_id": batch_id} | ({} if bucket_id is None else {"bucket_id": bucket_id})
    row = tx.row("batches", where)
    if row is None:
        raise NotFoundError("batch", batch_id)
    return row


def submit_batch(tx: Tx, batch: Row, chunk_size: int, collection_ids: Sequence[str] | None = None) -> Row:
    """Queue a DRAFT batch: task, chunks and jobs, in the caller's transaction. Submitting again gives the same task.

    Raises:
        BadRequestError: it has no objects.
        ConflictError: it was canceled.
        NotFoundError: a collection is unknown or not fed by this bucket.
    """
    if batch["status"] == "CANCELED":
        raise ConflictError(f"batch '{batch['batch_id']}' was canceled; create a new one")
    if batch["status"] != "DRAFT":
        return batch
    where = {"batch_id": batch["batch_id"]}
    objects = tx.column("batch_objects", "object_id", where, order=("object_id",))
    if not objects:
        raise BadRequestError(f"batch '{batch['batch_id']}' has no objects; add some before submitting it")
    collections = _targets(tx, batch, collection_ids)
    task_id = add_task(tx, "api_buckets_batches_process", {"batch_id": batch["batch_id"]})
    tiers = [[collection.id for collection in collections]]
    body = {**batch["body"], "collection_ids": tiers[0], "dag_tiers": tiers}
    if not collections:
        body["warnings"] = ["no enabled collection has this bucket as its source: nothing was processed"]
    values = {"status": "QUEUED", "task_id": task_id, "body": body, "updated_at": clock.now()}
    tx.update("batches", where, values)
    for collection in collections:
        add_chunks(tx, batch["batch_id"], collection.id, 0, objects, chunk_size)
    tx.emit("batch.queued", batch["batch_id"], {"task_id": task_id})
    return get_batch(tx, batch["batch_id"])


def _targets(tx: ReadTx, batch: Row, collection_ids: Sequence[str] | None) -> list[Record]:
    chosen = collection_ids or batch["body"].get("collection_ids")
    available = sourced_from(tx, batch["bucket_id"])
    if not chosen:
        return available
    by_name = {name: c for c in available for name in (c.id, c.name)}
    for ident in chosen:
        if ident not in by_name:
            raise NotFoundError("collection (enabled, fed by this bucket)", ident)
    return list({by_name[ident].id: by_name[ident] for ident in chosen}.values())


def add_chunks(
    tx: Tx, batch_id: str, collection_id: str, tier: int, object_ids: Sequence[str], size: int, attempt: int = 1
) -> None:
    """Cut objects into chunks and enqueue a job for each."""
    moment = clock.now()
    cuts = [list(object_ids[start : start + size]) for start in range(0, len(object_ids), size)]
    chunks = [
        {"chunk_id": new_uuid(), "batch_id": batch_id, "collection_id": collection_id, "tier": tier}
        | {"status": "PENDING", "object_ids": cut, "updated_at": moment}
        for cut in cuts
    ]
    tx.insert("chunks", chunks)
    jobs = [{"chunk_id": chunk["chunk_id"], "attempt": attempt} for chunk in chunks]
    tx.enqueue_many("ingest.chunk", jobs, group=batch_id)


def cancel_batch(tx: Tx, batch: Row, reason: str) -> Row:
    """Stop a batch: waiting chunks never run, running ones write nothing more. Written documents stay."""
    if batch["status"] in ENDED:
        return batch
    where = {"batch_id": batch["batch_id"]}
    tx.cancel_jobs(batch["batch_id"])
    tx.update(
        "chunks", {**where, "status": ["PENDING", "PROCESSING"]}, {"status": "CANCELED", "updated_at": clock.now()}
    )
    end_batch(tx, batch, "CANCELED", {"cancel_reason": reason})
    return get_batch(tx, batch["batch_id"])


def end_batch(tx: Tx, batch: Row, status: str, extra: dict[str, Any]) -> None:
    """Give a batch and its task their final state, and say so."""
    moment = clock.now()
    values = {"status": status, "body": {**batch["body"], **extra}, "updated_at": moment, "completed_at": moment}
    tx.update("batches", {"batch_id": batch["batch_id"]}, values)
    if batch["task_id"]:
        change_task(tx, batch["task_id"], status, extra)
    name = {"FAILED": "batch.failed", "CANCELED": "batch.canceled"}.get(status, "batch.completed")
    tx.emit(name, batch["batch_id"], {"status": status, "bucket_id": batch["bucket_id"], **extra})


def retry_failed(tx: Tx, batch: Row, chunk_size: int, object_ids: Sequence[str] | None, *, transient_only: bool) -> int:
    """Process the failed objects of an ended batch again; returns how many.

    Raises:
        ConflictError: the batch still runs, or was never submitted.
    """
    if batch["status"] not in ENDED:
        raise ConflictError(f"batch '{batch['batch_id']}' is {batch['status']}; retry when it has ended")
    where: dict[str, Any] = {"batch_id": batch["batch_id"]}
    if object_ids:
        where["object_id"] = list(object_ids)
    if transient_only:
        where["error_type"] = "transient"
    failures = tx.rows("failures", where, columns=("collection_id", "object_id", "attempt"))
    by_collection: dict[str, list[Row]] = {}
    for failure in failures:
        by_collection.setdefault(failure["collection_id"], []).append(failure)
    for collection_id, rows in by_collection.items():
        attempt = 1 + max(row["attempt"] for row in rows)
        ids = sorted(row["object_id"] for row in rows)
        add_chunks(tx, batch["batch_id"], collection_id, 0, ids, chunk_size, attempt)
        tx.delete("failures", {**where, "collection_id": collection_id, "object_id": ids})
    if failures:
        values = {"status": "QUEUED", "completed_at": None, "updated_at": clock.now()}
        tx.update("batches", {"batch_id": batch["batch_id"]}, values)
        change_task(tx, batch["task_id"], "QUEUED", {})
    return len({row["object_id"] for row in failures})


def add_task(tx: Tx, task_type: str, inputs: dict[str, Any], status: str = "QUEUED") -> str:
    """A task a caller can poll."""
    moment, task_id = clock.now(), new_uuid()
    row = {"task_id": task_id, "task_type": task_type, "status": status, "inputs": [inputs], "outputs": []}
    tx.insert("tasks", [{**row, "additional_data": inputs, "created_at": moment, "updated_at": moment}])
    return task_id


def change_task(tx: Tx, task_id: str, status: str, outputs: dict[str, Any]) -> None:
    values = {"status": status, "updated_at": clock.now()} | ({"outputs": [outputs]} if outputs else {})
    tx.update("tasks", {"task_id": task_id}, values)
