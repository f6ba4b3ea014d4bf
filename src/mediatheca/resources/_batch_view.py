"""Batches, and the items that gave them no documents, as callers see them."""

from __future__ import annotations

from typing import Any

from mediatheca.flows.follow_up import post_processing
from mediatheca.flows.ingest import outlook
from mediatheca.flows.ingest.errors import Errors, errors_of
from mediatheca.flows.ingest.plan import ENDED
from mediatheca.flows.ingest.progress import health, progress, retries, tier_tasks
from mediatheca.flows.ingest.registry import dropped_counts, partial_objects
from mediatheca.kernel import clock
from mediatheca.stores.db.tx import ReadTx, Row

SHOWN_FAILURES = 100


def batch_view(tx: ReadTx, batch: Row, *, brief: bool = False) -> dict[str, Any]:
    """A batch with live counters; `brief` leaves out the object ids, failures and what follows its documents."""
    where = {"batch_id": batch["batch_id"]}
    counts = progress(tx, batch)
    failed = {**where, "outcome": "failed", "retried_at": None}
    failures = (
        [] if brief or not counts["failed"]
        else tx.rows("failed_items", failed, order=("object_id", "item_id"), limit=SHOWN_FAILURES)
    )  # fmt: skip
    object_ids = [] if brief else tx.column("batch_objects", "object_id", where, order=("object_id",))
    return {
        **_plan(batch),
        "object_ids": object_ids,
        **_outcome(tx, batch, counts),
        "failed_objects": [item_view(row) for row in failures],
        "created_at": batch["created_at"],
        "updated_at": batch["updated_at"],
        "started_at": batch["started_at"],
        "completed_at": batch["completed_at"],
        **({} if brief else _details(tx, batch, counts)),
    }


def _plan(batch: Row) -> dict[str, Any]:
    """What is to be done, and how far it is."""
    body = batch["body"]
    tiers = body.get("dag_tiers", [])
    return {
        "batch_id": batch["batch_id"],
        "bucket_id": batch["bucket_id"],
        "namespace_id": batch["namespace_id"],
        "batch_name": body.get("batch_name"),
        "status": batch["status"],
        "type": body.get("type", "BUCKET"),
        "task_id": batch["task_id"],
        "object_count": batch["object_count"],
        "collection_ids": body.get("collection_ids", []),
        "dedup_strategy": body.get("dedup_strategy", "skip"),
        "effective_dedup_strategy": body.get("dedup_strategy", "skip"),
        "metadata": body.get("metadata"),
        "dag_tiers": tiers,
        "current_tier": batch["current_tier"],
        "total_tiers": max(1, len(tiers)),
    }


def _outcome(tx: ReadTx, batch: Row, counts: dict[str, Any]) -> dict[str, Any]:
    """What came of it so far: counters, what failed and why, what is tried again."""
    body, place = batch["body"], outlook.queue_position(tx, batch)
    errors = errors_of(tx, batch["batch_id"]) if counts["failed"] else Errors()
    lost = batch["status"] in ENDED and counts["lost"]
    return {
        "progress": {**counts, "errors": counts["failed"], "objects_failed": counts["failed"]}
        | {"objects_skipped": counts["filtered"], "documents_written": counts["written"]}
        | {"first_error": errors.first, "extraction_first_error": errors.first_extracting}
        | {"queue_position": place},
        "documents_written": counts["written"],
        "documents_replaced": counts["replaced"],
        "failed_object_count": counts["failed"],
        "error_summary": errors.summary or None,
        "failure_category": errors.failure_category or ("orphaned" if lost else None),
        "lifecycle": outlook.lifecycle(batch, counts),
        "lifecycle_reason": body.get("cancel_reason") or errors.first,
        "documents_resolvable": batch["status"] in ("COMPLETED", "COMPLETED_WITH_ERRORS"),
        "status_message": "; ".join([*body.get("warnings", []), *outlook.waiting_items(counts["retrying"])]) or None,
        "max_node_death_resubmits": 0,
        "max_deploy_resubmits": 0,
        **retries(tx, batch["batch_id"], counts["retried"]),
        "queue_position": place,
    }


def _details(tx: ReadTx, batch: Row, counts: dict[str, Any]) -> dict[str, Any]:
    """What takes more than a look at the counters."""
    state, last = health(tx, batch)
    partial = partial_objects(tx, batch["batch_id"], SHOWN_FAILURES) if counts["dropped"] else []
    dropped = (
        dropped_counts(tx, batch["batch_id"]) if counts["dropped"] else {"pages_dropped": 0, "segments_dropped": 0}
    )
    return {
        "tier_tasks": tier_tasks(tx, batch),
        "estimated_wait_minutes": outlook.estimated_wait_minutes(tx, batch),
        "partial_objects": partial,
        "partial_object_count": len(partial),
        "unaccounted_object_count": counts["lost"] if batch["status"] in ENDED else 0,
        "health": state,
        "last_activity_at": last,
        "post_processing": post_processing(tx, batch["batch_id"]),
        **dropped,
    }


def item_view(row: Row) -> dict[str, Any]:
    """An entry of the list of items that gave no documents."""
    return {
        "object_id": row["object_id"],
        "collection_id": row["collection_id"],
        "phase": row["phase"],
        "error": row["reason"],
        "reason": row["reason"],
        "error_type": row["error_type"],
        "extractor": row["extractor"],
        "attempt": row["attempt"],
        "tier_num": row["tier"],
        "kind": row["kind"],
        "outcome": row["outcome"],
        "what": row["what"] or None,
        "document_id": row["source_document_id"] or None,
        "source_document_id": row["source_document_id"] or None,
        "retried_at": row["retried_at"],
        "timestamp": clock.wire_time(row["created_at"]),
    }
