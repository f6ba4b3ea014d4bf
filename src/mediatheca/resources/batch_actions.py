"""What can be done with batches besides running them once: in bulk, again, looked into, priced, undone."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response
from pydantic import Field

from mediatheca.api.deps import Delete, Deleter, Read, Reader, Write, Writer, answer
from mediatheca.api.lists import Listed, listed
from mediatheca.flows.ingest.plan import ENDED, MAX_OBJECTS, OPEN, get_batch, submit_batch, tiers_for
from mediatheca.flows.ingest.progress import health, progress, tier_tasks
from mediatheca.flows.ingest.rerun import delete_documents, reset_batch, submit_drafts, submit_in_bulk
from mediatheca.flows.removal import cuts
from mediatheca.flows.services import Services
from mediatheca.kernel import clock
from mediatheca.kernel.errors import BadRequestError, NotFoundError
from mediatheca.kernel.filters import parse_filter
from mediatheca.resources._batch_view import batch_view
from mediatheca.resources.base import Spec, notes_on
from mediatheca.stores.db.listing import ListQuery
from mediatheca.stores.db.tx import ReadTx, Row

router = APIRouter(tags=["batches"])
_BATCHES = "/buckets/{bucket}/batches"
_BATCH = _BATCHES + "/{batch_id}"
_SHOWN = 20
_MOST_LINES = 5000
"""Events, and failures, in the log of a batch."""
_IN_TURN = (("status", False), ("updated_at", False), ("batch_id", False))
"""PROCESSING before QUEUED, each by submission."""


class BulkSpec(Spec):
    """Which objects of the bucket, and how they are cut; nothing: all of them, a thousand to a batch."""

    collection_ids: list[str] | None = None
    filters: dict[str, Any] | None = None
    chunk_size: int = Field(1000, ge=1, le=MAX_OBJECTS)
    dedup_strategy: str | None = Field(None, pattern="^(skip|replace|force)$")
    max_objects: int | None = Field(None, ge=1)


def _in(tx: ReadTx, bucket: str, batch_id: str) -> Row:
    return get_batch(tx, batch_id, tx.get("bucket", bucket).id)


@router.get("/batches/queue", operation_id="get_batch_queue", response_model=None)
def queue(query: Listed, tx: Read, caller: Reader) -> Response:
    """A page of the batches of this namespace that run, then of those that wait, in the order of their submission."""
    where = {"status": list(OPEN)}
    sizes = {row["status"]: row["count"] for row in tx.sums("batches", where, (), by=("status",))}
    running, waiting = sizes.get("PROCESSING", 0), sizes.get("QUEUED", 0)
    page = tx.page("batches", where, ListQuery(query.limit, query.offset, query.cursor, sort=_IN_TURN))
    shown = [
        {**batch_view(tx, row, brief=True), "queue_position": max(0, place - running) or None}
        for place, row in enumerate(page.rows, page.offset + 1)
    ]
    jobs = {row["status"]: row["count"] for row in tx.sums("jobs", {"kind": "ingest.chunk"}, (), by=("status",))}
    counts = {"active_count": running, "waiting_count": waiting, "jobs": jobs}
    parts = {
        "active": [batch for batch in shown if batch["status"] == "PROCESSING"],
        "waiting": [batch for batch in shown if batch["status"] == "QUEUED"],
    }
    return answer(listed(page, shown, max_concurrent=caller.services.settings.workers, **counts, **parts))


@router.post(f"{_BATCHES}/bulk-submit", operation_id="bulk_submit_batches", response_model=None)
def bulk_submit(bucket: str, tx: Write, caller: Writer, spec: Annotated[BulkSpec | None, Body()] = None) -> Response:
    """Submit the objects of a bucket as many batches in one transaction: all of them, or none."""
    spec = spec or BulkSpec()
    notes = notes_on(caller, spec)
    bucket_id = tx.get("bucket", bucket).id
    objects = _objects(tx, bucket_id, spec)
    if not objects:
        raise BadRequestError(f"no object of bucket '{bucket_id}' matches; nothing to submit")
    options = {"collection_ids": spec.collection_ids, "dedup_strategy": spec.dedup_strategy}
    group, batches = submit_in_bulk(
        tx, bucket_id, objects, spec.chunk_size, caller.services.settings.chunk_size, **options
    )
    shown = [
        {"batch_id": b["batch_id"], "task_id": b["task_id"], "status": b["status"], "object_count": b["object_count"]}
        for b in batches
    ]
    counts = {"total_objects": len(objects), "total_batches": len(batches), "submitted": len(batches), "failed": 0}
    body = {"batch_group_id": group, **counts, "chunk_size": spec.chunk_size, "batches": shown}
    return answer({**body, **notes})


def _objects(tx: ReadTx, bucket_id: str, spec: BulkSpec) -> list[str]:
    tree, where = parse_filter(spec.filters), {"bucket_id": bucket_id}
    if tree is None:
        rows = tx.rows("objects", where, columns=("object_id",), order=("object_id",), limit=spec.max_objects)
        return [row["object_id"] for row in rows]
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None and len(found) < (spec.max_objects or len(found) + 1):
        page = tx.page("objects", where, ListQuery(1000, cursor=cursor or None, filter=tree, include_total=False))
        found += [row["object_id"] for row in page.rows]
        cursor = page.next_cursor
    return found[: spec.max_objects]


@router.post(f"{_BATCHES}/submit-all", operation_id="submit_all_batches", response_model=None)
def submit_all(bucket: str, tx: Write, caller: Writer) -> Response:
    """Submit every draft of the bucket."""
    results = submit_drafts(tx, tx.get("bucket", bucket).id, caller.services.settings.chunk_size)
    failed = sum("error" in result for result in results)
    counts = {"total_drafts": len(results), "submitted": len(results) - failed, "failed": failed}
    return answer({**counts, "results": results})


@router.post(f"{_BATCH}/resubmit", operation_id="resubmit_batch", response_model=None)
def resubmit(
    bucket: str, batch_id: str, tx: Write, caller: Writer,
    from_tier: Annotated[int, Query(ge=0)] = 0, auto_submit: bool = True, trigger_processing: bool = True,
) -> Response:  # fmt: skip
    """Run an ended batch again with the same objects; `auto_submit=false` leaves it as a draft. `from_tier`: what the
    tiers before it have made is taken as it is."""
    batch = reset_batch(tx, _in(tx, bucket, batch_id))
    if auto_submit and trigger_processing:
        batch = submit_batch(tx, batch, caller.services.settings.chunk_size, from_tier=from_tier)
    return answer({**batch_view(tx, batch), "resubmitted": batch["status"] != "DRAFT"})


@router.post(f"{_BATCH}/estimate-cost", operation_id="estimate_batch_cost", response_model=None)
def estimate(bucket: str, batch_id: str, tx: Read) -> Response:
    """What submitting would process. Nothing is billed here, so the credits are zero."""
    batch = _in(tx, bucket, batch_id)
    tiers = tiers_for(tx, batch)
    collections = [collection for tier in tiers for collection in tier]
    ids = [row["object_id"] for row in tx.rows("batch_objects", {"batch_id": batch_id}, columns=("object_id",))]
    targets = [collection.id for collection in collections]
    done: list[Row] = []
    for cut in cuts(ids):
        done += tx.rows("derivations", {"collection_id": targets, "object_id": cut})
    strategy = batch["body"].get("dedup_strategy", "skip")
    return answer(
        {
            "batch_id": batch_id,
            "collection_ids": targets,
            "dag_tiers": [[collection.id for collection in tier] for tier in tiers],
            "dedup_strategy": strategy,
            "object_count": batch["object_count"],
            "already_extracted_count": len({row["object_id"] for row in done}),
            "documents_to_remove": sum(row["documents"] for row in done) if strategy == "replace" else 0,
            "estimated_credits": 0,
            "estimated_usd": 0.0,
            "estimated_repay_credits": 0,
            "features": [index["feature_uri"] for c in collections for index in c.body["vector_indexes"]],
            "extractors": sorted({c.body["feature_extractor"]["feature_extractor_id"] for c in collections}),
            "warnings": [] if collections else ["no enabled collection has this bucket as its source"],
        }
    )


@router.get(f"{_BATCH}/logs", operation_id="get_batch_logs", response_model=None)
def logs(bucket: str, batch_id: str, tx: Read, tier_num: Annotated[int | None, Query(ge=0)] = None) -> Response:
    """What happened to a batch, oldest first: its events and its failed objects, as lines and as text.

    `truncated`: there is more than is shown; the failed-object list has every failure.
    """
    batch = _in(tx, bucket, batch_id)
    tiers = batch["body"].get("dag_tiers") or [[]]
    if tier_num is not None and tier_num >= len(tiers):
        raise NotFoundError("tier", str(tier_num))
    events = tx.rows("events", {"resource_id": batch_id}, order=("seq",), limit=_MOST_LINES)
    lines = [
        {"timestamp": event["created_at"], "level": "INFO", "message": event["type"], "details": event["payload"]}
        for event in events
    ]
    wanted: dict[str, Any] = {"batch_id": batch_id, "outcome": ["failed", "dropped"]}
    if tier_num is not None:
        wanted["tier"] = tier_num
    failures = tx.rows("failed_items", wanted, order=("created_at", "item_id"), limit=_MOST_LINES)
    for row in failures:
        which = f", document {row['source_document_id']}" if row["source_document_id"] else ""
        which += f", {row['what']} dropped" if row["outcome"] == "dropped" else ""
        where = f"object {row['object_id']}{which}, collection {row['collection_id']}, {row['phase']}"
        details = {"extractor": row["extractor"], "attempt": row["attempt"]}
        level, again = ("ERROR", "") if row["retried_at"] is None else ("WARNING", " (it is tried again)")
        line = {"timestamp": row["created_at"], "level": level, "message": f"{where}: {row['reason']}{again}"}
        lines.append({**line, "details": details})
    truncated = _MOST_LINES in (len(events), len(failures))
    lines.sort(key=lambda line: line["timestamp"])
    text = "\n".join(f"{clock.wire_time(line['timestamp'])} {line['level']} {line['message']}" for line in lines)
    numbers = range(len(tiers)) if tier_num is None else (tier_num,)
    shown = [{"tier_num": n, "collection_ids": tiers[n], "logs": text} for n in numbers]
    body = {"batch_id": batch_id, "status": batch["status"], "truncated": truncated, "lines": lines}
    return answer({**body, "tiers": shown, "logs": text})


@router.get(f"{_BATCH}/diagnose", operation_id="diagnose_batch", response_model=None)
def diagnose(bucket: str, batch_id: str, tx: Read, caller: Reader) -> Response:
    """State, timing, chunks, failures by kind, and what to do about them."""
    batch = _in(tx, bucket, batch_id)
    where = {"batch_id": batch_id}
    counts = progress(tx, batch)
    state, last = health(tx, batch)
    failed = {**where, "outcome": "failed", "retried_at": None}
    groups = tx.sums("failed_items", failed, (), by=("phase", "error_type", "extractor"))
    jobs = {row["status"]: row["count"] for row in tx.sums("jobs", {"group_key": batch_id}, (), by=("status",))}
    failures = tx.rows("failed_items", failed, order=("object_id", "item_id"), limit=_SHOWN)
    names = ("object_id", "collection_id", "phase", "reason", "error_type", "extractor", "attempt")
    times = {name: batch[name] for name in ("created_at", "started_at", "completed_at")}
    return answer(
        {
            "batch_id": batch_id,
            "status": batch["status"],
            "timing": times,
            "health": state,
            "last_activity_at": last,
            "progress": counts,
            "tiers": tier_tasks(tx, batch),
            "errors": groups,
            "failed_documents": [{name: row[name] for name in names} for row in failures],
            "infrastructure": {"jobs": jobs, "collections": _lag(tx, batch_id, caller.services)},
            "recommendations": _advice(batch, counts, groups, jobs, caller.services),
        }
    )


def _lag(tx: ReadTx, batch_id: str, services: Services) -> dict[str, Any]:
    """How far each collection's index is behind what this batch wrote."""
    last: dict[str, int] = {}
    for row in tx.rows("chunks", {"batch_id": batch_id}, columns=("collection_id", "last_seq")):
        last[row["collection_id"]] = max(last.get(row["collection_id"], 0), row["last_seq"])
    found = {}
    for collection_id, seq in last.items():
        applied = services.indexer.applied(collection_id)
        found[collection_id] = {"written": seq, "searchable": applied, "caught_up": applied >= seq}
    return found


