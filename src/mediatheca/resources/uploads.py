"""Uploads: files that clients send straight to the blob store by a signed URL."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import Field, field_validator

from mediatheca.api.deps import (
    Caller,
    Delete,
    Deleter,
    Raw,
    Read,
    Reader,
    Write,
    Writer,
    answer,
    in_slow_thread,
    json_body,
)
from mediatheca.api.lists import Listed, listed
from mediatheca.flows.confirmation import Claim, confirm
from mediatheca.flows.ingest.plan import add_task, change_task
from mediatheca.flows.objects.requests import Author
from mediatheca.flows.uploads import MAX_UPLOADS, Announcement, announce, cancel, get_upload, need_room
from mediatheca.kernel.errors import MediathecaError, ValidationError
from mediatheca.resources.base import Spec, notes_on
from mediatheca.resources.tasks import task_view
from mediatheca.stores.db.listing import ListQuery
from mediatheca.stores.db.tx import ReadTx, Row

_BUCKET = "/buckets/{bucket_identifier}/uploads"
router = APIRouter(tags=["uploads"])

Flag = Annotated[bool, Query()]


class UploadSpec(Spec):
    """A file to come."""

    filename: str
    content_type: str = Field(min_length=1, max_length=255)
    file_size_bytes: int | None = Field(None, ge=1)
    presigned_url_expiration: int = Field(3600, ge=60, le=86400)
    metadata: dict[str, Any] | None = None
    create_object_on_confirm: bool = True
    object_metadata: dict[str, Any] | None = None
    blob_property: str | None = None
    blob_type: str | None = None
    file_hash: str | None = Field(None, pattern=r"^(sha256:)?[A-Fa-f0-9]{64}$")
    skip_duplicates: bool = True

    @field_validator("file_hash")
    @classmethod
    def _plain_hash(cls, value: str | None) -> str | None:
        return value.lower().removeprefix("sha256:") if value else value

    def announcement(self) -> Announcement:
        return Announcement(
            self.filename, self.content_type, self.file_size_bytes, self.presigned_url_expiration, self.metadata,
            self.create_object_on_confirm, self.object_metadata, self.blob_property,
            self.blob_type.lower() if self.blob_type and self.blob_type != "auto" else None, self.file_hash,
            self.skip_duplicates,
        )  # fmt: skip


class UploadsSpec(Spec):
    """Several files to come; what is shared is merged under the own values of each."""

    uploads: list[UploadSpec] = Field(min_length=1, max_length=MAX_UPLOADS)
    shared_metadata: dict[str, Any] = Field(default_factory=dict)
    shared_object_metadata: dict[str, Any] = Field(default_factory=dict)


class ConfirmSpec(Spec):
    """What was sent. `auto_submit_batch` processes the object at once."""

    etag: str | None = None
    file_size_bytes: int | None = Field(None, ge=0)
    auto_submit_batch: bool = False


class ConfirmationSpec(ConfirmSpec):
    upload_id: str


class ConfirmationsSpec(Spec):
    confirmations: list[ConfirmationSpec] = Field(min_length=1, max_length=MAX_UPLOADS)


def _author(caller: Caller) -> Author:
    return Author(caller.services, caller.scope, caller.actor.key_id)


def present(row: Row, caller: Caller | None = None) -> dict[str, Any]:
    """An upload as callers read it; with `caller`, its signed URL: to PUT while it is open, to GET afterwards."""
    body = row["body"]
    return {
        **{name: body.get(name) for name in _COPIED},
        "upload_id": row["upload_id"],
        "bucket_id": row["bucket_id"],
        "s3_key": row["store_key"],
        "status": row["status"],
        "presigned_url": None if caller is None else _signed(row, caller),
        "method": "PUT",
        "headers": {},
        "file_hash": row["file_hash"],
        "is_duplicate": body.get("is_duplicate", False),
        "skipped_unique_key": body.get("skipped_unique_key", False),
        "object_id": row["object_id"],
        "created_at": row["created_at"],
        "expires_at": row["expires_at"],
        "completed_at": row["completed_at"],
    }


_COPIED = (
    "filename", "content_type", "file_size_bytes", "presigned_url_expiration", "metadata", "create_object_on_confirm",
    "object_metadata", "blob_property", "blob_type", "skip_duplicates", "duplicate_of_upload_id", "existing_object_id",
    "message", "etag", "verified_at", "task_id", "batch_id",
)  # fmt: skip


def _signed(row: Row, caller: Caller) -> str | None:
    """Where the file is read, or is still to be sent."""
    key, status = row["store_key"], row["status"]
    if key and status == "COMPLETED":
        return caller.signed(key, row["body"].get("detected_type"))
    if not key or status != "PENDING":
        return None
    left = int(row["expires_at"].timestamp() - time.time())
    if left < 1:
        return None
    # The client's size is checked at confirm; the URL bounds what this server takes at all.
    most = caller.services.settings.max_upload_mb << 20
    return caller.absolute(caller.services.blobs.sign("PUT", key, expires_s=left, max_bytes=most))


@router.post(_BUCKET, operation_id="create_upload_buckets", response_model=None)
def create(bucket_identifier: str, spec: UploadSpec, tx: Write, caller: Writer) -> Response:
    """Announce a file. PUT it to the `presigned_url` (no other header needed), then confirm."""
    notes = notes_on(caller, spec)
    need_room(tx)
    row = announce(_author(caller), tx, tx.get("bucket", bucket_identifier), spec.announcement())
    return answer(present(row, caller) | notes)


@router.post(f"{_BUCKET}/batch", operation_id="create_uploads_batch_buckets", response_model=None)
def create_many(bucket_identifier: str, spec: UploadsSpec, tx: Write, caller: Writer) -> Response:
    """Announce several files: all or none."""
    notes = notes_on(caller, spec)
    bucket, author = tx.get("bucket", bucket_identifier), _author(caller)
    need_room(tx, len(spec.uploads))
    rows = []
    for number, wish in enumerate(spec.uploads):
        wish.metadata = {**spec.shared_metadata, **(wish.metadata or {})}
        wish.object_metadata = {**spec.shared_object_metadata, **(wish.object_metadata or {})}
        try:
            rows.append(announce(author, tx, bucket, wish.announcement()))
        except ValidationError as error:
            first = error.errors[0]
            raise ValidationError.at(("body", "uploads", number, *first.loc[1:]), first.msg, first.type) from error
    body = {"uploads": [present(row, caller) for row in rows], "total": len(rows)}
    return answer(body | notes)


# ---- confirming


def _confirmed(row: Row) -> dict[str, Any]:
    kept = {name: present(row)[name] for name in _CONFIRMED}
    return {**kept, "existing_object_id": row["body"].get("existing_object_id")}


_CONFIRMED = (
    "upload_id", "status", "etag", "file_size_bytes", "file_hash", "verified_at", "completed_at", "object_id",
    "task_id", "batch_id", "message", "bucket_id",
)  # fmt: skip


async def _confirm(
    upload_id: str, bucket: str | None, spec: ConfirmSpec, caller: Caller, policy: str | None
) -> Response:
    notes = notes_on(caller, spec)

    def work() -> Response:
        with caller.services.db.read(caller.scope) as tx:
            row = get_upload(tx, upload_id, None if bucket is None else tx.get("bucket", bucket).id)
        claim = Claim(spec.etag, spec.file_size_bytes, spec.auto_submit_batch, policy)
        body = _confirmed(confirm(_author(caller), row, claim))
        return answer(body | notes)

    return await in_slow_thread(work)


@router.post(f"{_BUCKET}/confirm/batch", operation_id="confirm_uploads_batch_buckets", response_model=None)
async def confirm_many(
    bucket_identifier: str, spec: ConfirmationsSpec, caller: Writer, policy: str | None = None
) -> Response:
    """Confirm several uploads; the task's outputs say what became of each."""
    notes = notes_on(caller, spec)

    def work() -> Response:
        with caller.services.db.read(caller.scope) as tx:
            bucket_id = tx.get("bucket", bucket_identifier).id
        outcomes = [_outcome(caller, bucket_id, entry, policy) for entry in spec.confirmations]
        body = _as_task(caller, bucket_id, outcomes)
        return answer(body | notes)

    return await in_slow_thread(work)


