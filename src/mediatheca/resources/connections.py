"""Connections of an organization to other systems. Credentials go in, and never come out. For admins only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Response
from pydantic import Field

from mediatheca.api.deps import Admin, AdminWrite, Caller, OrgRead, answer, in_slow_thread
from mediatheca.api.lists import Listed, listed
from mediatheca.flows.outside.connections import (
    SQL_PROVIDERS,
    Connection,
    checked_config,
    new_connection_id,
    opened,
    stored_body,
)
from mediatheca.flows.services import Services
from mediatheca.flows.syncs.connections import (
    check_addresses,
    check_storage,
    check_templates,
    checked_storage,
    need_connector,
    sealed_storage,
)
from mediatheca.flows.syncs.state import syncs_using
from mediatheca.flows.vault import CONNECTION
from mediatheca.kernel import clock
from mediatheca.kernel.errors import ConflictError, MediathecaError, NotEnabledError
from mediatheca.kernel.filters import all_of, parse_filter
from mediatheca.resources.base import Spec, is_true, notes_on
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
        "provider_config": {**body["config"], **({"credentials": body["credentials"]} if body["credentials"] else {})},
        "description": body.get("description"),
        "metadata": body.get("metadata") or {},
        "write_enabled": False,
        "is_active": body.get("is_active", True),
        "status": "ACTIVE" if body.get("is_active", True) else "SUSPENDED",
        "last_error": body.get("last_error"),
        "last_used_at": body.get("last_used_at"),
        "consecutive_failures": body.get("consecutive_failures", 0),
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
    ident, scope, services = new_connection_id(), caller.organization, caller.services
    name, config, sent = _configured(services, spec.provider_type, spec.provider_config)
    made = Connection(scope.organization_id, ident, spec.name, name, config, sent or {})
    if spec.test_before_save is not False:
        _check(services, made)
    declared = {"declared_provider": spec.provider_type} if spec.provider_type != name else {}
    body = {
        **_stored(services, caller, made),
        "provider_type": name,
        "description": spec.description,
        "metadata": {**(spec.metadata or {}), **declared} if declared else spec.metadata,
        "is_active": True,
        "created_by": caller.actor.user_id,
    }
    with services.db.begin(scope, caller.actor.key_id) as tx:
        kept = tx.put(CONNECTION, "conn", spec.name, body, ident=ident)
        tx.emit("storage_connection.created", kept.id, {"name": kept.name, "provider_type": name})
    return kept


def _configured(services: Services, kind: str, raw: Any) -> tuple[str, dict[str, Any], dict[str, str] | None]:
    """(provider, what is shown, credentials), checked. None: a store, and no credentials were sent."""
    if kind in SQL_PROVIDERS:
        return kind, *checked_config(kind, raw)
    try:
        connector = need_connector(services, kind, ("body", "provider_type"))
    except NotEnabledError as error:
        raise NotEnabledError(f"{error.message}; for SQL {', '.join(SQL_PROVIDERS)}") from None
    config, credentials = checked_storage(connector, raw)
    check_templates(credentials or {})
    check_addresses(services, connector, config)
    return connector.name, config, credentials


def _check(services: Services, connection: Connection) -> None:
    """Use it. Raises MediathecaError, repeating no credentials."""
    if connection.provider_type in SQL_PROVIDERS:
        services.around.reach.sql.check(connection)
    else:
        check_storage(services, connection)


def _stored(services: Services, caller: Caller, made: Connection) -> dict[str, Any]:
    seal = stored_body if made.provider_type in SQL_PROVIDERS else sealed_storage
    return seal(services.vault, caller.organization, made.connection_id, made.config, made.credentials)


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
    """Change a connection. `provider_config` replaces the whole of it, credentials too; those of a store stay as they
    are where none are sent."""
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
        name, config, fresh = _configured(services, body["provider_type"], spec.provider_config)
        credentials = opened(services.vault, scope, current).credentials if fresh is None else fresh
        made = Connection(scope.organization_id, current.id, current.name, name, config, credentials)
        if spec.test_before_save is not False:
            _check(services, made)
        body |= _stored(services, caller, made)
    sent = spec.model_dump(mode="json", exclude_unset=True, include={"description", "metadata", "is_active"})
    body |= {name: value for name, value in sent.items() if name != "is_active" or value is not None}
    if sent.get("is_active"):
        body |= {"consecutive_failures": 0, "last_error": None}
    with services.db.begin(scope, caller.actor.key_id) as tx:
        changed = tx.change(current, body, spec.name)
        tx.emit("storage_connection.updated", changed.id, {"fields": sorted(spec.model_fields_set)})
    return changed


@router.delete(_ONE, operation_id="delete_storage_connection_organizations", response_model=None)
def delete(connection_identifier: str, tx: AdminWrite, caller: Admin, force: str | None = None) -> Response:
    """Remove a connection at once. Retrievers that use it fail at their next execution. One that syncs use is kept,
    unless `force` says that they shall fail."""
    current = tx.get(CONNECTION, connection_identifier)
    using = [sync.id for sync in syncs_using(tx, current.id)]
    if using and not is_true(force):
        message = f"connection '{current.name}' is used by {len(using)} syncs; delete them first, or add ?force=true"
        raise ConflictError(message, details={"sync_config_ids": using[:100]})
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
            _check(services, opened(services.vault, scope, current))
        except MediathecaError as error:
            outcome |= {"success": False, "message": error.message, "error": error.message}
        kind = "storage_connection.tested" if outcome["success"] else "storage_connection.failed"
        with services.db.begin(scope, caller.actor.key_id) as tx:
            tx.emit(kind, current.id, {"name": current.name})
        return outcome

    return answer(await in_slow_thread(work))
