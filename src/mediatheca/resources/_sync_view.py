"""Syncs, their runs and their failures as callers read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from mediatheca.flows.syncs.state import STATS, going, stale_after
from mediatheca.jobs.schedule import next_due
from mediatheca.kernel import clock
from mediatheca.stores.db.tx import ReadTx, Record, Row

_CONFIGURED = (
    "connection_id", "source_path", "file_filters", "schema_mapping", "sync_mode", "polling_interval_seconds",
    "batch_size", "skip_duplicates", "skip_batch_submission", "batch_collection_ids", "reconcile", "sync_from",
    "provider_filters", "metadata", "description", "max_objects_per_run", "batch_chunk_size", "sync_concurrency",
)  # fmt: skip
_KEPT = (
    "status", "paused", "pause_reason", "paused_at", "paused_by_user_id", "locked_at", "pending_full_sync",
    "last_sync_at", "last_error", "consecutive_failures", "batch_ids", "batches_created",
)  # fmt: skip
_FILES = (
    ("total_objects_synced", ("created", "updated")), ("total_objects_verified", ("verified",)),
    ("total_objects_failed", ("failed",)), ("total_objects_discovered", ("discovered",)),
    ("total_objects_skipped", ("skipped", "duplicates")), ("total_bytes_synced", ("bytes",)),
)  # fmt: skip
STALLED_S = 300


def sync_views(tx: ReadTx, syncs: Sequence[Record]) -> list[dict[str, Any]]:
    """What callers read of syncs."""
    due = next_due(tx, [sync.id for sync in syncs])
    return [_view(tx, sync, due.get(sync.id)) for sync in syncs]


def _view(tx: ReadTx, sync: Record, due: datetime | None) -> dict[str, Any]:
    body, totals = sync.body, sync.body["totals"]
    job = going(tx, sync) if body["current_job_id"] else None
    return {
        "sync_config_id": sync.id,
        "sync_id": sync.id,
        "bucket_id": sync.parent,
        "namespace_id": sync.namespace_id,
        "internal_id": tx.scope.organization_id,
        "created_by_user_id": body["created_by"],
        **{name: body[name] for name in (*_CONFIGURED, *_KEPT)},
        "source_type": body["provider_type"],
        "provider": body["provider_type"],
        "is_active": not body["paused"],
        "locked": job is not None,
        "current_sync_run_id": None if job is None else job["sync_job_id"],
        "sync_progress": None if job is None else progress(job),
        "sync_run_counter": body["run_counter"],
        "next_sync_at": due,
        "total_files_discovered": totals.get("discovered", 0),
        "total_files_synced": totals.get("created", 0) + totals.get("updated", 0),
        "total_files_failed": totals.get("failed", 0),
        "total_bytes_synced": totals.get("bytes", 0),
        "stats": _stats(body),
        "create_object_on_confirm": True,
        "resume_enabled": True,
        "max_batch_chunk_size": 1000,
        "created_at": sync.created_at,
        "updated_at": sync.updated_at,
    }


def _stats(body: Mapping[str, Any]) -> dict[str, Any]:
    totals, last = body["totals"], body["last_run"] or {}
    found: dict[str, Any] = {name: sum(totals.get(part, 0) for part in parts) for name, parts in _FILES}
    found |= {name.replace("total", "last_run"): sum(last.get(part, 0) for part in parts) for name, parts in _FILES}
    took, taken = last.get("seconds", 0.0), last.get("created", 0) + last.get("updated", 0)
    return found | {
        "total_duration_seconds": totals.get("seconds", 0.0),
        "total_runs_completed": body["runs_completed"],
        "total_runs_failed": body["runs_failed"],
        "total_objects_deleted": totals.get("deleted", 0),
        "total_objects_missing": totals.get("missing", 0),
        "peak_objects_per_min": totals.get("peak_per_min", 0.0),
        "last_run_duration_seconds": took,
        "last_run_throughput_objects_per_min": 60 * taken / took if took else 0.0,
        "last_run_throughput_mbps": last.get("bytes", 0) * 8e-6 / took if took else 0.0,
        "last_run_avg_object_size_bytes": last.get("bytes", 0) // taken if taken else 0,
        "last_run_at": last.get("at"),
    }


def progress(job: Row) -> dict[str, Any]:
    """How far a run has come."""
    return {"phase": job["body"]["phase"], **{name: job["body"][name] for name in STATS}}


def job_view(job: Row, scope_ids: tuple[str, str]) -> dict[str, Any]:
    """A run. `scope_ids`: organization and namespace."""
    body, now = job["body"], clock.now()
    over = job["status"] != "running"
    until = job["completed_at"] or now
    took = (until - job["created_at"]).total_seconds()
    synced = body["created"] + body["updated"]
    settled = over and job["status"] == "completed"
    return {
        "sync_job_id": job["sync_job_id"],
        "job_id": job["sync_job_id"],
        "task_id": job["task_id"],
        "sync_config_id": job["sync_id"],
        "bucket_id": job["bucket_id"],
        "internal_id": scope_ids[0],
        "namespace_id": scope_ids[1],
        "status": job["status"],
        "trigger": body["trigger"],
        "full_sync": bool(body.get("full")),
        "phase": body["phase"],
        "total_files": body["discovered"] if settled else None,
        "files_synced": synced,
        "files_failed": body["failed"],
        "files_verified": body["verified"],
        "started_at": body.get("started_at"),
        "created_at": job["created_at"],
        "completed_at": job["completed_at"],
        "updated_at": job["updated_at"],
        "error": body.get("error"),
        "resumed_via": body.get("resumed_via"),
        "metadata": _noted(body),
        "progress_percent": 100.0 if settled else None,
        "throughput_files_per_min": 60 * synced / took if took > 0 else 0.0,
        "lag_seconds": None if over else max(0, int((now - job["updated_at"]).total_seconds())),
        "current_cursor": body["after"] or body["cursor"],
        "batch_ids": body["batch_ids"],
        "progress": progress(job),
    }


def _noted(body: Mapping[str, Any]) -> dict[str, Any]:
    names = ("reason", "capped", "running")
    told = {name: body[name] for name in names if isinstance(body.get(name), str | bool)}
    return {"source_path": body["source_path"], **told}


def failure_view(row: Row, sync: Record, organization_id: str) -> dict[str, Any]:
    """A file that could not be taken."""
    return {
        "dlq_id": row["dlq_id"],
        "sync_config_id": sync.id,
        "sync_job_id": row["sync_job_id"],
        "source_object_id": row["source_key"],
        "source_path": row["source_key"],
        "error_type": row["error_type"],
        "error_message": row["error_message"],
        "first_seen_at": row["created_at"],
        "last_seen_at": row["last_seen_at"],
        "last_reattempt_at": row["last_reattempt_at"],
        "retry_count": row["retry_count"],
        "max_retries_reached": row["exhausted"],
        "requeued_at": row["requeued_at"],
        "resolved_at": row["resolved_at"],
        "disposal_reason": row["disposal_reason"],
        "internal_id": organization_id,
        "namespace_id": sync.namespace_id,
        "bucket_id": sync.parent,
    }


def metrics_view(tx: ReadTx, sync: Record) -> dict[str, Any]:
    """Whether a sync works, and how well."""
    body, now, shown = sync.body, clock.now(), sync_views(tx, [sync])[0]
    open_rows = {"sync_id": sync.id, "resolved_at": None, "exhausted": True}
    kinds = {row["error_type"]: row["count"] for row in tx.sums("sync_failures", open_rows, (), by=("error_type",))}
    jobs = tx.rows("sync_jobs", {"sync_id": sync.id}, order=("-sync_job_id",), limit=1)
    last_sync = datetime.fromisoformat(body["last_sync_at"]) if body["last_sync_at"] else None
    age = None if last_sync is None else int((now - last_sync).total_seconds())
    limit = stale_after(sync).total_seconds()
    stale = body["sync_mode"] == "continuous" and not body["paused"] and age is not None and age > limit
    job = going(tx, sync) if body["current_job_id"] else None
    silent = 0.0 if job is None else (now - job["updated_at"]).total_seconds()
    stalled = silent > max(limit, STALLED_S)
    discovered = shown["total_files_discovered"]
    copied = ("sync_config_id", "status", "is_active", "paused", "batches_created", "sync_run_counter", "last_error",
              "consecutive_failures", "last_sync_at", "next_sync_at")  # fmt: skip
    return {
        **{name: shown[name] for name in copied},
        **{name: shown[name] for name in ("total_files_discovered", "total_files_synced", "total_files_failed")},
        "stats": shown["stats"],
        "seconds_since_last_sync": age,
        "is_stale": stale,
        "intervals_since_last_sync": None if age is None else age / body["polling_interval_seconds"],
        "stale_after_seconds": int(limit),
        "failure_rate": shown["total_files_failed"] / discovered if discovered else 0.0,
        "healthy": not (body["paused"] or body["consecutive_failures"] or stale or stalled),
        "dlq_total": sum(kinds.values()),
        "dlq_by_error": kinds,
        "running_job": job is not None,
        "stalled": stalled,
        "stalled_reason": f"nothing was written down for {int(silent)} seconds" if stalled else None,
        "last_job": _summary(jobs[0]) if jobs else None,
    }


def _summary(job: Row) -> dict[str, Any]:
    view = job_view(job, ("", ""))
    until = job["completed_at"] or clock.now()
    names = ("sync_job_id", "status", "files_synced", "files_failed", "throughput_files_per_min")
    return {
        **{name: view[name] for name in names},
        "duration_seconds": (until - job["created_at"]).total_seconds(),
        "completed_at": None if job["completed_at"] is None else clock.wire_time(job["completed_at"]),
    }
