"""Batches: which objects go to which collections, in which tiers; submitting and cancelling them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mediatheca.flows.ingest.graph import edges, enabled, layered, tiers_from
from mediatheca.flows.ingest.tiers import add_parts, end_unfinished
from mediatheca.kernel import clock
from mediatheca.kernel.errors import BadRequestError, ConflictError, NotFoundError, ValidationError
from mediatheca.kernel.ids import new_id, new_uuid
from mediatheca.stores.db.tx import ReadTx, Record, Row, Tx

OPEN = ("QUEUED", "PROCESSING")
ENDED = ("COMPLETED", "COMPLETED_WITH_ERRORS", "FAILED", "CANCELED")
MAX_OBJECTS = 50_000
BATCH_TASK = "api_buckets_batches_process"
TIER_TASK = "engine_object_processing"
BUCKET, COLLECTION = "BUCKET", "COLLECTION"
"""What the objects of a batch were taken from."""


def create_batch(tx: Tx, bucket_id: str, object_ids: Sequence[str], **options: Any) -> Row:
    """A DRAFT batch. With the option `type: COLLECTION` the ids are units of the documents of collections, and are not
    looked up in the bucket.

    Raises:
        NotFoundError: some objects do not exist in the bucket; all are named.
    """
    wanted = list(dict.fromkeys(object_ids))
    if options.get("type") != COLLECTION:
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


def check_objects(tx: ReadTx, bucket_id: str | Sequence[str], wanted: Sequence[str]) -> None:
    """Raises NotFoundError naming every id that is no object of the bucket, or of one of the buckets."""
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


def submit_batch(
    tx: Tx, batch: Row, chunk_size: int, collection_ids: Sequence[str] | None = None, from_tier: int = 0
) -> Row:
    """Queue a DRAFT batch: tasks, chunks and jobs, in the caller's transaction. Submitting again gives the same task.

    `from_tier`: the tiers before it are not run again; what they made is taken as it is.

    Raises:
        BadRequestError: it has no objects.
        ConflictError: it was canceled.
        NotFoundError: a collection is unknown or not fed by this bucket.
        ValidationError: there is no such tier.
    """
    if batch["status"] == "CANCELED":
        raise ConflictError(f"batch '{batch['batch_id']}' was canceled; create a new one")
    if batch["status"] != "DRAFT":
        return batch
    where = {"batch_id": batch["batch_id"]}
    objects = tx.column("batch_objects", "object_id", where, order=("object_id",))
    if not objects:
        raise BadRequestError(f"batch '{batch['batch_id']}' has no objects; add some before submitting it")
    layers = tiers_for(tx, batch, collection_ids)
    if from_tier and from_tier >= len(layers):
        raise ValidationError.at("from_tier", f"must be below {len(layers)}, the number of tiers, got {from_tier}")
    task_id = add_task(tx, BATCH_TASK, {"batch_id": batch["batch_id"]})
    tiers = [[record.id for record in layer] for layer in layers]
    body = {**batch["body"], "collection_ids": [ident for tier in tiers for ident in tier], "dag_tiers": tiers}
    body |= {"dag_edges": edges(layers), "tier_tasks": _tier_tasks(tx, batch, task_id, tiers), "from_tier": from_tier}
    if not layers:
        body["warnings"] = ["no enabled collection has this bucket as its source: nothing was processed"]
    values = {"status": "QUEUED", "task_id": task_id, "body": body, "updated_at": clock.now()}
    tx.update("batches", where, {**values, "current_tier": from_tier})
    numbered = [[(number, record) for record in layer] for number, layer in enumerate(layers)]
    add_parts(tx, batch["batch_id"], numbered[from_tier:], objects, chunk_size)
    tx.emit("batch.queued", batch["batch_id"], {"task_id": task_id})
    return get_batch(tx, batch["batch_id"])


def tiers_for(tx: ReadTx, batch: Row, collection_ids: Sequence[str] | None = None) -> list[list[Record]]:
    """The collections that a batch goes to, in tiers; of those that were named for it, or of all its bucket reaches.

    Raises:
        NotFoundError: a collection is unknown, or not reached.
    """
    chosen = collection_ids or batch["body"].get("collection_ids")
    if batch["body"].get("type") != COLLECTION:
        return tiers_from(tx, batch["bucket_id"], chosen)
    return layered([record for ident in chosen or () if enabled(record := tx.get("collection", ident))])


def _tier_tasks(tx: Tx, batch: Row, task_id: str, tiers: Sequence[Sequence[str]]) -> list[str]:
    """A task for each tier; where there is one tier only, the batch's own."""
    if len(tiers) < 2:
        return [task_id] * len(tiers)
    inputs = [{"batch_id": batch["batch_id"], "tier_num": number} for number in range(len(tiers))]
    return [add_task(tx, TIER_TASK, {**given, "parent_task_id": task_id}) for given in inputs]


def cancel_batch(tx: Tx, batch: Row, reason: str) -> Row:
    """Stop a batch: waiting chunks never run, running ones write nothing more. Written documents stay."""
    if batch["status"] in ENDED:
        return batch
    tx.cancel_jobs(batch["batch_id"])
    end_unfinished(tx, {"batch_id": batch["batch_id"]}, "CANCELED", reason)
    end_batch(tx, batch, "CANCELED", {"cancel_reason": reason})
    return get_batch(tx, batch["batch_id"])


def end_batch(tx: Tx, batch: Row, status: str, extra: dict[str, Any]) -> None:
    """Give a batch and its tasks their final state, and say so."""
    moment = clock.now()
    values = {"status": status, "body": {**batch["body"], **extra}, "updated_at": moment, "completed_at": moment}
    tx.update("batches", {"batch_id": batch["batch_id"]}, values)
    if batch["task_id"]:
        change_task(tx, batch["task_id"], status, extra)
        others = [ident for ident in batch["body"].get("tier_tasks", ()) if ident != batch["task_id"]]
        if others and status == "CANCELED":
            where = {"task_id": others, "status": ["QUEUED", "PROCESSING"]}
            tx.update("tasks", where, {"status": status, "updated_at": moment})
    name = {"FAILED": "batch.failed", "CANCELED": "batch.canceled"}.get(status, "batch.completed")
    tx.emit(name, batch["batch_id"], {"status": status, "bucket_id": batch["bucket_id"], **extra})


def add_task(tx: Tx, task_type: str, inputs: dict[str, Any], status: str = "QUEUED") -> str:
    """A task a caller can poll."""
    moment, task_id = clock.now(), new_uuid()
    row = {"task_id": task_id, "task_type": task_type, "status": status, "inputs": [inputs], "outputs": []}
    tx.insert("tasks", [{**row, "additional_data": inputs, "created_at": moment, "updated_at": moment}])
    return task_id


def change_task(tx: Tx, task_id: str, status: str, outputs: dict[str, Any]) -> None:
    values = {"status": status, "updated_at": clock.now()} | ({"outputs": [outputs]} if outputs else {})
    tx.update("tasks", {"task_id": task_id}, values)