def _outcome(caller: Caller, bucket_id: str, entry: ConfirmationSpec, policy: str | None) -> dict[str, Any]:
    try:
        with caller.services.db.read(caller.scope) as tx:
            row = get_upload(tx, entry.upload_id, bucket_id)
        claim = Claim(entry.etag, entry.file_size_bytes, entry.auto_submit_batch, policy)
        row = confirm(_author(caller), row, claim)
    except MediathecaError as error:
        return {"upload_id": entry.upload_id, "success": False, "error": error.message, "error_type": error.type}
    return {"upload_id": entry.upload_id, "success": True, "status": row["status"], "object_id": row["object_id"]}


def _as_task(caller: Caller, bucket_id: str, outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    failed = sum(not outcome["success"] for outcome in outcomes)
    status = "COMPLETED" if not failed else "FAILED" if failed == len(outcomes) else "COMPLETED_WITH_ERRORS"
    with caller.services.db.begin(caller.scope, caller.actor.key_id) as tx:
        task_id = add_task(tx, "api_buckets_uploads_batch_confirm", {"bucket_id": bucket_id}, status)
        change_task(tx, task_id, status, {"results": outcomes})
        task = tx.row("tasks", {"task_id": task_id})
    assert task is not None
    return {
        "task_id": task_id,
        "status": status,
        "confirmations_count": len(outcomes),
        "task": task_view(task),
        "message": f"{len(outcomes) - failed} of {len(outcomes)} uploads were confirmed",
        "results": outcomes,
    }


@router.post(f"{_BUCKET}/{{upload_id}}/confirm", operation_id="confirm_upload_buckets", response_model=None)
async def confirm_one(
    bucket_identifier: str, upload_id: str, spec: ConfirmSpec, caller: Writer, policy: str | None = None
) -> Response:
    """Check the file that arrived against what was announced, and make the object. Repeating gives the same answer."""
    return await _confirm(upload_id, bucket_identifier, spec, caller, policy)


@router.post("/uploads/{upload_id}/confirm", operation_id="confirm_upload_alias", response_model=None)
async def confirm_alias(upload_id: str, spec: ConfirmSpec, caller: Writer, policy: str | None = None) -> Response:
    """The same, without naming the bucket."""
    return await _confirm(upload_id, None, spec, caller, policy)


# ---- reading


def _page(tx: ReadTx, bucket: str, query: ListQuery, caller: Caller | None) -> Response:
    where = {"bucket_id": tx.get("bucket", bucket).id}
    page = tx.page("uploads", where, query)
    results = [present(row, caller) for row in page.rows]
    by_status = {row["status"]: row["count"] for row in tx.sums("uploads", where, [], by=["status"])}
    sizes = [result["file_size_bytes"] for result in results if result["file_size_bytes"]]
    stats = {
        "total_uploads": sum(by_status.values()),
        "total_size_bytes": sum(sizes),
        "uploads_by_status": by_status,
        "avg_file_size_bytes": sum(sizes) / len(sizes) if sizes else 0.0,
        "unique_buckets": 1 if results else 0,
    }
    return answer({**listed(page, results), "stats": stats})


@router.post(f"{_BUCKET}/list", operation_id="list_uploads_buckets", response_model=None)
def list_post(bucket_identifier: str, query: Listed, raw: Raw, tx: Read, caller: Reader) -> Response:
    wanted = json_body(raw).get("return_presigned_urls") is True
    return _page(tx, bucket_identifier, query, caller if wanted else None)


@router.get(_BUCKET, operation_id="list_uploads_buckets_get", response_model=None)
def list_get(bucket_identifier: str, query: Listed, tx: Read) -> Response:
    return _page(tx, bucket_identifier, query, None)


@router.get(f"{_BUCKET}/{{upload_id}}", operation_id="get_upload_buckets", response_model=None)
def get(
    bucket_identifier: str, upload_id: str, tx: Read, caller: Reader, return_presigned_urls: Flag = False
) -> Response:
    row = get_upload(tx, upload_id, tx.get("bucket", bucket_identifier).id)
    return answer(present(row, caller if return_presigned_urls else None))


@router.delete(f"{_BUCKET}/{{upload_id}}", operation_id="delete_upload_buckets", response_model=None)
def delete(bucket_identifier: str, upload_id: str, tx: Delete, caller: Deleter) -> Response:
    """Give up an upload that is no object yet, and remove what has arrived of it."""
    row = get_upload(tx, upload_id, tx.get("bucket", bucket_identifier).id)
    cancel(_author(caller), tx, row)
    return Response(status_code=204)
