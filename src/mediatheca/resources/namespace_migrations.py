"""Migrations of a namespace: its collections go over to other models together."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from pydantic import ConfigDict, Field

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
from mediatheca.flows.migration.plan import Compare
from mediatheca.kernel.errors import ConflictError, ValidationError
from mediatheca.kernel.mapping import MISSING, read_path
from mediatheca.resources.base import Spec, notes_on
from mediatheca.stores.db.tx import ReadTx

router = APIRouter(tags=["namespace migrations"])
_PATH = "/namespaces/migrations"


class ExtractorChange(Spec):
    """Parameters that an extractor is to have from then on."""

    feature_extractor_name: str
    version: str | None = None
    parameters: dict[str, Any] | None = None


class ResourceFilter(Spec):
    """Which collections; nothing: all that use one of the extractors."""

    collection_ids: list[str] | None = Field(None, max_length=1_000)
    taxonomy_ids: list[str] | None = None
    cluster_ids: list[str] | None = None
    retriever_ids: list[str] | None = None
    date_range: dict[str, Any] | None = None
    auto_include_dependencies: bool | None = None


class CompareSpec(Compare, Spec):
    """The same, that tells of unknown keys."""

    model_config = ConfigDict(extra="allow")


_STAY = "has no effect: whatever searches a collection goes on as it is, its feature URIs lead to the new vectors"
_NO_EFFECT = {
    "filters.taxonomy_ids": _STAY,
    "filters.cluster_ids": _STAY,
    "filters.retriever_ids": _STAY,
    "filters.date_range": "has no effect: all documents of a collection go over together",
    "target_namespace_name": "has no effect: a migration stays in its namespace",
    "batch_options": "has no effect: how a collection is built is the server's concern",
    "taxonomy_options": _STAY,
    "cluster_options": _STAY,
    "retriever_options": _STAY,
    "webhook_url": "is not called; make a webhook for 'collection.updated' (POST /v1/webhooks)",
}


class MigrationConfig(Spec):
    """Which extractors change, in which collections, and when these switch: as in the migration of a collection."""

    migration_type: str | None = None
    source_namespace_id: str | None = None
    target_namespace_id: str | None = None
    target_namespace_name: str | None = None
    feature_extractors: list[ExtractorChange] | None = Field(None, max_length=100)
    filters: ResourceFilter | None = None
    batch_options: dict[str, Any] | None = None
    taxonomy_options: dict[str, Any] | None = None
    cluster_options: dict[str, Any] | None = None
    retriever_options: dict[str, Any] | None = None
    preserve_resource_ids: bool | None = None
    dry_run: bool | None = Field(None, description="It is checked and stored, and cannot be started.")
    webhook_url: str | None = None
    compare: CompareSpec | None = None
    threshold: float | None = Field(None, ge=0, le=1, description="As in the migration of a collection.")
    auto_switch: bool | None = Field(None, description="Off: every collection waits to be switched by name.")

    def stored(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_none=True)

    def without_effect(self) -> list[str]:
        """What was asked for and changes nothing."""
        given = self.stored()
        return [f"config.{path} {why}" for path, why in _NO_EFFECT.items() if read_path(given, path) is not MISSING]


class MigrationSpec(Spec):
    """What changes."""

    config: MigrationConfig
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


def _source(tx: ReadTx, config: MigrationConfig) -> str:
    named = config.source_namespace_id
    if not named:
        raise ValidationError.at(("body", "config", "source_namespace_id"), "is required", "missing")
    return tx.get("namespace", named).id


@router.post(_PATH, operation_id="create_namespace_migration", response_model=None)
def make(spec: MigrationSpec, tx: OrgWrite, caller: OrgWriter) -> Response:
    """Check it, and start it when that was asked for."""
    told = spec.config.without_effect()
    notes = notes_on(caller, spec, *told)
    made, verdict = create(tx, caller.services, _source(tx, spec.config), spec.config.stored(), told)
    if spec.start_immediately and not verdict.errors and not spec.config.dry_run:
        made = begin(tx, caller.services, made)
    verb = "would change" if spec.config.dry_run else "change"
    message = verdict.errors[0]["message"] if verdict.errors else f"{len(verdict.collections)} collections {verb}"
    shown = {"migration_id": made.id, "status": made.body["status"], "created_at": made.created_at}
    return answer({**shown, "validation_result": verdict.shown(), "message": message, **notes})


@router.post(f"{_PATH}/validate", operation_id="validate_namespace_migration", response_model=None)
def check(spec: MigrationSpec, tx: OrgRead, caller: OrgWriter) -> Response:
    """What would change, and what stands against it."""
    told = spec.config.without_effect()
    notes = notes_on(caller, spec, *told)
    verdict = validate(tx.within(_source(tx, spec.config)), caller.services, spec.config.stored(), told)
    nodes = [{"resource_id": c.id, "resource_type": "collection", "dependencies": [], "tier": 0}
             for c, _ in verdict.collections]  # fmt: skip
    graph = {"nodes": nodes, "execution_order": [node["resource_id"] for node in nodes]}
    message = verdict.errors[0]["message"] if verdict.errors else f"{len(nodes)} collections would change"
    return answer({"validation_result": verdict.shown(), "dependency_graph": graph, "message": message, **notes})


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
