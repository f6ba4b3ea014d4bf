"""Syncs: a bucket that follows a folder of somebody's object store. What they do is in `sync_runs`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import AliasChoices, Field

from mediatheca.api.deps import Caller, Delete, Read, Reader, Write, Writer, answer, deleted, in_slow_thread
from mediatheca.api.lists import Listed, listed
from mediatheca.flows.bodies import checked
from mediatheca.flows.outside.connections import Connection, new_connection_id, opened
from mediatheca.flows.syncs.config import MODES, NOT_HERE, FileFilters, Part, Reconcile, SchemaMapping, zoned
from mediatheca.flows.syncs.connections import (
    check_addresses,
    check_path,
    check_templates,
    checked_storage,
    connector_of,
    need_connector,
    sealed_storage,
)
from mediatheca.flows.syncs.mapping import Mapper
from mediatheca.flows.syncs.state import KIND, alter, create_sync, plan, remove_sync, require, set_paused
from mediatheca.flows.vault import CONNECTION
from mediatheca.kernel.clock import wire_time
from mediatheca.kernel.errors import NotFoundError, ValidationError
from mediatheca.kernel.filters import all_of, parse_filter
from mediatheca.kernel.ids import new_id
from mediatheca.kernel.schema import parse_schema
from mediatheca.resources._sync_view import sync_views
from mediatheca.resources.base import Spec, notes_on
from mediatheca.stores.db.tx import ReadTx, Record, Tx, record

router = APIRouter(tags=["syncs"])
PATH = "/buckets/{bucket_id}/syncs"
ONE = f"{PATH}/{{sync_config_id}}"
CONCURRENCY = 8
MAX_CONCURRENCY = 32
Ids = Annotated[list[str], Field(max_length=100)]
_PARTS: Mapping[str, type[Part]] = {
    "file_filters": FileFilters,
    "schema_mapping": SchemaMapping,
    "reconcile": Reconcile,
}
_INNER = (
    "source_path", "sync_mode", "polling_interval", "polling_interval_seconds", "file_filters", "schema_mapping",
    "batch_size", "skip_duplicates", "skip_batch_submission", "batch_collection_ids", "reconcile", "sync_from",
)  # fmt: skip
"""What the older form may put into `sync_config`."""


class _Common(Spec):
    """What may be set at first and changed later."""

    source_path: str | None = Field(None, max_length=1024)
    description: str | None = Field(None, max_length=500)
    metadata: dict[str, Any] | None = None
    polling_interval_seconds: int | None = Field(
        None, ge=30, le=86400, validation_alias=AliasChoices("polling_interval_seconds", "polling_interval")
    )
    batch_size: int | None = Field(None, ge=1, le=100)
    file_filters: dict[str, Any] | None = None
    schema_mapping: dict[str, Any] | None = None
    reconcile: dict[str, Any] | None = None
    provider_filters: dict[str, Any] | None = None
    skip_duplicates: bool | None = None
    skip_batch_submission: bool | None = None
    batch_collection_ids: Ids | None = None
    batch_chunk_size: int | None = Field(None, ge=1, le=1000)
    max_objects_per_run: int | None = Field(None, ge=1, le=10_000_000)
    sync_concurrency: int | None = Field(None, ge=1, le=100)
    sync_from: datetime | None = None
    ingest_filter: dict[str, Any] | None = None
    source_adapter: dict[str, Any] | None = None

    def refuse_missing_features(self) -> None:
        """Raises ValidationError rather than accept what would silently do nothing."""
        for name, why in NOT_HERE.items():
            if getattr(self, name):
                raise ValidationError.at(("body", name), f"is not available: {why}", "not_available")
        unknown = sorted(set(self.provider_filters or {}) - {"prefix"})
        if unknown:
            message = f"'{unknown[0][:50]}' is not available for object stores; 'prefix' is, and file_filters"
            raise ValidationError.at(("body", "provider_filters"), message, "not_available")
        if not isinstance((self.provider_filters or {}).get("prefix", ""), str):
            raise ValidationError.at(("body", "provider_filters", "prefix"), "must be a string", "string_type")


class SyncSpec(_Common):
    """A new sync, of a stored connection (`connection_id`), or in the older form with the connection in the request:
    `provider`, `connection`, `sync_config`."""

    connection_id: str | None = Field(None, min_length=1, max_length=200)
    sync_mode: str = Field("continuous", max_length=40)
    provider: str | None = Field(None, max_length=50)
    connection: Any = Field(None, json_schema_extra={"type": "object"})
    """No type: a refusal by type would repeat what it got, and it holds credentials."""
    sync_config: dict[str, Any] | None = None


class SyncPatch(_Common):
    """What may change. `is_active` pauses and resumes; `status` may say `ACTIVE` or `SUSPENDED`."""

    sync_mode: str | None = Field(None, max_length=40)
    is_active: bool | None = None
    status: str | None = Field(None, max_length=40)


def _flat(spec: SyncSpec) -> SyncSpec:
    """The older form as the newer one: what is in `sync_config` beside the rest."""
    inner = spec.sync_config
    if inner is None:
        return spec
    unknown = sorted(set(inner) - set(_INNER))
    if unknown:
        message = f"'{unknown[0][:50]}' is no field of it; known: {', '.join(_INNER)}"
        raise ValidationError.at(("body", "sync_config", unknown[0][:50]), message, "extra_forbidden")
    outer = spec.model_dump(exclude_unset=True, exclude={"sync_config", "connection"})
    made = checked(SyncSpec, {**outer, **inner}, ("body", "sync_config"))
    made.connection = spec.connection
    return made


def _mode(given: str) -> str:
    if given not in MODES:
        message = f"'{given[:40]}' is none; continuous or initial_only"
        raise ValidationError.at(("body", "sync_mode"), message, "enum")
    return MODES[given]


def _parts(spec: _Common) -> dict[str, Any]:
    """The nested parts that were sent, checked, as they are stored."""
    made: dict[str, Any] = {}
    for name, model in _PARTS.items():
        value = getattr(spec, name)
        if name in spec.model_fields_set:
            part = None if value is None else checked(model, value, ("body", name))
            made[name] = None if part is None else part.model_dump(mode="json")
    return made


def _plain(spec: _Common, tx: ReadTx) -> dict[str, Any]:
    """The other fields that were sent, null for their default, as they are stored."""
    names = (
        "source_path", "description", "metadata", "polling_interval_seconds", "batch_size", "provider_filters",
        "skip_duplicates", "skip_batch_submission", "batch_chunk_size", "max_objects_per_run",
    )  # fmt: skip
    made = {name: getattr(spec, name) for name in names if name in spec.model_fields_set}
    made = {name: DEFAULTS[name] if value is None else value for name, value in made.items()}
    if "sync_from" in spec.model_fields_set:
        since = zoned(spec.sync_from)
        made["sync_from"] = None if since is None else wire_time(since)
    if "sync_concurrency" in spec.model_fields_set:
        made["sync_concurrency"] = min(spec.sync_concurrency or CONCURRENCY, MAX_CONCURRENCY)
    if "batch_collection_ids" in spec.model_fields_set:
        made["batch_collection_ids"] = [tx.get("collection", each).id for each in spec.batch_collection_ids or ()]
    return made


DEFAULTS: Mapping[str, Any] = {
    "source_path": "", "description": None, "metadata": {}, "polling_interval_seconds": 300, "batch_size": 50,
    "file_filters": None, "schema_mapping": None, "reconcile": None, "provider_filters": None, "skip_duplicates": True,
    "skip_batch_submission": False, "batch_collection_ids": [], "batch_chunk_size": 100, "max_objects_per_run": 100_000,
    "sync_concurrency": CONCURRENCY, "sync_from": None,
}  # fmt: skip


# ---- create


@router.post(PATH, operation_id="create_sync_configuration_buckets", response_model=None)
async def create(bucket_id: str, spec: SyncSpec, caller: Writer) -> Response:
    """Let a bucket follow a folder. The first run begins when it is triggered, or after the polling interval."""
    notes = notes_on(caller, spec)
    spec = _flat(spec)
    spec.refuse_missing_features()
    made = await in_slow_thread(lambda: _create(bucket_id, spec, caller))
    return answer(made | notes)


def _create(bucket_id: str, spec: SyncSpec, caller: Caller) -> dict[str, Any]:
    ident = new_id(KIND)
    mode, parts = _mode(spec.sync_mode), _parts(spec)
    connection, fresh = _inline(spec, ident, caller) if spec.connection_id is None else _stored(spec, caller)
    path = spec.source_path or ""
    check_path(caller.services, connection, path)
    with caller.services.db.begin(caller.scope, caller.actor.key_id) as tx:
        bucket = tx.get("bucket", bucket_id)
        body = {**DEFAULTS, **_plain(spec, tx), **parts, "sync_mode": mode, "connection_id": connection.connection_id}
        body |= {"provider_type": connection.provider_type, "owns_connection": fresh is not None}
        _check_mapping(bucket, body)
        if fresh is not None:
            upper = tx.within("")
            own = upper.put(CONNECTION, "conn", f"sync {ident}", fresh, ident=connection.connection_id)
            told = {"name": own.name, "provider_type": connection.provider_type}
            upper.emit("storage_connection.created", own.id, told)
        sync = create_sync(tx, bucket.id, body, ident)
        return sync_views(tx, [sync])[0]


def _check_mapping(bucket: Record, body: Mapping[str, Any]) -> None:
    Mapper(body["schema_mapping"], parse_schema(bucket.body["bucket_schema"])).check()


def _stored(spec: SyncSpec, caller: Caller) -> tuple[Connection, None]:
    if spec.connection is not None or spec.provider is not None:
        message = "goes without provider and connection, which describe a new one"
        raise ValidationError.at(("body", "connection_id"), message, "connection")
    services = caller.services
    with services.db.read(caller.organization) as tx:
        found = tx.get(CONNECTION, str(spec.connection_id))
    if found.body.get("owner"):  # another sync's own
        raise NotFoundError(CONNECTION, str(spec.connection_id))
    if connector_of(services, found.body["provider_type"]) is None:
        message = f"'{found.name}' is a {found.body['provider_type']}, which holds no files; use one of an object store"
        raise ValidationError.at(("body", "connection_id"), message, "provider_type")
    return opened(services.vault, caller.organization, found), None


def _inline(spec: SyncSpec, sync_id: str, caller: Caller) -> tuple[Connection, dict[str, Any]]:
    """The connection of the older form: it belongs to the sync, and goes with it."""
    if spec.provider is None or spec.connection is None:
        message = "is required: the id of a connection, or provider and connection for a new one"
        raise ValidationError.at(("body", "connection_id"), message, "missing")
    services, where = caller.services, ("body", "connection")
    connector = need_connector(services, spec.provider)
    config, credentials = checked_storage(connector, spec.connection, where)
    check_templates(credentials or {}, where)
    check_addresses(services, connector, config)
    ident, scope = new_connection_id(), caller.organization
    body = {
        **sealed_storage(services.vault, scope, ident, config, credentials or {}),
        "provider_type": connector.name,
        "metadata": {"declared_provider": spec.provider} if spec.provider != connector.name else {},
        "description": "made with its sync",
        "is_active": True,
        "owner": sync_id,
        "created_by": caller.actor.user_id,
    }
    made = Connection(scope.organization_id, ident, f"sync {sync_id}", connector.name, config, credentials or {})
    return made, body


# ---- read, change, delete


@router.post(f"{PATH}/list", operation_id="list_sync_configurations_buckets", response_model=None)
def list_(bucket_id: str, query: Listed, tx: Read, caller: Reader, body: dict[str, Any] | None = None) -> Response:
    """Syncs of a bucket, newest first; `connection_id`, `status` and `is_active` narrow the list."""
    asked = body or {}
    wanted = {name: asked[name] for name in ("connection_id", "status") if asked.get(name) is not None}
    if asked.get("is_active") is not None:
        wanted["paused"] = asked["is_active"] is not True
    for name, value in wanted.items():
        if not isinstance(value, str | bool):
            raise ValidationError.at(("body", name), "must be a string", "string_type")
        equal = parse_filter({"field": name, "operator": "eq", "value": value})
        query = replace(query, filter=all_of(query.filter, equal))
    page = tx.page("resources", {"kind": KIND, "parent": tx.get("bucket", bucket_id).id}, query)
    return answer(listed(page, sync_views(tx, [record(row) for row in page.rows])))


@router.get(ONE, operation_id="get_sync_configuration_buckets_id_config", response_model=None)
def get(bucket_id: str, sync_config_id: str, tx: Read) -> Response:
    return answer(sync_views(tx, [find(tx, bucket_id, sync_config_id)])[0])


def find(tx: ReadTx, bucket_id: str, sync_config_id: str) -> Record:
    """A sync of a bucket. Raises NotFoundError."""
    return tx.get(KIND, sync_config_id, tx.get("bucket", bucket_id).id)


def held(tx: Tx, bucket_id: str, sync_config_id: str) -> Record:
    """A sync that nobody else may change meanwhile. Raises NotFoundError."""
    return require(tx, tx.get("bucket", bucket_id).id, sync_config_id)


@router.patch(ONE, operation_id="update_sync_configuration_buckets_id_config", response_model=None)
async def patch(bucket_id: str, sync_config_id: str, spec: SyncPatch, caller: Writer) -> Response:
    """Change a sync. A run that goes on keeps its folder; everything else holds from its next part on."""
    notes = notes_on(caller, spec)
    spec.refuse_missing_features()
    changed = await in_slow_thread(lambda: _patch(bucket_id, sync_config_id, spec, caller))
    return answer(changed | notes)


def _patch(bucket_id: str, sync_config_id: str, spec: SyncPatch, caller: Caller) -> dict[str, Any]:
    active = _active(spec)
    services, parts = caller.services, _parts(spec)
    if spec.source_path is not None:
        _check_new_path(bucket_id, sync_config_id, spec.source_path, caller)

    def change(tx: Tx) -> dict[str, Any]:
        sync = held(tx, bucket_id, sync_config_id)
        values = {**_plain(spec, tx), **parts}
        if spec.sync_mode is not None:
            values["sync_mode"] = _mode(spec.sync_mode)
        _check_mapping(tx.get("bucket", sync.parent), {**sync.body, **values})
        if values:
            sync = alter(tx, sync, **values)
        if {"sync_mode", "polling_interval_seconds"} & set(values):
            plan(tx, sync)
        if active is not None:
            sync = set_paused(tx, sync, not active)
        tx.emit("sync.updated", sync.id, {"fields": sorted(spec.model_fields_set), "version": sync.version})
        return sync_views(tx, [sync])[0]

    return services.db.run(caller.scope, change, caller.actor.key_id)


def _check_new_path(bucket_id: str, sync_config_id: str, path: str, caller: Caller) -> None:
    services = caller.services
    with services.db.read(caller.scope) as tx:
        sync = find(tx, bucket_id, sync_config_id)
    with services.db.read(caller.organization) as tx:
        found = tx.get(CONNECTION, sync.body["connection_id"])
    check_path(services, opened(services.vault, caller.organization, found), path)


def _active(spec: SyncPatch) -> bool | None:
    """Whether it shall run from now on; None: as before."""
    if spec.status is None:
        return spec.is_active
    states = {"ACTIVE": True, "SUSPENDED": False, "PAUSED": False}
    if spec.status.upper() not in states:
        message = "may be set to ACTIVE or SUSPENDED; every other state comes by itself"
        raise ValidationError.at(("body", "status"), message, "enum")
    return states[spec.status.upper()]


@router.delete(ONE, operation_id="delete_sync_configuration_buckets_id_config", response_model=None)
def delete(bucket_id: str, sync_config_id: str, tx: Delete) -> Response:
    """Remove a sync with what it knows of the source. The objects it made stay in the bucket."""
    sync = held(tx, bucket_id, sync_config_id)
    remove_sync(tx, sync)
    return deleted(KIND, sync.id, sync_config_id=sync.id)


@router.post(f"{ONE}/pause", operation_id="pause_sync_configuration_buckets_id_config", response_model=None)
def pause(bucket_id: str, sync_config_id: str, tx: Write) -> Response:
    """Begin no more runs. One that goes on ends by itself."""
    return answer(sync_views(tx, [set_paused(tx, held(tx, bucket_id, sync_config_id), True)])[0])


@router.post(f"{ONE}/resume", operation_id="resume_sync_configuration_buckets_id_config", response_model=None)
def resume(bucket_id: str, sync_config_id: str, tx: Write) -> Response:
    """Go on. What was due meanwhile is not made up for: the next run finds it. A connection that is the sync's own and
    was suspended is switched on again."""
    sync = held(tx, bucket_id, sync_config_id)
    upper = tx.within("")
    own = upper.find(CONNECTION, sync.body["connection_id"]) if sync.body["owns_connection"] else None
    if own is not None and not own.body["is_active"]:
        upper.change(own, {**own.body, "is_active": True, "consecutive_failures": 0})
    return answer(sync_views(tx, [set_paused(tx, sync, False)])[0])