def _advice(
    batch: Row, counts: dict[str, Any], groups: list[Row], jobs: dict[str, int], services: Services
) -> list[str]:
    found = list(batch["body"].get("warnings", []))
    if batch["status"] == "DRAFT":
        found.append("the batch is a draft: submit it")
    if batch["status"] in OPEN and not services.settings.workers:
        found.append("this process runs no jobs (MEDIATHECA_WORKERS=0): start `mediatheca worker`")
    if counts["retrying"]:
        found.append(f"{counts['retrying']} items that failed are tried again by themselves: wait for them")
    if any(group["error_type"] == "transient" for group in groups):
        found.append("some failures were transient: retry the batch with retry_mode=transient_only")
    if any(group["error_type"] == "resource" for group in groups):
        found.append("some objects need more time or memory than is allowed here: see MEDIATHECA_ITEM_TIMEOUT_S")
    if any(group["error_type"] == "permanent" for group in groups):
        found.append("some objects cannot be processed as they are: read their reasons, replace or delete them")
    if jobs.get("dead"):
        found.append(f"{jobs['dead']} jobs ran out of attempts: see the reasons of the failed objects, then retry")
    if batch["status"] in ENDED and not counts["failed"] and not found:
        found.append("nothing to do: every object was processed")
    return found


@router.delete(f"{_BATCH}/documents", operation_id="delete_batch_documents", response_model=None)
def undo(bucket: str, batch_id: str, tx: Delete, caller: Deleter) -> Response:
    """Delete what the batch wrote and no later batch has replaced. Objects and the batch itself stay."""
    deleted = delete_documents(tx, caller.services, _in(tx, bucket, batch_id))
    total = sum(deleted.values())
    message = f"{total} documents of batch '{batch_id}' deleted"
    return answer({"success": True, "message": message, "deleted_count": total, "collections": deleted})
