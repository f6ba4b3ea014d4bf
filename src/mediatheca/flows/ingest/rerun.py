"""Running batches again or in bulk: resubmit, submit a whole bucket, undo what a batch wrote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mediatheca.flows.ingest.plan import ENDED, create_batch, get_batch, submit_batch
from mediatheca.flows.removal import cuts
from mediatheca.flows.services import Services
from mediatheca.flows.tables import bury
from mediatheca.kernel import clock
from mediatheca.kernel.errors import ConflictError, MediathecaError
from mediatheca.kernel.ids import new_id
from mediatheca.stores.db.tx import Row, Tx

_OUTCOME = (
    "documents_written", "failed_object_count", "error_summary", "cancel_reason", "warnings", "dag_tiers", "dag_edges",
    "tier_tasks", "from_tier", "indexed_collections", "unaccounted_object_count",
)  # fmt: skip
"""What the last run left in the body of a batch."""


def need_ended(batch: Row, verb: str) -> None:
    """Raises ConflictError: it is a draft or still runs."""
    if batch["status"] not in ENDED:
        raise ConflictError(f"batch '{batch['batch_id']}' is {batch['status']}; {verb} when it has ended")


def reset_batch(tx: Tx, batch: Row) -> Row:
    """Make an ended batch a DRAFT again, with the same objects; documents stay. Its failures are forgotten.

    Raises:
        ConflictError: it is a draft or still runs.
    """
    need_ended(batch, "resubmit it")
    where = {"batch_id": batch["batch_id"]}
    for table in ("chunks", "failed_items"):
        tx.delete(table, where)
    body = {key: value for key, value in batch["body"].items() if key not in _OUTCOME}
    values = {"status": "DRAFT", "task_id": None, "body": body, "current_tier": 0, "updated_at": clock.now()}
    tx.update("batches", where, {**values, "started_at": None, "completed_at": None})
    tx.emit("batch.reset", batch["batch_id"], {"was": batch["status"]})
    return get_batch(tx, batch["batch_id"])


def submit_in_bulk(
    tx: Tx, bucket_id: str, object_ids: Sequence[str], per_batch: int, chunk_size: int, **options: Any
) -> tuple[str, list[Row]]:
    """One submitted batch for every `per_batch` objects. Gives the id of the group, and the batches.

    Raises:
        NotFoundError: a collection is unknown or not fed by this bucket; nothing is submitted.
    """
    group, batches = new_id("bgrp"), []
    for start in range(0, len(object_ids), per_batch):
        cut = object_ids[start : start + per_batch]
        batch = create_batch(tx, bucket_id, cut, batch_group_id=group, **options)
        batches.append(submit_batch(tx, batch, chunk_size))
    return group, batches


def submit_drafts(tx: Tx, bucket_id: str, chunk_size: int) -> list[dict[str, Any]]:
    """Submit every DRAFT batch of a bucket, oldest first; one that cannot be submitted says why and stays a draft."""
    found = []
    for batch in tx.rows("batches", {"bucket_id": bucket_id, "status": "DRAFT"}, order=("batch_id",)):
        try:
            done = submit_batch(tx, batch, chunk_size)
            found.append({"batch_id": done["batch_id"], "status": done["status"], "task_id": done["task_id"]})
        except MediathecaError as error:
            found.append({"batch_id": batch["batch_id"], "status": "DRAFT", "error": error.message})
    return found


def delete_documents(tx: Tx, services: Services, batch: Row) -> dict[str, int]:
    """Delete the documents of the objects that this batch was the last to process, by collection; gone at once.

    Raises:
        ConflictError: it is a draft or still runs.
    """
    need_ended(batch, "delete its documents")
    by_collection: dict[str, list[Row]] = {}
    for row in tx.rows("derivations", {"batch_id": batch["batch_id"]}, order=("object_id",)):
        by_collection.setdefault(row["collection_id"], []).append(row)
    for collection_id, rows in by_collection.items():
        _bury(tx, services, collection_id, [row["object_id"] for row in rows])
    deleted = {collection: sum(row["documents"] for row in rows) for collection, rows in by_collection.items()}
    tx.emit("batch.documents_deleted", batch["batch_id"], {"deleted": deleted})
    return deleted


def _bury(tx: Tx, services: Services, collection_id: str, object_ids: list[str]) -> None:
    for cut in cuts(object_ids):
        tx.delete("derivations", {"collection_id": collection_id, "object_id": cut})
        bury(tx, collection_id, "object", list(cut))
    scope = tx.scope
    tx.after(lambda: services.indexer.object_deleted(scope, [collection_id], object_ids))
