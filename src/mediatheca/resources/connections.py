"""Connections of an organization to other systems. Credentials go in, and never come out. For admins only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Response
from pydantic import Field

from mediatheca.api.deps import Admin, AdminWrite, Caller, Listed, OrgRead, answer, in_slow_thread, listed
from mediatheca.flows.outside.connections import Connection, checked_config, new_connection_id, opened, stored_body
from mediatheca.flows.vault import CONNECTION
from mediatheca.kernel import clock
from mediatheca.kernel.errors import MediathecaError, NotEnabledError
from mediatheca.kernel.filters import all_of, parse_filter
from mediatheca.resources.base import Spec, notes_on
from mediatheca.stores.db.tx import Record, record

router = APIRouter(tags=["connections"])

_PATH = "/organizations/connections"
_ONE = f"{_PATH}/{{connection_identifier}}"


class ConnectionSpec(Spec):
    name: str = Field(min_length=1, max_length=100)
    provider_type: str = Field(max_length=50)
    provider_config: Any = Field(json_schema_extra={"type": "object"})
    """No type here: a refusal by type would repeat what it got, and it holds credentials."""
    description: str | None = Field(None, max_length=1000)
    metadata: dict[str, Any] | None = None
    write_enabled: bool | None = False
    test_before_save: bool | None = True


class ConnectionPatch(Spec):
    name: str | None = Field(None, min_length=1, max_length=100)
    provider_config: Any = Field(None, json_schema_extra={"type": "object"})
    description: str | None = Field(None, max_length=1000)
    metadata: dict[str, Any] | None = None
    is_active: bool | None = None
    write_enabled: bool | None = None
    test_before_save: bool | None = True


def present(found: Record, organization_id: str) -> dict[str, Any]:
    body = found.body
    return {
        "connection_id": found.id,
        "internal_id": organization_id,
        "name": found.name,
        "provider_type": body["provider_type"],
        "provider_config": {**body["config"], "credentials": body["credentials"]},
        "description": body.get("description"),
        "metadata": body.get("metadata") or {},
        "write_enabled": False,
        "is_active": body.get("is_active", True),
        "status": "ACTIVE" if body.get("is_active", True) else "SUSPENDED",
        "last_error": body.get("last_error"),
        "created_by_user_id": body["created_by"],
        "created_at": found.created_at,
        "updated_at": found.updated_at,
    }


def _refuse_writing(write_enabled: bool | None) -> None:
    if write_enabled:
        raise NotEnabledError("write_enabled: connections are only read here; leave it out")


@router.post(_PATH, operation_id="create_storage_connection_organizations", response_model=None)
async def create(spec: ConnectionSpec, caller: Admin) -> Response:
    """Store a connection, after it was tried unless `test_before_save` is false."""
    notes = notes_on(caller, spec)
    _refuse_writing(spec.write_enabled)
    made = await in_slow_thread(lambda: _create(spec, caller))
    return answer(present(made, caller.actor.organization_id) | notes)


def _create(spec: ConnectionSpec, caller: Caller) -> Record:
    config, credentials = checked_config(spec.provider_type, spec.provider_config)
    ident, scope, services = new_connection_id(), caller.organization, caller.services
    if spec.test_before_save is not False:
        services.around.reach.sql.check(
            Connection(scope.organization_id, ident, spec.name, spec.provider_type, config, credentials)
        )
    body = {
        **stored_body(services.vault, scope, ident, config, credentials),
        "provider_type": spec.provider_type,
        "description": spec.description,
        "metadata": spec.metadata,
        "is_active": True,
        "created_by": caller.actor.user_id,
    }
    with services.db.begin(scope, caller.actor.key_id) as tx:
        made = tx.put(CONNECTION, "conn", spec.name, body, ident=ident)
        tx.emit("storage_connection.created", made.id, {"name": made.name, "provider_type": spec.provider_type})
    return made


@router.post(f"{_PATH}/list", operation_id="list_storage_connections_organizations", response_model=None)
def list_(query: Listed, tx: OrgRead, caller: Admin, body: dict[str, Any] | None = None) -> Response:
    """Connections, newest first; `provider_type` and `is_active` narrow the list."""
    for name in ("provider_type", "is_active"):
        if body and body.get(name) is not None:
            wanted = parse_filter({"field": name, "operator": "eq", "value": body[name]})
            query = replace(query, filter=all_of(query.filter, wanted))
    page = tx.page("resources", {"kind": CONNECTION}, query, {"name": "name", "connection_id": "id"})
    return answer(listed(page, [present(record(row), caller.actor.organization_id) for row in page.rows]))


@router.get(_ONE, operation_id="get_storage_connection_organizations", response_model=None)
def get(connection_identifier: str, tx: OrgRead, caller: Admin) -> Response:
    return answer(present(tx.get(CONNECTION, connection_identifier), caller.actor.organization_id))


@router.patch(_ONE, operation_id="update_storage_connection_organizations", response_model=None)
async def patch(connection_identifier: str, spec: ConnectionPatch, caller: Admin) -> Response:
    """Change a connection. `provider_config` replaces the whole of it, credentials too."""
    notes = notes_on(caller, spec)
    _refuse_writing(spec.write_enabled)
    changed = await in_slow_thread(lambda: _patch(connection_identifier, spec, caller))
    return answer(present(changed, caller.actor.organization_id) | notes)


def _patch(identifier: str, spec: ConnectionPatch, caller: Caller) -> Record:
    scope, services = caller.organization, caller.services
    with services.db.read(scope) as reading:
        current = reading.get(CONNECTION, identifier)
    body = dict(current.body)
    if spec.provider_config is not None:
        config, credentials = checked_config(body["provider_type"], spec.provider_config)
        if spec.test_before_save is not False:
            services.around.reach.sql.check(
                Connection(scope.organization_id, current.id, current.name, body["provider_type"], config, credentials)
            )
        body |= stored_body(services.vault, scope, current.id, config, credentials)
    sent = spec.model_dump(mode="json", exclude_unset=True, include={"description", "metadata", "is_active"})
    body |= {name: value for name, value in sent.items() if name != "is_active" or value is not None}
    with services.db.begin(scope, caller.actor.key_id) as tx:
        changed = tx.change(current, body, spec.name)
        tx.emit("storage_connection.updated", changed.id, {"fields": sorted(spec.model_fields_set)})
    return changed


@router.delete(_ONE, operation_id="delete_storage_connection_organizations", response_model=None)
def delete(connection_identifier: str, tx: AdminWrite, caller: Admin) -> Response:
    """Remove a connection at once. Retrievers that use it fail at their next execution."""
    current = tx.get(CONNECTION, connection_identifier)
    tx.remove(current)
    tx.emit("storage_connection.deleted", current.id, {"name": current.name})
    return answer({"connection_id": current.id, "message": f"connection '{current.name}' deleted"})


@router.post(f"{_ONE}/test", operation_id="test_storage_connection_organizations", response_model=None)
async def test(connection_identifier: str, caller: Admin) -> Response:
    """Connect and read one row; a failure is an answer, not an error."""

    def work() -> dict[str, Any]:
        scope, services = caller.organization, caller.services
        with services.db.read(scope) as tx:
            current = tx.get(CONNECTION, connection_identifier)
        outcome = {"success": True, "message": "the connection works", "tested_at": clock.now()}
        try:
            services.around.reach.sql.check(opened(services.vault, scope, current))
        except MediathecaError as error:
            outcome |= {"success": False, "message": error.message, "error": error.message}
        kind = "storage_connection.tested" if outcome["success"] else "storage_connection.failed"
        with services.db.begin(scope, caller.actor.key_id) as tx:
            tx.emit(kind, current.id, {"name": current.name})
        return outcome

    return answer(await in_slow_thread(work))
