"""Documents with the caller's own vectors, up to a thousand in a request."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import Field

from mediatheca.api.deps import Caller, OrgWriter, answer
from mediatheca.flows.document_rows import upsertion
from mediatheca.flows.documents import Change, Outcome
from mediatheca.flows.standalone import direct_collection
from mediatheca.kernel import clock
from mediatheca.kernel.errors import ConflictError, FieldError, ValidationError
from mediatheca.resources.base import Spec, notes_on
from mediatheca.resources.document_actions import check_rows, failure, given_id, write_rows
from mediatheca.resources.documents import in_namespace, reader
from mediatheca.stores.db.tx import Cmp, Record

KEY_LIFE = timedelta(hours=24)
"""How long an idempotency key is remembered."""

router = APIRouter(tags=["documents"])


class UpsertOptions(Spec):
    write_token: bool = False
    idempotency_key: str | None = Field(None, min_length=1, max_length=200)


class Upsert(Spec):
    """Documents with the caller's own vectors."""

    collection_id: str | None = None
    documents: list[Any]
    options: UpsertOptions = UpsertOptions()


@router.post(
    "/namespaces/{namespace}/documents/upsert", operation_id="upsert_documents_byo_namespaces", response_model=None
)
def upsert(namespace: str, body: Upsert, request: Request, caller: OrgWriter) -> Response:
    """Rows that are wrong are reported one by one and the rest is written; when all are wrong it is 422."""
    inside = in_namespace(caller, request, namespace)
    notes = notes_on(inside, body)
    check_rows(body.documents, ("body", "documents"))
    record = _target(inside, body.collection_id)
    key = body.options.idempotency_key
    if key is None:
        return answer({**_upsert(inside, record, body), **notes})
    digest = hashlib.sha256(json.dumps([record.id, body.documents], sort_keys=True).encode()).hexdigest()
    known = _claim(inside, key, digest)
    if known is not None:
        return answer({**known, **notes})
    shown = _upsert(inside, record, body)
    _remember(inside, key, shown)
    return answer({**shown, **notes})


def _target(caller: Caller, identifier: str | None) -> Record:
    """The named collection; else that of a standalone namespace, or the only one there is."""
    if identifier is not None:
        return reader(caller).collection(identifier)
    direct = direct_collection(caller.services.db, caller.scope, caller.actor.key_id)
    if direct is not None:
        return direct
    collections, _ = reader(caller).collections(None)
    if len(collections) != 1:
        names = ", ".join(record.name for record in collections[:10]) or "none; create one first"
        raise ValidationError.at(("body", "collection_id"), f"is required here; the namespace has: {names}", "missing")
    return collections[0]


def _upsert(caller: Caller, record: Record, body: Upsert) -> dict[str, Any]:
    results: list[dict[str, Any]] = []
    changes: list[tuple[int, Change]] = []
    dropped: dict[str, list[str]] = {}
    errors: list[FieldError] = []
    for number, row in enumerate(body.documents):
        try:
            change, lost = upsertion(record, row, ("body", "documents", number))
        except ValidationError as error:
            results.append({"index": number, "document_id": given_id(row), **failure(error)})
            errors += error.errors
            continue
        results.append({"index": number, "document_id": change.document_id, "success": True, "error": None})
        changes.append((number, change))
        if lost:
            dropped[change.document_id] = lost
    if not changes:
        raise ValidationError("; ".join(f"{'.'.join(map(str, e.loc[1:]))}: {e.msg}" for e in errors[:20]), errors)
    outcomes = write_rows(caller, record, [change for _, change in changes])
    for (number, _), outcome in zip(changes, outcomes, strict=True):
        if outcome.error is not None:
            results[number] |= failure(outcome.error)
    return _upserted(record, body, results, outcomes, dropped)


def _upserted(
    record: Record,
    body: Upsert,
    results: list[dict[str, Any]],
    outcomes: Sequence[Outcome],
    dropped: dict[str, list[str]],
) -> dict[str, Any]:
    written = [outcome.document for outcome in outcomes if outcome.document is not None]
    ids = list(dict.fromkeys(document.document_id for document in written))
    token = f"{record.id}:{max((d.write_seq for d in written), default=0)}" if body.options.write_token else None
    visible = all(outcome.searchable for outcome in outcomes if outcome.document is not None)
    consistency = {
        "retriever_visible": "immediate" if visible else "eventual",
        "write_token_available": token is not None,
    }
    shown: dict[str, Any] = {
        "inserted": len(ids),
        "document_ids": ids,
        "collection_id": record.id,
        "failed_count": sum(not row["success"] for row in results),
        "results": results,
        "unsearchable_document_ids": [document.document_id for document in written if not document.vectors],
        "consistency": consistency,
    }
    if dropped:
        shown["dropped_payload_fields"] = dropped
    if token is not None:
        shown["write_token"] = token
    return shown


def _claim(caller: Caller, key: str, digest: str) -> dict[str, Any] | None:
    """Take an idempotency key; what it answered before, if it did. A request cut short is simply done again.

    Raises:
        ConflictError: the key was used for another body.
    """
    with caller.services.db.begin(caller.scope, caller.actor.key_id) as tx:
        kind = {"kind": "idempotency_key"}
        tx.delete("resources", {**kind, "created_at": Cmp("<", clock.now() - KEY_LIFE)})
        held = tx.row("resources", {**kind, "name": key})
        if held is None:
            tx.put("idempotency_key", "idem", key, {"digest": digest, "answer": None})
            return None
    if held["body"]["digest"] != digest:
        message = f"options.idempotency_key: '{key}' was used for another body; use a new key"
        raise ConflictError(message, details={"existing_id": held["id"]})
    found: dict[str, Any] | None = held["body"]["answer"]
    return found


def _remember(caller: Caller, key: str, shown: dict[str, Any]) -> None:
    with caller.services.db.begin(caller.scope, caller.actor.key_id) as tx:
        held = tx.find("idempotency_key", key)
        if held is not None:
            tx.change(held, {**held.body, "answer": shown})
