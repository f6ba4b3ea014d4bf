"""Annotations: verdicts of people or models on documents. Every edit keeps what was before it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field, field_validator

from mediatheca.api.deps import Caller, Delete, Raw, Read, Reader, Write, Writer, answer, deleted, json_body
from mediatheca.flows.bodies import checked
from mediatheca.kernel import clock
from mediatheca.kernel.clock import wire_time
from mediatheca.kernel.errors import ConflictError, ForbiddenError, MediathecaError, NotFoundError, ValidationError
from mediatheca.kernel.ids import new_id
from mediatheca.stores.db.listing import ListQuery
from mediatheca.stores.db.tx import Cmp, ReadTx, Row, Tx

router = APIRouter(tags=["annotations"])
MAX_BULK = 1_000
MAX_OBJECT = 50_000
MAX_REVISIONS = 500
MAX_AS_OF = 100_000
_EDITED = ("label", "confidence", "reasoning", "payload", "metadata")
_COLUMNS = ("label",)


def _bounded(value: dict[str, Any] | None) -> dict[str, Any] | None:
    if value is not None and len(str(value)) > MAX_OBJECT:
        raise ValueError(f"is longer than {MAX_OBJECT} characters")
    return value


class AnnotationSpec(BaseModel):
    model_config = ConfigDict(extra="ignore")

    document_id: str = Field(min_length=1, max_length=512)
    collection_id: str | None = Field(None, max_length=100)
    label: str = Field(min_length=1, max_length=100)
    confidence: float | None = Field(None, ge=0, le=1)
    reasoning: str | None = Field(None, max_length=5_000)
    payload: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    retriever_id: str | None = Field(None, max_length=100)
    execution_id: str | None = Field(None, max_length=64)
    stage_name: str | None = Field(None, max_length=255)

    _sizes = field_validator("payload", "metadata")(_bounded)


class AnnotationPatch(BaseModel):
    model_config = ConfigDict(extra="ignore")

    label: str | None = Field(None, min_length=1, max_length=100)
    confidence: float | None = Field(None, ge=0, le=1)
    reasoning: str | None = Field(None, max_length=5_000)
    payload: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None

    _sizes = field_validator("payload", "metadata")(_bounded)


class BulkSpec(BaseModel):
    """Entries are checked one by one; those that fail say why."""

    model_config = ConfigDict(extra="ignore")

    create: list[Any] | None = Field(None, max_length=MAX_BULK)
    update: list[Any] | None = Field(None, max_length=MAX_BULK)
    delete: list[str] | None = Field(None, max_length=MAX_BULK)


class ListSpec(BaseModel):
    model_config = ConfigDict(extra="ignore")

    document_id: str | None = None
    collection_id: str | None = None
    label: str | None = None
    actor_id: str | None = None
    retriever_id: str | None = None
    as_of: datetime | None = None

    @field_validator("as_of")
    @classmethod
    def _zoned(cls, value: datetime | None) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


# ---- one


def _get(tx: ReadTx, ident: str) -> Row:
    row = tx.row("annotations", {"annotation_id": ident})
    if row is None:
        raise NotFoundError("annotation", ident)
    return row


def _create(tx: Tx, spec: AnnotationSpec, caller: Caller) -> Row:
    collection = tx.get("collection", spec.collection_id).id if spec.collection_id else ""
    retriever = tx.get("retriever", spec.retriever_id).id if spec.retriever_id else ""
    moment = clock.now()
    kept = ("confidence", "reasoning", "payload", "metadata", "execution_id", "stage_name")
    body = spec.model_dump(mode="json", include=set(kept))
    row: Row = {
        "annotation_id": new_id("ann"),
        "document_id": spec.document_id,
        "collection_id": collection,
        "label": spec.label,
        "actor_id": caller.actor.key_id,
        "retriever_id": retriever,
        "version": 1,
        "body": {**body, "actor_type": "api_key", "revisions": []},
        "created_at": moment,
        "updated_at": moment,
    }
    tx.insert("annotations", [row])
    tx.emit("annotation.created", row["annotation_id"], {"document_id": spec.document_id, "label": spec.label})
    return row


def _change(tx: Tx, row: Row, sent: Mapping[str, Any], caller: Caller) -> Row:
    """The new row; what it replaces is kept as a revision.

    Raises:
        ValidationError: nothing is to be changed, or the label is taken away.
        ConflictError: another request changed it at the same time, or it was edited too often.
    """
    if not sent:
        raise ValidationError.at(("body",), f"is empty: send one of {', '.join(_EDITED)}", "missing")
    if "label" in sent and sent["label"] is None:
        raise ValidationError.at(("body", "label"), "cannot be taken away", "missing")
    state = _state(row)
    prior = {name: state[name] for name, value in sent.items() if state[name] != value}
    if not prior:
        return row
    revisions = row["body"]["revisions"]
    if len(revisions) >= MAX_REVISIONS:
        raise ConflictError(f"annotation '{row['annotation_id']}' was edited {MAX_REVISIONS} times; create a new one")
    moment = clock.now()
    revision = {"version": row["version"], "prior": prior, "edited_at": wire_time(moment)}
    revision |= {"edited_by": caller.actor.key_id, "edited_by_type": "api_key"}
    body = {**row["body"], **{name: sent[name] for name in prior if name not in _COLUMNS}}
    values = {"body": {**body, "revisions": [*revisions, revision]}, "version": row["version"] + 1}
    values |= {"label": sent.get("label", row["label"]), "updated_at": moment}
    where = {"annotation_id": row["annotation_id"], "version": row["version"]}
    if not tx.update("annotations", where, values):
        raise ConflictError(f"annotation '{row['annotation_id']}' was changed by another request; read it again")
    tx.emit("annotation.updated", row["annotation_id"], {"version": values["version"], "fields": sorted(prior)})
    return {**row, **values}


def _remove(tx: Tx, ident: str) -> None:
    if not tx.delete("annotations", {"annotation_id": ident}):
        raise NotFoundError("annotation", ident)
    tx.emit("annotation.deleted", ident)


def _state(row: Row) -> dict[str, Any]:
    """The fields that can be edited."""
    return {name: row["label"] if name == "label" else row["body"].get(name) for name in _EDITED}


def _at(row: Row, wanted: Any) -> dict[str, Any]:
    """State, version and time as they were: `wanted(revision)` says which edits to take back, newest first."""
    state, version, changed = _state(row), row["version"], row["updated_at"]
    revisions = row["body"]["revisions"]
    for place in range(len(revisions) - 1, -1, -1):
        if not wanted(revisions[place]):
            break
        state |= revisions[place]["prior"]
        version = revisions[place]["version"]
        changed = revisions[place - 1]["edited_at"] if place else row["created_at"]
    return {**state, "version": version, "updated_at": changed}


def _view(row: Row, namespace_id: str, past: Mapping[str, Any] | None = None) -> dict[str, Any]:
    body = row["body"]
    shown = {
        "annotation_id": row["annotation_id"],
        "document_id": row["document_id"],
        "collection_id": row["collection_id"] or None,
        "namespace_id": namespace_id,
        **_state(row),
        "retriever_id": row["retriever_id"] or None,
        "execution_id": body.get("execution_id"),
        "stage_name": body.get("stage_name"),
        "actor_id": row["actor_id"],
        "actor_type": body["actor_type"],
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
        "version": row["version"],
        "revisions": body["revisions"] if past is None else [],
    }
    return {**shown, **(past or {})}


# ---- routes


@router.post("/annotations", operation_id="create_annotation", response_model=None)
def create(spec: AnnotationSpec, tx: Write, caller: Writer) -> Response:
    """A verdict on a document."""
    return answer(_view(_create(tx, spec, caller), tx.scope.namespace_id))


@router.post("/annotations/bulk", operation_id="bulk_annotations", response_model=None)
def bulk(spec: BulkSpec, tx: Write, caller: Writer) -> Response:
    """Create, update and delete many; one that fails does not stop the others. Deleting needs the permission."""
    results: list[dict[str, Any]] = []

    def attempt(operation: str, ident: str | None, act: Any) -> None:
        try:
            made = act()
            ident = made if isinstance(made, str) else ident
            results.append({"annotation_id": ident, "operation": operation, "success": True, "error": None})
        except MediathecaError as error:
            failure = {"annotation_id": ident, "operation": operation, "success": False, "error": error.message}
            results.append(failure)

    if spec.delete and "delete" not in caller.actor.permissions:
        raise ForbiddenError("delete: this key lacks the permission 'delete'")
    for raw in spec.create or ():
        attempt("create", None, lambda raw=raw: _create(tx, checked(AnnotationSpec, raw), caller)["annotation_id"])
    for raw in spec.update or ():
        ident = raw.get("annotation_id") if isinstance(raw, dict) else None
        attempt("update", ident if isinstance(ident, str) else None, lambda raw=raw: _update(tx, raw, caller))
    for ident in spec.delete or ():
        attempt("delete", ident, lambda ident=ident: _remove(tx, ident))
    done = Counter(entry["operation"] for entry in results if entry["success"])
    counts = {f"{name}d_count": done[name] for name in ("create", "update", "delete")}
    return answer({**counts, "failed_count": len(results) - done.total(), "results": results})


def _update(tx: Tx, raw: Any, caller: Caller) -> str:
    if not isinstance(raw, dict) or not isinstance(raw.get("annotation_id"), str):
        raise ValidationError.at(("body", "update", "annotation_id"), "is required: a string", "missing")
    sent = checked(AnnotationPatch, raw).model_dump(mode="json", exclude_unset=True)
    return str(_change(tx, _get(tx, raw["annotation_id"]), sent, caller)["annotation_id"])


@router.post("/annotations/list", operation_id="list_annotations", response_model=None)
def list_(
    raw: Raw, tx: Read,
    skip: Annotated[int, Query(ge=0, le=10_000)] = 0, limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Response:  # fmt: skip
    """Newest first. `as_of`: the judgments as they stood at that moment; later ones and later edits are left out."""
    spec = checked(ListSpec, {name: value for name, value in json_body(raw).items() if value is not None})
    given = spec.model_dump(exclude={"as_of", "label"}, exclude_none=True)
    if spec.as_of is not None:
        return answer(_as_of(tx, given, spec, skip, limit))
    where = given | ({"label": spec.label} if spec.label else {})
    page = tx.page("annotations", where, ListQuery(limit, skip))
    shown = [_view(row, tx.scope.namespace_id) for row in page.rows]
    return answer({"results": shown, "total_count": page.total, "total": page.total, "skip": skip, "limit": limit})


def _as_of(tx: ReadTx, where: dict[str, Any], spec: ListSpec, skip: int, limit: int) -> dict[str, Any]:
    moment = spec.as_of or clock.now()
    text = wire_time(moment)
    earlier = {**where, "created_at": Cmp("<=", moment)}
    rows = tx.rows("annotations", earlier, order=("-annotation_id",), limit=MAX_AS_OF)
    states = [(row, _at(row, lambda revision: revision["edited_at"] > text)) for row in rows]
    found = [(row, state) for row, state in states if spec.label in (None, state["label"])]
    shown = [_view(row, tx.scope.namespace_id, state) for row, state in found[skip : skip + limit]]
    return {"results": shown, "total_count": len(found), "total": len(found), "skip": skip, "limit": limit}


@router.get("/annotations/stats", operation_id="annotation_stats", response_model=None)
def stats(tx: Read, document_id: str | None = None, collection_id: str | None = None) -> Response:
    """How many there are of each label."""
    given = {"document_id": document_id, "collection_id": collection_id}
    rows = tx.sums("annotations", {name: value for name, value in given.items() if value}, (), ("label",))
    by_label = {row["label"]: row["count"] for row in sorted(rows, key=lambda row: (-row["count"], row["label"]))}
    return answer({"total": sum(by_label.values()), "by_label": by_label})


@router.get("/annotations/{annotation_id}", operation_id="get_annotation", response_model=None)
def get(annotation_id: str, tx: Read, caller: Reader) -> Response:
    return answer(_view(_get(tx, annotation_id), tx.scope.namespace_id))


@router.patch("/annotations/{annotation_id}", operation_id="patch_annotation", response_model=None)
def patch(annotation_id: str, spec: AnnotationPatch, tx: Write, caller: Writer) -> Response:
    """Change a verdict; the one before stays readable as a version."""
    row = _change(tx, _get(tx, annotation_id), spec.model_dump(mode="json", exclude_unset=True), caller)
    return answer(_view(row, tx.scope.namespace_id))


@router.delete("/annotations/{annotation_id}", operation_id="delete_annotation", response_model=None)
def delete(annotation_id: str, tx: Delete) -> Response:
    _remove(tx, annotation_id)
    return deleted("annotation", annotation_id)


@router.get("/annotations/{annotation_id}/versions", operation_id="get_annotation_versions", response_model=None)
def versions(annotation_id: str, tx: Read) -> Response:
    """Who changed what, and when; oldest first."""
    row = _get(tx, annotation_id)
    first: dict[str, Any] = {"version": 1, "edited_at": None, "edited_by": None, "edited_by_type": None}
    listed = [{**first, "changed_fields": []}]
    for revision in row["body"]["revisions"]:
        edit = {name: revision[name] for name in ("edited_at", "edited_by", "edited_by_type")}
        listed.append({"version": revision["version"] + 1, **edit, "changed_fields": sorted(revision["prior"])})
    shown = [{**entry, "current": entry["version"] == row["version"]} for entry in listed]
    return answer({"annotation_id": annotation_id, "current_version": row["version"], "versions": shown})


@router.get(
    "/annotations/{annotation_id}/versions/{version}", operation_id="get_annotation_version", response_model=None
)
def at_version(annotation_id: str, version: int, tx: Read) -> Response:
    row = _get(tx, annotation_id)
    if not 1 <= version <= row["version"]:
        raise NotFoundError("annotation version", f"{annotation_id}@{version}")
    past = _at(row, lambda revision: revision["version"] >= version)
    return answer(_view(row, tx.scope.namespace_id, past))
