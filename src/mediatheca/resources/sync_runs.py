"""What syncs do: runs, how well they go, and the files they could not take."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response
from pydantic import Field

from mediatheca.api.deps import Read, Write, Writer, answer
from mediatheca.api.lists import Listed, listed
from mediatheca.flows.outside.connections import load_connection
from mediatheca.flows.syncs.failures import mark_failed, requeue
from mediatheca.flows.syncs.state import begin, interrupt
from mediatheca.kernel.errors import ConflictError, NotFoundError, ValidationError
from mediatheca.resources._sync_view import failure_view, job_view, metrics_view, sync_views
from mediatheca.resources.base import Spec, notes_on
from mediatheca.resources.syncs import ONE, find, held
from mediatheca.stores.db.listing import ListQuery
from mediatheca.stores.db.tx import ReadTx

router = APIRouter(tags=["syncs"])
STATUSES = ("running", "completed", "failed", "interrupted", "skipped")
MAX_LISTED = 1000
Types = Annotated[list[Annotated[str, Field(max_length=64)]], Field(min_length=1, max_length=100)]


class ErrorTypes(Spec):
    """Failures by their kind; none: all of them."""

    error_types: Types | None = None


class MarkSpec(Spec):
    error_types: Types


class FailuresSpec(ErrorTypes):
    only_max_retries: bool | None = None
    limit: int = Field(100, ge=1, le=MAX_LISTED)
    offset: int = Field(0, ge=0, le=10_000)


def _scope(tx: ReadTx) -> tuple[str, str]:
    return tx.scope.organization_id, tx.scope.namespace_id


# ---- runs


@router.post(f"{ONE}/trigger", operation_id="trigger_sync_configuration_buckets_id_config", response_model=None)
def trigger(
    bucket_id: str, sync_config_id: str, tx: Write, caller: Writer, full_sync: Annotated[bool, Query()] = False
) -> Response:
    """Begin a run. `full_sync` looks at every file again, also at those that `sync_from` leaves out; objects that were
    deleted in the bucket come back. While a run goes on this one is skipped; a full one follows it."""
    sync = held(tx, bucket_id, sync_config_id)
    if sync.body["paused"]:
        raise ConflictError(f"sync '{sync.id}' is paused; POST …/resume first")
    load_connection(tx.within(""), caller.services.vault, sync.body["connection_id"])
    job = begin(tx, sync, "manual", full=full_sync)
    started = job["status"] == "running"
    following = "; a full run follows it" if full_sync else ""
    message = "the run has begun" if started else f"a run goes on already, this one was skipped{following}"
    return answer({**job_view(job, _scope(tx)), "success": True, "message": message})


@router.post(f"{ONE}/unlock", operation_id="force_unlock_sync_configuration_buckets_id_config", response_model=None)
def unlock(bucket_id: str, sync_config_id: str, tx: Write) -> Response:
    """Stop the run that goes on, and let others begin. What it has taken stays."""
    sync = held(tx, bucket_id, sync_config_id)
    was = sync.body["current_job_id"]
    if was:
        sync = interrupt(tx, sync, "it was unlocked by hand")
    message = "the run was interrupted" if was else "it was not locked"
    told = {"success": True, "unlocked": bool(was), "interrupted_job_id": was, "message": message}
    return answer({**sync_views(tx, [sync])[0], **told})


@router.post(f"{ONE}/jobs", operation_id="list_sync_jobs_buckets_id_config", response_model=None)
def list_jobs(
    bucket_id: str, sync_config_id: str, query: Listed, tx: Read, body: dict[str, Any] | None = None
) -> Response:
    """Runs, newest first; `status` narrows the list."""
    sync = find(tx, bucket_id, sync_config_id)
    where: dict[str, Any] = {"sync_id": sync.id}
    status = (body or {}).get("status")
    if status is not None and status not in STATUSES:
        message = f"must be one of {', '.join(STATUSES)}"
        raise ValidationError.at(("body", "status"), message, "enum")
    page = tx.page("sync_jobs", where | ({"status": status} if status else {}), query)
    return answer(listed(page, [job_view(row, _scope(tx)) for row in page.rows]))


@router.get(f"{ONE}/jobs/{{sync_job_id}}", operation_id="get_sync_job_buckets_id_config", response_model=None)
def get_job(bucket_id: str, sync_config_id: str, sync_job_id: str, tx: Read) -> Response:
    sync = find(tx, bucket_id, sync_config_id)
    row = tx.row("sync_jobs", {"sync_id": sync.id, "sync_job_id": sync_job_id})
    if row is None:
        raise NotFoundError("sync job", sync_job_id)
    return answer(job_view(row, _scope(tx)))


@router.get(f"{ONE}/metrics", operation_id="get_sync_metrics_buckets_id_config", response_model=None)
def metrics(bucket_id: str, sync_config_id: str, tx: Read) -> Response:
    """Whether a sync works, and how well."""
    return answer(metrics_view(tx, find(tx, bucket_id, sync_config_id)))


# ---- files that could not be taken


@router.post(f"{ONE}/dlq", operation_id="list_dlq_entries_buckets_id_syncs_config", response_model=None)
def list_failures(
    bucket_id: str, sync_config_id: str, tx: Read, asked: Annotated[FailuresSpec | None, Body()] = None
) -> Response:
    """Files that could not be taken, those that were in the end too (`resolved_at`), newest first."""
    sync, asked = find(tx, bucket_id, sync_config_id), asked or FailuresSpec()
    where: dict[str, Any] = {"sync_id": sync.id}
    where |= {"exhausted": True, "resolved_at": None} if asked.only_max_retries else {}
    where |= {"error_type": asked.error_types} if asked.error_types else {}
    page = tx.page("sync_failures", where, ListQuery(asked.limit, asked.offset))
    shown = [failure_view(row, sync, tx.scope.organization_id) for row in page.rows]
    return answer({"results": shown, "total": page.total, "offset": page.offset, "limit": page.limit})


@router.post(f"{ONE}/dlq/requeue", operation_id="requeue_dlq_entries_buckets_id_syncs_config", response_model=None)
def requeue_failures(
    bucket_id: str, sync_config_id: str, tx: Write, caller: Writer, asked: Annotated[ErrorTypes | None, Body()] = None
) -> Response:
    """Let the next run try them again."""
    asked = asked or ErrorTypes()
    notes = notes_on(caller, asked)
    sync = held(tx, bucket_id, sync_config_id)
    return answer({"requeued": requeue(tx, sync.id, asked.error_types)} | notes)


@router.post(
    f"{ONE}/dlq/bulk-mark-failed",
    operation_id="bulk_mark_dlq_permanently_failed_buckets_id_syncs_config",
    response_model=None,
)
def mark_failures(bucket_id: str, sync_config_id: str, asked: MarkSpec, tx: Write, caller: Writer) -> Response:
    """Never try them again, unless they change or are put back."""
    notes = notes_on(caller, asked)
    sync = held(tx, bucket_id, sync_config_id)
    return answer({"updated": mark_failed(tx, sync.id, asked.error_types)} | notes)
