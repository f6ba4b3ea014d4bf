"""Documents by the thousand, and questions about many of them: batch, bulk, count, distinct, aggregate, search."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Body, Response
from pydantic import Field, field_validator

from mediatheca.api.deps import Caller, Deleter, Reader, Writer, answer
from mediatheca.api.lists import Listed
from mediatheca.flows.document_rows import check_document_id, clean_text, patching
from mediatheca.flows.document_search import search_documents
from mediatheca.flows.documents import MAX_ROWS, Change, Outcome
from mediatheca.kernel.errors import MediathecaError, NotFoundError, ValidationError
from mediatheca.kernel.filters import Filter, leaves, parse_filter
from mediatheca.kernel.present import field_value, present, result
from mediatheca.resources._aggregation import AggregationSpec, GroupField, run
from mediatheca.resources.base import Spec, notes_on
from mediatheca.resources.documents import reader, view_of
from mediatheca.stores.db.tx import Record

SHOWN_FAILURES = 100
"""Failures listed of an update by filter; all are counted."""
MAX_VALUES = 10_000

router = APIRouter(tags=["documents"])
_DOCUMENTS = "/collections/{collection}/documents"


class BatchUpdate(Spec):
    """Either `updates`, one per document, or `filters` with one `update_data` for all that match."""

    updates: list[Any] | None = None
    filters: Any = None
    update_data: dict[str, Any] | None = None


class BulkUpdate(Spec):
    """One `update_data` for every document that matches; without `filters`: all of the collection."""

    update_data: dict[str, Any]
    filters: Any = None


class BatchDelete(Spec):
    """Either `document_ids` or `filters`."""

    document_ids: list[str] | None = None
    filters: Any = None
    reason: str | None = Field(None, max_length=500)


class BatchGet(Spec):
    """Documents of the namespace by id."""

    document_ids: list[str]
    return_presigned_urls: bool = True
    return_vectors: bool = False


class Distinct(Spec):
    """The values of one field."""

    field: str
    filters: Any = None
    limit: int | None = Field(None, ge=1, le=MAX_VALUES)


class Aggregate(AggregationSpec):
    """Groups and what to compute of each; without `group_by` all documents are one group."""

    group_by: list[GroupField] = Field(default_factory=list)

    _none = field_validator("group_by", mode="before")(lambda value: [] if value is None else value)


class Search(Spec):
    """One text over collections; none named: all of the namespace."""

    query: str | None = None
    collection_ids: list[str] | None = None
    page_size: int | None = Field(None, ge=1, le=500)
    limit: int | None = Field(None, ge=1, le=500)
    filters: Any = None
    return_presigned_urls: bool = False


@router.post(_DOCUMENTS + "/batch", operation_id="batch_update", response_model=None)
def batch_update(collection: str, body: BatchUpdate, caller: Writer) -> Response:
    notes = notes_on(caller, body)
    record = reader(caller).collection(collection)
    if (body.updates is None) == (body.filters is None):
        raise ValidationError.at(("body",), "must hold either 'updates' or 'filters' with 'update_data'", "mode")
    if body.updates is not None:
        return answer({**_update_rows(caller, record, body.updates), **notes})
    tally = _update_matching(caller, record, _restricting(body.filters), _changing(body.update_data))
    return answer({**tally.shown, "message": f"{tally.updated} documents updated", **notes})


def _update_rows(caller: Caller, record: Record, rows: Sequence[Any]) -> dict[str, Any]:
    """Every row has its own outcome; they are written in one commit."""
    check_rows(rows, ("body", "updates"))
    results: list[dict[str, Any]] = [{} for _ in rows]
    changes: list[tuple[int, Change]] = []
    for number, row in enumerate(rows):
        where = ("body", "updates", number)
        try:
            ident, data = _update_row(row, where)
            results[number] = {"document_id": ident}
            changes.append((number, patching(record, ident, data, (*where, "update_data"))))
        except ValidationError as error:
            results[number] = {"document_id": given_id(row), **failure(error)}
    outcomes = write_rows(caller, record, [change for _, change in changes])
    for (number, _), outcome in zip(changes, outcomes, strict=True):
        results[number] |= {"success": True, "error": None} if outcome.error is None else failure(outcome.error)
    failed = sum(not row["success"] for row in results)
    message = f"{len(rows) - failed} documents updated, {failed} failed"
    return {"updated_count": len(rows) - failed, "failed_count": failed, "results": results, "message": message}


def given_id(row: Any) -> str:
    """What a row that was refused calls itself."""
    ident = row.get("document_id") if isinstance(row, dict) else None
    return clean_text(ident) if isinstance(ident, str) else ""


def _update_row(row: Any, where: tuple[str | int, ...]) -> tuple[str, dict[str, Any]]:
    if not isinstance(row, dict):
        raise ValidationError.at(where, f"must be {{document_id, update_data}}, got {type(row).__name__}", "dict_type")
    ident, data = check_document_id(row.get("document_id"), (*where, "document_id")), row.get("update_data")
    if not isinstance(data, dict):
        raise ValidationError.at((*where, "update_data"), f"must be an object, got {type(data).__name__}", "dict_type")
    return ident, data


def write_rows(caller: Caller, record: Record, changes: Sequence[Change]) -> list[Outcome]:
    return caller.services.writer.write(caller.scope, caller.actor.key_id, record, changes)


def failure(error: MediathecaError) -> dict[str, Any]:
    return {"success": False, "error": error.message, "status": error.status, "type": error.type}


def check_rows(rows: Sequence[Any], where: tuple[str | int, ...]) -> None:
    if not 1 <= len(rows) <= MAX_ROWS:
        raise ValidationError.at(where, f"must hold 1 to {MAX_ROWS} rows, got {len(rows)}", "length")


def _ids(given: Sequence[str]) -> list[str]:
    """Up to a thousand document ids, each once."""
    check_rows(given, ("body", "document_ids"))
    for number, ident in enumerate(given):
        check_document_id(ident, ("body", "document_ids", number))
    return list(dict.fromkeys(given))


def _restricting(raw: Any) -> Filter:
    """A filter that says something: an empty one would mean the whole collection."""
    tree = parse_filter(raw)
    if tree is None or not any(leaves(tree)):
        raise ValidationError.at(("body", "filters"), "must not be empty here; name at least one condition", "filters")
    return tree


def _changing(data: dict[str, Any] | None) -> dict[str, Any]:
    """What to change: an empty object would write every document again for nothing."""
    if not data:
        raise ValidationError.at(("body", "update_data"), "must hold at least one field to change", "missing")
    return data


@dataclass(slots=True)
class _Tally:
    updated: int = 0
    failed: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)

    @property
    def shown(self) -> dict[str, Any]:
        return {"updated_count": self.updated, "failed_count": self.failed, "results": self.failures}


def _update_matching(caller: Caller, record: Record, filter: Filter | None, data: dict[str, Any]) -> _Tally:
    """The same change for all that match now, a commit for every thousand; one deleted meanwhile is no failure."""
    patching(record, "any", data, ("body", "update_data"))  # bad data is refused before anything is written
    ids = [hit.document_id for hit in reader(caller).walk(record.id, filter)]
    tally = _Tally()
    for start in range(0, len(ids), MAX_ROWS):
        part = ids[start : start + MAX_ROWS]
        changes = [patching(record, ident, data, ("body", "update_data")) for ident in part]
        for ident, outcome in zip(part, write_rows(caller, record, changes), strict=True):
            if outcome.error is None:
                tally.updated += 1
            elif not isinstance(outcome.error, NotFoundError):
                tally.failed += 1
                if len(tally.failures) < SHOWN_FAILURES:
                    tally.failures.append({"document_id": ident, **failure(outcome.error)})
    return tally


@router.patch(_DOCUMENTS + "/bulk", operation_id="bulk_update", response_model=None)
def bulk_update(collection: str, body: BulkUpdate, caller: Writer) -> Response:
    """Done when it answers: there is no task to wait for. `filters` that say nothing are refused; leave them out."""
    notes = notes_on(caller, body)
    record = reader(caller).collection(collection)
    tree = None if body.filters is None else _restricting(body.filters)
    tally = _update_matching(caller, record, tree, _changing(body.update_data))
    message = f"{tally.updated} documents updated, {tally.failed} failed"
    return answer({"task_id": None, "status": "COMPLETED", **tally.shown, "message": message, **notes})


@router.delete(_DOCUMENTS + "/batch", operation_id="batch_delete", response_model=None)
def batch_delete(collection: str, body: Annotated[BatchDelete, Body()], caller: Deleter) -> Response:
    notes = notes_on(caller, body)
    record = reader(caller).collection(collection)
    if (body.document_ids is None) == (body.filters is None):
        raise ValidationError.at(("body",), "must hold either 'document_ids' or 'filters'", "mode")
    if body.document_ids is not None:
        ids = _ids(body.document_ids)
        gone = _delete(caller, record, ids)
        results = [_deletion(ident, ident in gone) for ident in ids]
        return answer({**_deletions(len(gone), len(ids) - len(gone), results), **notes})
    matching = [hit.document_id for hit in reader(caller).walk(record.id, _restricting(body.filters))]
    parts = (matching[start : start + MAX_ROWS] for start in range(0, len(matching), MAX_ROWS))
    gone_in_all = sum(len(_delete(caller, record, part)) for part in parts)
    return answer({**_deletions(gone_in_all, 0, None), **notes})


def _delete(caller: Caller, record: Record, ids: Sequence[str]) -> set[str]:
    return caller.services.writer.delete(caller.scope, caller.actor.key_id, record.id, ids)


def _deletion(ident: str, gone: bool) -> dict[str, Any]:
    return {"document_id": ident, "success": gone, "error": None if gone else f"document '{ident}' not found"}


def _deletions(gone: int, failed: int, results: list[dict[str, Any]] | None) -> dict[str, Any]:
    shown = {"task_id": None, "status": "COMPLETED", "deleted_count": gone, "failed_count": failed, "results": results}
    return {**shown, "limits": {"max_document_ids": MAX_ROWS}, "message": f"{gone} documents deleted"}


@router.get(_DOCUMENTS + "/count", operation_id="count_documents", response_model=None)
def count(collection: str, query: Listed, caller: Reader) -> Response:
    record = reader(caller).collection(collection)
    return answer({"collection_id": record.id, "count": reader(caller).count(record.id, query.filter)})


@router.post(_DOCUMENTS + "/distinct", operation_id="distinct_document_values", response_model=None)
def distinct(collection: str, body: Distinct, caller: Reader) -> Response:
    """Values with their counts, the most frequent first; a list counts for each of its elements."""
    notes = notes_on(caller, body)
    record = reader(caller).collection(collection)
    counts: Counter[bytes] = Counter()
    for hit in reader(caller).walk(record.id, parse_filter(body.filters)):
        value = field_value(hit, body.field)
        elements = value if isinstance(value, list) else [value]
        counts.update({orjson.dumps(element) for element in elements if element is not None})
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[: body.limit or MAX_VALUES]
    values = [{"value": orjson.loads(value), "count": number} for value, number in ordered]
    return answer({"field": body.field, "values": values, "total_distinct": len(counts), "query_info": {}, **notes})


@router.post(_DOCUMENTS + "/aggregate", operation_id="aggregate_documents", response_model=None)
def aggregate_documents(collection: str, body: Aggregate, caller: Reader) -> Response:
    notes = notes_on(caller, body)
    record = reader(caller).collection(collection)
    found = run(body, reader(caller).walk(record.id, parse_filter(body.filters)), field_value)
    return answer({**found, "query_info": notes})


@router.post("/documents/batch-get", operation_id="batch_get", response_model=None)
def batch_get(body: BatchGet, caller: Reader) -> Response:
    notes = notes_on(caller, body)
    ids = _ids(body.document_ids)
    found = reader(caller).anywhere(ids, body.return_vectors)
    view = view_of(caller, urls=body.return_presigned_urls, vectors=body.return_vectors)
    documents = [present(found[ident], view) for ident in ids if ident in found]
    return answer({"documents": documents, "not_found": [ident for ident in ids if ident not in found], **notes})


@router.post("/documents/search", operation_id="search_documents", response_model=None)
def search(body: Search, caller: Reader) -> Response:
    notes = notes_on(caller, body)
    collections, unknown = reader(caller).collections(body.collection_ids)
    if unknown:
        raise NotFoundError("collection", ", ".join(unknown))
    limit, tree = body.limit or body.page_size or 10, parse_filter(body.filters)
    if not body.query or not body.query.strip():
        raise ValidationError.at(
            ("body", "query"), "must be a text to search for; to list documents use /documents/list"
        )
    hits = search_documents(caller.services, caller.scope, collections, body.query, limit, tree)
    view = view_of(caller, urls=body.return_presigned_urls)
    results = [result(hit, view) for hit in hits]
    shown = {"results": results, "documents": results, "total_count": len(results), "query": body.query}
    return answer({**shown, **notes})
