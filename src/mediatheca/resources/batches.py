"""Batches: groups of objects sent through the collections their bucket feeds. Rows of their own table."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response
from pydantic import Field

from mediatheca.api.deps import Delete, Raw, Read, Reader, Write, Writer, answer, deleted, json_body, names_in
from mediatheca.api.lists import MAX_OFFSET, Listed, listed
from mediatheca.flows.ingest import outlook
from mediatheca.flows.ingest.plan import (
    BATCH_TASK,
    ENDED,
    MAX_OBJECTS,
    cancel_batch,
    check_objects,
    create_batch,
    get_batch,
    submit_batch,
    tiers_for,
)
from mediatheca.flows.ingest.progress import audit as audit_of
from mediatheca.flows.ingest.progress import collection_counts
from mediatheca.flows.ingest.rerun import reset_batch
from mediatheca.flows.ingest.retry import Wanted, retry_failed
from mediatheca.kernel import clock
from mediatheca.kernel.errors import BadRequestError, ConflictError, ValidationError
from mediatheca.kernel.filters import all_of, parse_filter
from mediatheca.resources._batch_view import batch_view, item_view
from mediatheca.resources.base import Spec, notes_on
from mediatheca.resources.tasks import task_view
from mediatheca.stores.db.listing import ListQuery
from mediatheca.stores.db.tx import ReadTx, Row

router = APIRouter(tags=["batches"])


class BatchSpec(Spec):
    """Objects by id or by filter; nothing: every object of the bucket."""

    object_ids: list[str] | None = Field(None, max_length=MAX_OBJECTS)
    filters: dict[str, Any] | None = None
    collection_ids: list[str] | None = None
    limit: int | None = Field(None, ge=1, le=MAX_OBJECTS)
    dedup_strategy: str | None = Field(None, pattern="^(skip|replace|force)$")
    metadata: dict[str, Any] | None = None
    batch_name: str | None = Field(None, max_length=256)
    auto_submit: bool | None = None
    trigger_processing: bool | None = None


_NO_WEBHOOK = "webhook_url is not called; make a webhook for 'batch.completed' and 'batch.failed' (POST /v1/webhooks)"


_NO_HISTORY = "include_processing_history: no history is kept in documents; GET /v1/events has what happened to them"
_ALWAYS_VALIDATED = "skip_validation has no effect: every object id is looked up, a thousand take milliseconds"


class SubmitSpec(Spec):
    include_processing_history: bool = False
    collection_ids: list[str] | None = None
    webhook_url: str | None = None

    def not_done(self) -> list[str]:
        """What was asked for and is not there."""
        asked = ((_NO_WEBHOOK, self.webhook_url), (_NO_HISTORY, self.include_processing_history))
        return [note for note, given in asked if given]


class ObjectIds(Spec):
    object_ids: list[str] = Field(min_length=1, max_length=MAX_OBJECTS)


class RetrySpec(Spec):
    """Which failed items to process again; nothing: all of them."""

    retry_mode: str = Field("all", pattern="^(all|transient_only)$")
    object_ids: list[str] | None = Field(None, max_length=MAX_OBJECTS)
    document_ids: list[str] | None = Field(None, max_length=MAX_OBJECTS, description="Of the source.")
    collection_ids: list[str] | None = Field(None, max_length=1000)
    tier_nums: list[int] | None = Field(None, max_length=1000)
    max_retry_count: int | None = Field(None, ge=1, le=10, description="Items retried as often are left alone.")


class BatchPatch(Spec):
    metadata: dict[str, Any] | None = None
    batch_name: str | None = Field(None, max_length=256)


@router.post("/buckets/{bucket}/batches", operation_id="create_batch", response_model=None)
def create(
    bucket: str, spec: BatchSpec, tx: Write, caller: Writer,
    auto_submit: Annotated[bool, Query()] = False, trigger_processing: Annotated[bool, Query()] = False,
) -> Response:  # fmt: skip
    notes = notes_on(caller, spec)
    bucket_id = tx.get("bucket", bucket).id
    kept = spec.model_dump(include={"collection_ids", "dedup_strategy", "metadata", "batch_name"})
    batch = create_batch(tx, bucket_id, _chosen(tx, bucket_id, spec), **kept)
    if auto_submit or trigger_processing or spec.auto_submit or spec.trigger_processing:
        batch = submit_batch(tx, batch, caller.services.settings.chunk_size)
    else:
        tiers_for(tx, batch)  # a collection that is not reached is told now, not when the batch is submitted
    return answer({**batch_view(tx, batch), **notes})


def _chosen(tx: ReadTx, bucket_id: str, spec: BatchSpec) -> list[str]:
    if spec.object_ids and spec.filters:
        raise ValidationError.at("filters", "give object_ids or filters, not both")
    if spec.object_ids is not None:
        return spec.object_ids[: spec.limit]
    query = ListQuery(spec.limit or MAX_OBJECTS, filter=parse_filter(spec.filters), include_total=False)
    found = [row["object_id"] for row in tx.page("objects", {"bucket_id": bucket_id}, query).rows]
    if not found:
        raise BadRequestError(f"no object of bucket '{bucket_id}' matches; nothing to put into a batch")
    return found


@router.post("/buckets/{bucket}/batches/list", operation_id="list_batches", response_model=None)
def list_(bucket: str, raw: Raw, query: Listed, tx: Read, caller: Reader) -> Response:
    return _page(tx, {"bucket_id": tx.get("bucket", bucket).id}, query, json_body(raw))


@router.post("/batches/list", operation_id="list_all_batches", response_model=None)
def list_all(raw: Raw, query: Listed, tx: Read, caller: Reader) -> Response:
    return _page(tx, {}, query, json_body(raw))


def _page(tx: ReadTx, where: dict[str, Any], query: ListQuery, body: dict[str, Any]) -> Response:
    """A page of what `status`, `bucket_id` and `collection_id` (one, or a list of a few) leave of the batches."""
    if statuses := names_in(body, "status"):
        where["status"] = [status.upper() for status in statuses]
    wanted = {"bucket_id": _ids(tx, "bucket", body), "collection_ids": _ids(tx, "collection", body)}
    narrower = parse_filter({field: ids for field, ids in wanted.items() if ids})
    page = tx.page("batches", where, replace(query, filter=all_of(query.filter, narrower)))
    return answer(listed(page, [batch_view(tx, row, brief=True) for row in page.rows]))


def _ids(tx: ReadTx, kind: str, body: dict[str, Any]) -> list[str]:
    """What `{kind}_id` of a body names, by id or by name; what there is none of stays, and no batch has it."""
    return [found.id if (found := tx.find(kind, name)) else name for name in names_in(body, f"{kind}_id")]


@router.get("/batches/{batch_id}", operation_id="get_any_batch", response_model=None)
def get_any(batch_id: str, tx: Read, caller: Reader) -> Response:
    return answer(batch_view(tx, get_batch(tx, batch_id)))


@router.get("/buckets/{bucket}/batches/{batch_id}", operation_id="get_batch", response_model=None)
def get(bucket: str, batch_id: str, tx: Read, caller: Reader) -> Response:
    return answer(batch_view(tx, _in(tx, bucket, batch_id)))


def _in(tx: ReadTx, bucket: str, batch_id: str) -> Row:
    return get_batch(tx, batch_id, tx.get("bucket", bucket).id)


@router.patch("/buckets/{bucket}/batches/{batch_id}", operation_id="patch_batch", response_model=None)
def patch(bucket: str, batch_id: str, spec: BatchPatch, tx: Write, caller: Writer) -> Response:
    batch = _in(tx, bucket, batch_id)
    body = {**batch["body"], **spec.model_dump(exclude_unset=True, include=set(BatchPatch.model_fields))}
    tx.update("batches", {"batch_id": batch_id}, {"body": body, "updated_at": clock.now()})
    return answer(batch_view(tx, get_batch(tx, batch_id)))


@router.delete("/buckets/{bucket}/batches/{batch_id}", operation_id="delete_batch", response_model=None)
def delete(bucket: str, batch_id: str, tx: Delete) -> Response:
    """Forget a batch (a running one is canceled first); documents stay."""
    batch = cancel_batch(tx, _in(tx, bucket, batch_id), "deleted")
    for table in ("batch_objects", "chunks", "failed_items", "batches"):
        tx.delete(table, {"batch_id": batch["batch_id"]})
    tx.emit("batch.deleted", batch_id)
    return deleted("batch", batch_id)


@router.post("/buckets/{bucket}/batches/{batch_id}/objects", operation_id="add_objects_to_batch", response_model=None)
def add_objects(
    bucket: str, batch_id: str, spec: ObjectIds, tx: Write, caller: Writer, skip_validation: bool = False
) -> Response:
    notes = notes_on(caller, spec, *([_ALWAYS_VALIDATED] if skip_validation else ()))
    batch = _in(tx, bucket, batch_id)
    if batch["status"] != "DRAFT":
        raise ConflictError(f"batch '{batch_id}' is {batch['status']}; objects can be added only while it is DRAFT")
    where = {"batch_id": batch_id}
    known = {row["object_id"] for row in tx.rows("batch_objects", where, columns=("object_id",))}
    added = [object_id for object_id in dict.fromkeys(spec.object_ids) if object_id not in known]
    check_objects(tx, batch["bucket_id"], added)
    tx.insert("batch_objects", [{**where, "object_id": object_id} for object_id in added])
    tx.update("batches", where, {"object_count": len(known) + len(added), "updated_at": clock.now()})
    return answer({**batch_view(tx, get_batch(tx, batch_id)), **notes})


@router.post("/buckets/{bucket}/batches/{batch_id}/submit", operation_id="submit_batch", response_model=None)
def submit(
    bucket: str, batch_id: str, tx: Write, caller: Writer,
    spec: Annotated[SubmitSpec | None, Body()] = None, force: bool = False,
) -> Response:  # fmt: skip
    """Queue a draft; a batch that was submitted before gives the same task. `force`: one that has ended runs again.
    Several batches of the same objects and collections may be in flight at any time."""
    spec = spec or SubmitSpec()
    notes = notes_on(caller, spec, *spec.not_done())
    batch = _in(tx, bucket, batch_id)
    if force and batch["status"] in ENDED:
        batch = reset_batch(tx, batch)
    batch = submit_batch(tx, batch, caller.services.settings.chunk_size, spec.collection_ids)
    return answer({**_task(tx, batch), **notes})


def _task(tx: ReadTx, batch: Row) -> dict[str, Any]:
    row = tx.row("tasks", {"task_id": batch["task_id"]})
    if row is None:
        view = {"task_id": batch["task_id"] or "", "task_type": BATCH_TASK, "status": batch["status"]}
        return {**view, "batch_id": batch["batch_id"]}
    known = {"batch_id": batch["batch_id"], "batch_status": batch["status"]}
    return {**task_view(row), **known, **outlook.of_task(tx, batch)}


@router.post("/buckets/{bucket}/batches/{batch_id}/cancel", operation_id="cancel_batch", response_model=None)
def cancel(bucket: str, batch_id: str, tx: Write, reason: Annotated[str, Query()] = "canceled by request") -> Response:
    return answer(_task(tx, cancel_batch(tx, _in(tx, bucket, batch_id), reason)))


@router.post("/batches/{batch_id}/cancel", operation_id="cancel_any_batch", response_model=None)
def cancel_any(batch_id: str, tx: Write, reason: Annotated[str, Query()] = "canceled by request") -> Response:
    return answer(_task(tx, cancel_batch(tx, get_batch(tx, batch_id), reason)))


@router.post("/buckets/{bucket}/batches/{batch_id}/retry", operation_id="retry_batch", response_model=None)
def retry(
    bucket: str, batch_id: str, tx: Write, caller: Writer, spec: Annotated[RetrySpec | None, Body()] = None
) -> Response:
    """Process the failed items again, and what is made from them."""
    spec, batch = spec or RetrySpec(), _in(tx, bucket, batch_id)
    named = spec.collection_ids
    collections = None if named is None else [tx.get("collection", ident).id for ident in named]
    wanted = Wanted(
        spec.object_ids, spec.document_ids, collections, spec.tier_nums,
        transient_only=spec.retry_mode == "transient_only", max_attempts=spec.max_retry_count,
    )  # fmt: skip
    count = retry_failed(tx, batch, caller.services.settings.chunk_size, wanted)
    return answer({**_task(tx, get_batch(tx, batch_id)), "retried_object_count": count})


@router.get(
    "/buckets/{bucket}/batches/{batch_id}/failed-documents", operation_id="get_failed_documents", response_model=None
)
def failed(
    bucket: str, batch_id: str, tx: Read, collection_id: str | None = None, cursor: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100, offset: Annotated[int, Query(ge=0, le=MAX_OFFSET)] = 0,
    tier_num: Annotated[int | None, Query(ge=0)] = None,
    outcome: Annotated[str, Query(pattern="^(failed|dropped|skipped|filtered|all)$")] = "failed",
) -> Response:  # fmt: skip
    """Items that gave no documents, or not all: phase, reason, extractor, attempt and time of each.

    `outcome`: failed; dropped (a page, a segment, a field of an item that did give documents); skipped (unchanged,
    deleted meanwhile); filtered (by the collection's source_filters); all.
    """
    where: dict[str, Any] = {"batch_id": _in(tx, bucket, batch_id)["batch_id"]}
    if collection_id:
        where["collection_id"] = tx.get("collection", collection_id).id
    if tier_num is not None:
        where["tier"] = tier_num
    if outcome != "all":
        where["outcome"] = outcome
    order = (("object_id", False), ("item_id", False))
    page = tx.page("failed_items", where, ListQuery(limit, offset, cursor, sort=order))
    shown = [item_view(row) for row in page.rows]
    return answer(listed(page, shown, batch_id=batch_id, failed_documents=shown))


@router.get("/buckets/{bucket}/batches/{batch_id}/audit", operation_id="get_batch_audit", response_model=None)
def audit(bucket: str, batch_id: str, tx: Read) -> Response:
    """Every item accounted for, per collection: fetched = processed + filtered + failed. Items are objects at the first
    tier, documents of the source behind it."""
    batch = _in(tx, bucket, batch_id)
    tiers: list[list[str]] = batch["body"].get("dag_tiers", [])
    counts = collection_counts(tx, batch_id, [ident for tier in tiers for ident in tier])
    ended, rows = batch["status"] in ENDED, []
    for number, tier in enumerate(tiers):
        for ident in tier:
            found = audit_of(number, counts[ident], ended=ended)
            own = {"collection_id": ident, "filtered": found["skipped"], "documents_written": counts[ident]["written"]}
            rows.append({**found, **own, "balanced": not found["lost"]})
    lost_any = any(row["lost"] for row in rows)
    result = {"batch_id": batch_id, "status": batch["status"], "tiers": rows, "collections": rows}
    return answer({**result, "all_balanced": not lost_any, "has_lost_objects": lost_any})
