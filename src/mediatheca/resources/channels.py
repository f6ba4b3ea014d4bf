"""Stored channels of an organization: set up once, used by webhooks and alerts by their id. For admins only."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import AliasChoices, Field

from mediatheca.api.deps import Admin, AdminWrite, Caller, OrgRead, answer, in_slow_thread
from mediatheca.api.lists import Listed, listed
from mediatheca.channels import Channel
from mediatheca.flows.delivery import (
    ChannelRef,
    delivery_view,
    enqueue_delivery,
    list_deliveries,
    refs_of,
    replay,
    resolve_channels,
    rotate_signing,
)
from mediatheca.flows.delivery.refs import FIELD, KIND, PREFIX
from mediatheca.flows.delivery.unread import channel_notes
from mediatheca.flows.vault import TARGETS
from mediatheca.kernel import clock
from mediatheca.kernel.errors import BadRequestError, ConflictError
from mediatheca.kernel.ids import check_name, new_id
from mediatheca.resources.base import Spec, notes_on
from mediatheca.stores.db.tx import ReadTx, Record, record

router = APIRouter(tags=["channels"])

_PATH = "/organizations/channels"
_ONE = f"{_PATH}/{{channel_identifier}}"
_DAY_S = 86_400.0
_BODY = ("body",)


class ChannelSpec(Spec):
    channel_name: str = Field(validation_alias=AliasChoices("channel_name", "name"))
    channel_type: str = Field(validation_alias=AliasChoices("channel_type", "channel"), max_length=40)
    config: Any = Field(
        default_factory=dict, validation_alias=AliasChoices("config", "configs"), json_schema_extra={"type": "object"}
    )
    """No type here: a refusal by type would repeat what it got, and it may hold secrets."""
    description: str | None = Field(None, max_length=1000)
    metadata: dict[str, Any] | None = None


class ChannelPatch(Spec):
    channel_name: str | None = Field(None, validation_alias=AliasChoices("channel_name", "name"))
    config: Any = Field(None, validation_alias=AliasChoices("config", "configs"), json_schema_extra={"type": "object"})
    """Replaces all settings; what is masked in it stays as it is stored."""
    description: str | None = Field(None, max_length=1000)
    metadata: dict[str, Any] | None = None


class RotateSpec(Spec):
    grace_seconds: float = _DAY_S
    """How long the secret before stays valid."""


def present(found: Record, secret: str = "") -> dict[str, Any]:
    (ref,) = refs_of(found)
    shown = {
        "channel_id": found.id,
        "channel_name": found.name,
        "name": found.name,
        "channel_type": ref.channel,
        "config": ref.config,
        "description": found.body.get("description"),
        "metadata": found.body.get("metadata") or {},
        "created_at": found.created_at,
        "updated_at": found.updated_at,
    }
    return shown | ({"signing_secret": secret} if secret else {})


@router.get(f"{_PATH}/types", operation_id="list_channel_types_organizations", response_model=None)
def types(caller: Admin) -> Response:
    """The types of channels there are, with the schema of their settings."""
    shown = [_type(channel) for channel in caller.services.deliverer.channels.values()]
    return answer({"results": shown, "total": len(shown)})


def _type(channel: Channel) -> dict[str, Any]:
    return {
        "channel_type": channel.name,
        "description": channel.summary,
        "config_schema": channel.params.model_json_schema(),
        "secret_fields": list(channel.secret_fields),
        "signs": channel.signs,
    }


@router.post(_PATH, operation_id="create_channel_organizations", response_model=None)
async def create(spec: ChannelSpec, caller: Admin) -> Response:
    """Store a channel. A signing secret is in this answer and in no later one."""
    notes = _notes(caller, spec, spec.channel_type)
    made, secret = await in_slow_thread(lambda: _create(spec, caller))
    return answer(present(made, secret) | notes)


def _notes(caller: Caller, spec: ChannelSpec | ChannelPatch, channel_type: str) -> dict[str, list[str]]:
    unread = channel_notes(caller.services, {"channel_type": channel_type, "config": spec.config})
    return notes_on(caller, spec, *unread)


def _create(spec: ChannelSpec, caller: Caller) -> tuple[Record, str]:
    name = check_name("channel_name", spec.channel_name, PREFIX)
    ref = _resolved(caller, spec.channel_type, spec.config)
    body = {FIELD: [ref.stored()], "description": spec.description, "metadata": spec.metadata}
    with caller.services.db.begin(caller.organization, caller.actor.key_id) as tx:
        made = tx.put(KIND, PREFIX, name, body)
        tx.emit("channel.created", made.id, {"name": made.name, "channel_type": ref.channel})
    return made, ref.secret


def _resolved(caller: Caller, kind: str, config: Any, current: Record | None = None) -> ChannelRef:
    """Outside the transaction that writes: names are looked up."""
    raw = {"channel_type": kind, "config": config}
    with caller.services.db.read(caller.organization) as tx:
        (ref,) = resolve_channels(
            tx, [raw], _BODY, caller.services, current=refs_of(current) if current is not None else ()
        )
    return ref


@router.get(_PATH, operation_id="get_channels_organizations", response_model=None)
def get_list(query: Listed, tx: OrgRead, caller: Admin) -> Response:
    """Stored channels, newest first."""
    return _listed(query, tx)


@router.post(f"{_PATH}/list", operation_id="list_channels_organizations", response_model=None)
def list_(query: Listed, tx: OrgRead, caller: Admin) -> Response:
    """Stored channels, newest first."""
    return _listed(query, tx)


def _listed(query: Listed, tx: ReadTx) -> Response:
    page = tx.page("resources", {"kind": KIND}, query, {"channel_name": "name", "channel_id": "id"})
    return answer(listed(page, [present(record(row)) for row in page.rows]))


@router.get(_ONE, operation_id="get_channel_organizations", response_model=None)
def get(channel_identifier: str, tx: OrgRead, caller: Admin) -> Response:
    return answer(present(tx.get(KIND, channel_identifier)))


@router.patch(_ONE, operation_id="update_channel_organizations", response_model=None)
async def patch(channel_identifier: str, spec: ChannelPatch, caller: Admin) -> Response:
    """Change a channel. It counts at once, also for what is queued already."""
    changed, secret, notes = await in_slow_thread(lambda: _patch(channel_identifier, spec, caller))
    return answer(present(changed, secret) | notes)


def _patch(identifier: str, spec: ChannelPatch, caller: Caller) -> tuple[Record, str, dict[str, list[str]]]:
    with caller.services.db.read(caller.organization) as reading:
        current = reading.get(KIND, identifier)
    notes = _notes(caller, spec, refs_of(current)[0].channel)
    sent = spec.model_dump(mode="json", exclude_unset=True, include={"description", "metadata"})
    body, secret = {**current.body, **sent}, ""
    if spec.config is not None:
        ref = _resolved(caller, refs_of(current)[0].channel, spec.config, current)
        body, secret = {**body, FIELD: [ref.stored()]}, ref.secret
    name = check_name("channel_name", spec.channel_name, PREFIX) if spec.channel_name else None
    with caller.services.db.begin(caller.organization, caller.actor.key_id) as tx:
        changed = tx.change(current, body, name)
        tx.emit("channel.updated", changed.id, {"name": changed.name, "fields": sorted(spec.model_fields_set)})
    return changed, secret, notes


@router.delete(_ONE, operation_id="delete_channel_organizations", response_model=None)
def delete(channel_identifier: str, tx: AdminWrite, caller: Admin, force: bool = False) -> Response:
    """Remove a channel. Refused while something uses it, unless `force`; what waits for it is then canceled."""
    current = tx.get(KIND, channel_identifier)
    users = _users(tx, current.id)
    if users and not force:
        raise ConflictError(
            f"channel '{current.name}' is used by {', '.join(users[:5])}; change that first, or give force=true",
            details={"used_by": users[:100]},
        )
    tx.remove(current)
    tx.emit("channel.deleted", current.id, {"name": current.name})
    return answer({"success": True, "channel_id": current.id, "message": f"channel '{current.name}' deleted"})


def _users(tx: ReadTx, channel_id: str) -> list[str]:
    """What names the channel, in all namespaces."""
    levels = [tx, *(tx.within(namespace.id) for namespace in tx.resources("namespace"))]
    return [
        f"{kind} '{each.name}'"
        for level in levels
        for kind in TARGETS
        for each in level.resources(kind)
        if any(ref.channel_id == channel_id for ref in refs_of(each))
    ]


@router.post(f"{_ONE}/test", operation_id="test_channel_organizations", response_model=None)
def test(channel_identifier: str, tx: AdminWrite, caller: Admin) -> Response:
    """Queue a test message. Its delivery says how it went."""
    current = tx.get(KIND, channel_identifier)
    ident = new_id("evt")
    text = f"This is a test of the channel '{current.name}'."
    body = {
        "event_id": ident,
        "event_type": "channel.test",
        "occurred_at": clock.wire_time(clock.now()),
        "organization_id": caller.actor.organization_id,
        "subject": {"type": KIND, "id": current.id},
        "data": {"message": text},
        "title": "Test message",
        "text": text,
    }
    (delivery,) = enqueue_delivery(
        tx, target_kind="channel", target_id=current.id, channels=refs_of(current), message_id=ident,
        event_type="channel.test", body=body, always=True,
    )  # fmt: skip
    return answer({"success": True, "delivery_id": delivery, "event_id": ident, "status": "pending"})


@router.get(f"{_ONE}/deliveries", operation_id="list_channel_deliveries_organizations", response_model=None)
def deliveries(
    channel_identifier: str,
    query: Listed,
    tx: OrgRead,
    caller: Admin,
    status: Annotated[str, Query(max_length=20)] = "",
) -> Response:
    """What was sent to the channel itself (tests), newest first."""
    page = list_deliveries(tx, "channel", tx.get(KIND, channel_identifier).id, query, status)
    return answer(listed(page, [delivery_view(row) for row in page.rows]))


@router.post(
    f"{_ONE}/deliveries/{{delivery_id}}/replay",
    operation_id="replay_channel_delivery_organizations",
    response_model=None,
)
def again(channel_identifier: str, delivery_id: str, tx: AdminWrite, caller: Admin) -> Response:
    """Send a message once more, with the same id."""
    return answer(delivery_view(replay(tx, "channel", tx.get(KIND, channel_identifier).id, delivery_id)))


@router.post(f"{_ONE}/secret/rotate", operation_id="rotate_channel_secret_organizations", response_model=None)
def rotate(channel_identifier: str, tx: AdminWrite, caller: Admin, spec: RotateSpec | None = None) -> Response:
    """A new signing secret; the one before stays valid for `grace_seconds` (a day), so that receivers can change."""
    current = tx.get(KIND, channel_identifier)
    grace = (spec or RotateSpec()).grace_seconds
    refs, secret = rotate_signing(caller.services.vault, caller.organization, refs_of(current), grace)
    if not secret:
        raise BadRequestError(f"channel '{current.name}' signs nothing, so it has no secret to rotate")
    changed = tx.change(current, {**current.body, FIELD: [ref.stored() for ref in refs]})
    tx.emit("channel.updated", changed.id, {"name": changed.name, "fields": ["signing_secret"]})
    return answer(present(changed, secret))
