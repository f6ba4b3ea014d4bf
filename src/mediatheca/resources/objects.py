"""Objects: raw multimodal assets of a bucket. Rows of their own table, so these routes are written by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import Field

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
from mediatheca.flows.objects.changes import change_object
from mediatheca.flows.objects.create import create_objects
from mediatheca.flows.objects.reads import blobs_of, document_counts, get_object
from mediatheca.flows.objects.requests import Author, Options, Outcome
from mediatheca.flows.removal import delete_objects, switch_off
from mediatheca.kernel.errors import ConflictError, FieldError, NotFoundError, ValidationError
from mediatheca.kernel.filters import parse_filter
from mediatheca.kernel.schema import wire_type
from mediatheca.resources._aggregation import AggregationSpec, run
from mediatheca.resources.base import Spec, notes_on
from mediatheca.stores.db.listing import ListQuery
from mediatheca.stores.db.tx import ReadTx, Row

_BUCKET = "/buckets/{bucket_identifier}/objects"
_PAGE = 1000
router = APIRouter(tags=["objects"])

Flag = Annotated[bool, Query()]


class ObjectSpec(Spec):
    """An object. Keys that are not named here are its own fields."""

    key_prefix: str | None = None
    blobs: list[dict[str, Any]] = Field(default_factory=list)
    metadata: dict[str, Any] | None = None
    skip_duplicates: bool = False
    canonicalize_source: bool = True
    force_remirror: bool = False
    edges: list[dict[str, Any]] | None = None
    idempotency_key: str | None = None


class ObjectsSpec(Spec):
    """Up to 1,000 objects; each has its own outcome."""

    objects: list[ObjectSpec] = Field(min_length=1, max_length=1000)


class SoftDeleteSpec(Spec):
    """Objects to hide from every search; their records stay."""

    object_ids: list[str] = Field(min_length=1, max_length=5000)
    reason: str = Field(max_length=500)
    lifecycle_state: str = Field("disabled", max_length=100)
    source: str = Field("bulk_purge", max_length=100)


def _documented(model: type[Spec]) -> dict[str, Any]:
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    if model is ObjectsSpec:
        schema["properties"]["objects"]["items"] = _documented(ObjectSpec)["requestBody"]["content"][
            "application/json"
        ]["schema"]
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def author(caller: Caller) -> Author:
    return Author(caller.services, caller.scope, caller.actor.key_id)


# ---- presenting


def signer(caller: Caller) -> Callable[[Row], str | None]:
    """URLs of stored files; None of a blob without one."""
    return lambda blob: caller.signed(blob["store_key"], blob["mime_type"]) if blob["store_key"] else None


def present(
    row: Row, blobs: Sequence[Row], sign: Callable[[Row], str | None] | None = None, documents: int | None = None
) -> dict[str, Any]:
    """An object as callers read it: its own fields at the top level. `documents`: how many came of it."""
    view: dict[str, Any] = {
        **row["fields"],
        "object_id": row["object_id"],
        "bucket_id": row["bucket_id"],
        "key_prefix": row["key_prefix"],
        "metadata": row["metadata"],
        "blobs": [_present_blob(blob, sign) for blob in blobs],
        "status": row["status"],
        "error": row["error"] or row["processing_error"],
        "document_count": documents,
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
    }
    sources = [blob["source_url"] for blob in blobs if blob["source_url"]]
    if sources:
        view["source_urls"] = sources
    if row["status"] == "DEACTIVATED":
        view["lifecycle_state"] = "disabled"
    return view


def _present_blob(blob: Row, sign: Callable[[Row], str | None] | None) -> dict[str, Any]:
    metadata = dict(blob["metadata"])
    prefix = metadata.pop("key_prefix", None)
    properties: dict[str, Any] = {**metadata} | ({"url": blob["source_url"]} if blob["source_url"] else {})
    view: dict[str, Any] = {
        "blob_id": blob["blob_id"],
        "property": blob["property"],
        "type": wire_type(blob["type"]),
        "key_prefix": prefix,
        "properties": properties,
        "metadata": metadata,
        "details": {
            "filename": blob["filename"],
            "size_bytes": blob["size_bytes"],
            "mime_type": blob["mime_type"],
            "hash": f"sha256:{blob['hash']}" if blob["hash"] else None,
        },
    }
    if blob["source_url"]:
        view["url"] = blob["source_url"]
    if sign is not None:
        view["presigned_url"] = properties["presigned_url"] = sign(blob)
        if blob["inline"] is not None:
            properties["data"] = blob["inline"]
    return view


# ---- creating


@router.post(_BUCKET, operation_id="create_object_buckets", response_model=None, openapi_extra=_documented(ObjectSpec))
async def create(
    bucket_identifier: str, raw: Raw, caller: Writer, policy: str | None = None, auto_process: Flag = False
) -> Response:
    """Create an object. References are fetched now, unless `canonicalize_source` is false.

    A source that cannot be reached gives an object with status FAILED and the reason; an address that this server never
    fetches from is refused.
    """
    options = Options(policy=policy, fetch=True, auto_process=auto_process)

    def work() -> Response:
        outcome = create_objects(author(caller), bucket_identifier, [json_body(raw)], options)[0]
        if outcome.error is not None:
            raise outcome.error
        return answer(_created(outcome))

    return await in_slow_thread(work)


@router.post(
    f"{_BUCKET}/batch",
    operation_id="create_objects_batch_buckets",
    response_model=None,
    openapi_extra=_documented(ObjectsSpec),
)
async def create_many(
    bucket_identifier: str, raw: Raw, caller: Writer, policy: str | None = None, auto_process: Flag = False
) -> Response:
    """Create up to 1,000 objects in one transaction, each with its own outcome; references are fetched later."""
    options = Options(policy=policy, auto_process=auto_process)

    def work() -> Response:
        body = json_body(raw)
        objects = body.get("objects")
        if not isinstance(objects, list):
            raise ValidationError.at(("body", "objects"), "must be a list of objects", "missing")
        return answer(_outcomes(create_objects(author(caller), bucket_identifier, objects, options)))

    return await in_slow_thread(work)


def _created(outcome: Outcome) -> dict[str, Any]:
    assert outcome.row is not None
    fresh = outcome.replayed_by is None and outcome.row["version"] == 1
    view = present(outcome.row, outcome.blobs, documents=0 if fresh else None)
    return view | ({"replayed": True, "replayed_by": outcome.replayed_by} if outcome.replayed_by else {})


def _outcomes(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    done = [{**_created(o), "object_index": o.index, "replayed": o.replayed_by is not None} for o in outcomes if o.row]
    failed = [
        {"object_index": o.index, "error": o.error.message, "error_type": o.error.type, "errors": _errors(o)}
        for o in outcomes
        if o.error is not None
    ]
    if not done:
        errors = [
            FieldError(("body", "objects", o.index, *e["loc"][1:]), e["msg"]) for o in outcomes for e in _errors(o)
        ]
        message = f"none of the {len(outcomes)} objects was created; the first reason: {failed[0]['error']}"
        error = ValidationError(message, errors)
        error.details["failed"] = failed
        raise error
    return {
        "succeeded": done,
        "failed": failed,
        "total_requested": len(outcomes),
        "succeeded_count": len(done),
        "failed_count": len(failed),
    }


def _errors(outcome: Outcome) -> list[dict[str, Any]]:
    if isinstance(outcome.error, ValidationError):
        return [error.as_dict() for error in outcome.error.errors]
    return [] if outcome.error is None else [{"loc": ["body"], "msg": outcome.error.message}]


# ---- reading


def _bucket_id(tx: ReadTx, ident: str) -> str:
    return tx.get("bucket", ident).id


def _presented(
    tx: ReadTx,
    rows: Sequence[Row],
    blobs: Mapping[str, Sequence[Row]],
    sign: Callable[[Row], str | None] | None = None,
) -> list[dict[str, Any]]:
    counts = document_counts(tx, [row["object_id"] for row in rows])
    return [present(row, blobs.get(ident := row["object_id"], []), sign, counts.get(ident, 0)) for row in rows]


def _page(tx: ReadTx, bucket: str, query: ListQuery, sign: Callable[[Row], str | None] | None, select: Any) -> Response:
    where = {"bucket_id": _bucket_id(tx, bucket)}
    page = tx.page("objects", where, query)
    blobs = blobs_of(tx, [row["object_id"] for row in page.rows])
    results = _presented(tx, page.rows, blobs, sign)
    if isinstance(select, list) and select:
        kept = {"object_id", "bucket_id", *map(str, select)}
        results = [{name: value for name, value in result.items() if name in kept} for result in results]
    by_status = {row["status"]: row["count"] for row in tx.sums("objects", where, [], by=["status"])}
    total, count = sum(by_status.values()), sum(len(own) for own in blobs.values())
    stats = {"total_objects": total, "total_blobs": count, "objects_by_status": by_status}
    stats["avg_blobs_per_object"] = round(count / max(1, len(results)), 3)
    return answer({**listed(page, results), "stats": stats})


@router.post(f"{_BUCKET}/list", operation_id="list_objects_buckets", response_model=None)
def list_post(bucket_identifier: str, query: Listed, raw: Raw, tx: Read, caller: Reader) -> Response:
    body = json_body(raw)
    sign = signer(caller) if body.get("return_presigned_urls") is True else None
    return _page(tx, bucket_identifier, query, sign, body.get("select"))


@router.get(_BUCKET, operation_id="list_objects_get_buckets", response_model=None)
def list_get(
    bucket_identifier: str, query: Listed, tx: Read, caller: Reader, return_presigned_urls: Flag = False
) -> Response:
    return _page(tx, bucket_identifier, query, signer(caller) if return_presigned_urls else None, None)


@router.post(f"{_BUCKET}/aggregate", operation_id="aggregate_objects_buckets", response_model=None)
def aggregate(bucket_identifier: str, spec: AggregationSpec, tx: Read, caller: Reader) -> Response:
    """Group and count, sum, average, … the objects of a bucket."""
    notes = notes_on(caller, spec)
    query = ListQuery(filter=parse_filter(spec.filters) if spec.filters else None)
    body = run(spec, _all_objects(tx, _bucket_id(tx, bucket_identifier), query))
    return answer(body | notes)


def _all_objects(tx: ReadTx, bucket_id: str, query: ListQuery) -> Iterator[dict[str, Any]]:
    cursor = None
    while True:
        page = tx.page("objects", {"bucket_id": bucket_id}, ListQuery(_PAGE, 0, cursor, None, query.filter, (), False))
        blobs = blobs_of(tx, [row["object_id"] for row in page.rows])
        yield from _presented(tx, page.rows, blobs)
        cursor = page.next_cursor
        if cursor is None:
            return


@router.get(f"{_BUCKET}/{{object_identifier}}", operation_id="get_object_buckets", response_model=None)
def get(
    bucket_identifier: str,
    object_identifier: str,
    tx: Read,
    caller: Reader,
    return_presigned_urls: Flag = True,
    include_document_count: Flag = True,
) -> Response:
    row = get_object(tx, _bucket_id(tx, bucket_identifier), object_identifier)
    ident = row["object_id"]
    documents = document_counts(tx, [ident]).get(ident, 0) if include_document_count else None
    sign = signer(caller) if return_presigned_urls else None
    return answer(present(row, blobs_of(tx, [ident]).get(ident, []), sign, documents))


# ---- changing


def _change(bucket: str, ident: str, body: Mapping[str, Any], tx: Write, *, replace: bool) -> Response:
    record = tx.get("bucket", bucket)
    row = change_object(tx, record, get_object(tx, record.id, ident), body, replace_metadata=replace)
    return answer(_presented(tx, [row], blobs_of(tx, [row["object_id"]]))[0])


@router.patch(f"{_BUCKET}/{{object_identifier}}", operation_id="patch_object_buckets", response_model=None)
def patch(bucket_identifier: str, object_identifier: str, raw: Raw, tx: Write) -> Response:
    """Change fields, `metadata` and `key_prefix`; a null removes a field."""
    return _change(bucket_identifier, object_identifier, json_body(raw), tx, replace=False)


@router.put(f"{_BUCKET}/{{object_identifier}}", operation_id="update_object_buckets", response_model=None)
def put(bucket_identifier: str, object_identifier: str, raw: Raw, tx: Write) -> Response:
    """As PATCH, but `metadata` replaces what was there."""
    return _change(bucket_identifier, object_identifier, json_body(raw), tx, replace=True)


@router.delete(f"{_BUCKET}/{{object_identifier}}", operation_id="delete_object_buckets", response_model=None)
def delete(bucket_identifier: str, object_identifier: str, tx: Delete, caller: Deleter) -> Response:
    """Delete an object with its files and every document made from it."""
    bucket = tx.get("bucket", bucket_identifier)
    if bucket.body.get("locked"):
        raise ConflictError(f"bucket '{bucket.name}' is locked")
    if not delete_objects(tx, caller.services, bucket.id, [object_identifier]):
        raise NotFoundError("object", object_identifier)
    return Response(status_code=204)


@router.post(f"{_BUCKET}/bulk-soft-delete", operation_id="bulk_soft_delete_objects_buckets", response_model=None)
def soft_delete(bucket_identifier: str, spec: SoftDeleteSpec, tx: Delete, caller: Deleter) -> Response:
    """Hide objects from every search; their records stay, with status DEACTIVATED."""
    notes = notes_on(caller, spec)
    event = {"reason": spec.reason, "lifecycle_state": spec.lifecycle_state, "source": spec.source}
    bucket_id = _bucket_id(tx, bucket_identifier)
    count, collections = switch_off(tx, caller.services, bucket_id, spec.object_ids, {**event, "bucket_id": bucket_id})
    body = {"soft_deleted": count, "requested": len(spec.object_ids), "collections": collections}
    return answer(body | notes)
