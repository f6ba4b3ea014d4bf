"""Migrations of a namespace: its collections go over to other models together."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from pydantic import Field

from mediatheca.api.deps import OrgDelete, OrgRead, OrgReader, OrgWrite, OrgWriter, answer
from mediatheca.flows.migration.namespaces import (
    ENDED,
    KIND,
    begin,
    cancel,
    create,
    state_of,
    validate,
    view,
)
from mediatheca.kernel.errors import ConflictError, ValidationError
from mediatheca.resources.base import Spec
from mediatheca.stores.db.tx import ReadTx

router = APIRouter(tags=["namespace migrations"])
_PATH = "/namespaces/migrations"


class MigrationSpec(Spec):
    """What changes."""

    config: dict[str, Any]
    start_immediately: bool = False


class MigrationsQuery(Spec):
    status: str | None = None
    migration_type: str | None = None
    source_namespace_id: str | None = None
    limit: int = Field(20, ge=1, le=1_000)
    offset: int = Field(0, ge=0, le=100_000)


class ReasonSpec(Spec):
    reason: str | None = Field(None, max_length=1_000)
    force: bool = False


def _source(tx: ReadTx, config: dict[str, Any]) -> str:
    named = config.get("source_namespace_id")
    if not isinstance(named, str) or not named:
        raise ValidationError.at(("body", "config", "source_namespace_id"), "is required", "missing")
    return tx.get("namespace", named).id


@router.post(_PATH, operation_id="create_namespace_migration", response_model=None)
def make(spec: MigrationSpec, tx: OrgWrite, caller: OrgWriter) -> Response:
    """Check it, and start it when that was asked for."""
    made, verdict = create(tx, caller.services, _source(tx, spec.config), spec.config)
    if spec.start_immediately and not verdict.errors:
        made = begin(tx, caller.services, made)
    message = verdict.errors[0]["message"] if verdict.errors else f"{len(verdict.collections)} collections change"
    shown = {"migration_id": made.id, "status": made.body["status"], "created_at": made.created_at}
    return answer({**shown, "validation_result": verdict.shown(), "message": message})


@router.post(f"{_PATH}/validate", operation_id="validate_namespace_migration", response_model=None)
def check(spec: MigrationSpec, tx: OrgRead, caller: OrgWriter) -> Response:
    """What would change, and what stands against it."""
    verdict = validate(tx.within(_source(tx, spec.config)), caller.services, spec.config)
    nodes = [{"resource_id": c.id, "resource_type": "collection", "dependencies": [], "tier": 0}
             for c, _ in verdict.collections]  # fmt: skip
    graph = {"nodes": nodes, "execution_order": [node["resource_id"] for node in nodes]}
    message = verdict.errors[0]["message"] if verdict.errors else f"{len(nodes)} collections would change"
    return answer({"validation_result": verdict.shown(), "dependency_graph": graph, "message": message})


@router.post(f"{_PATH}/list", operation_id="list_namespace_migrations", response_model=None)
def list_(tx: OrgRead, caller: OrgReader, query: MigrationsQuery | None = None) -> Response:
    """Newest first."""
    query = query or MigrationsQuery()
    found = [view(tx, record) for record in reversed(tx.resources(KIND))]
    if query.status:
        found = [entry for entry in found if entry["status"] == query.status]
    if query.migration_type:
        found = [entry for entry in found if entry["config"].get("migration_type") == query.migration_type]
    if query.source_namespace_id:
        found = [entry for entry in found if entry["namespace_id"] == query.source_namespace_id]
    page = found[query.offset : query.offset + query.limit]
    return answer({"results": page, "total": len(found), "limit": query.limit, "offset": query.offset})


@router.get(f"{_PATH}/{{migration_id}}", operation_id="get_namespace_migration", response_model=None)
def get(migration_id: str, tx: OrgRead) -> Response:
    return answer(view(tx, tx.get(KIND, migration_id)))


@router.post(f"{_PATH}/{{migration_id}}/start", operation_id="start_namespace_migration", response_model=None)
def run(migration_id: str, tx: OrgWrite, caller: OrgWriter, spec: ReasonSpec | None = None) -> Response:
    record = begin(tx, caller.services, tx.get(KIND, migration_id))
    names = ("task_id", "started_at")
    shown = {"migration_id": record.id, "status": record.body["status"], **{n: record.body[n] for n in names}}
    return answer({**shown, "message": f"{len(record.body['children'])} collections are built beside"})


@router.post(f"{_PATH}/{{migration_id}}/cancel", operation_id="cancel_namespace_migration", response_model=None)
def stop(migration_id: str, tx: OrgWrite, caller: OrgWriter, spec: ReasonSpec | None = None) -> Response:
    """Collections that have switched stay switched; roll them back one by one."""
    record = cancel(tx, tx.get(KIND, migration_id), (spec or ReasonSpec()).reason)
    shown = {"migration_id": record.id, "status": "cancelled", "cancelled_at": record.body["cancelled_at"]}
    return answer({**shown, "message": "what was not switched yet is given up"})


@router.delete(f"{_PATH}/{{migration_id}}", operation_id="delete_namespace_migration", response_model=None)
def delete(migration_id: str, tx: OrgDelete) -> Response:
    """Forget one that has ended, or never began."""
    record = tx.get(KIND, migration_id)
    if state_of(tx, record) not in (*ENDED, "draft", "pending"):
        raise ConflictError(f"migration '{record.id}' is {state_of(tx, record)}; cancel it first")
    tx.remove(record)
    return Response(status_code=204)
