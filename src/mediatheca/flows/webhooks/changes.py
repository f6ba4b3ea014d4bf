"""Making, changing and removing webhooks. Addresses are resolved before a transaction begins, never inside one."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import orjson

from mediatheca.flows.delivery import ChannelRef, refs_of, resolve_channels, rotate_signing
from mediatheca.flows.services import Services
from mediatheca.flows.webhooks.config import (
    MAX_ALL_CHANNELS,
    MAX_WEBHOOKS,
    channels_given,
    events_given,
    is_signed,
    namespace_given,
    resource_types_given,
)
from mediatheca.flows.webhooks.health import begin_health, clear_health, end_health
from mediatheca.flows.webhooks.subscriptions import KIND
from mediatheca.kernel import clock
from mediatheca.kernel.clock import wire_time
from mediatheca.kernel.errors import ConflictError, ValidationError
from mediatheca.kernel.event_names import silent
from mediatheca.kernel.ids import check_name
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.tx import Record, Tx

_PREFIX = "wh"
_WHERE = ("body", "channels")
_KEPT = ("description", "metadata")
_METADATA_BYTES = 16 << 10
MAX_GRACE_S = 7 * 86_400
"""How long an old signing secret may still be used besides the new one."""


def create(
    services: Services, scope: Scope, actor: str, sent: Mapping[str, Any], header: str | None = None
) -> tuple[Record, list[ChannelRef], list[str]]:
    """Store a webhook. Gives the record, its channels with the secrets that were made for them, and warnings.

    Raises:
        ValidationError, NotFoundError, ConflictError: what is wrong with it.
    """
    name = _name(sent)
    events, raw = events_given(sent), channels_given(sent)
    if events is None:
        raise ValidationError.at(("body", "event_types"), "is required: a list of event types, or '*'", "missing")
    if raw is None:
        raise ValidationError.at(("body", "channels"), "is required: a list of channels, or a 'url'", "missing")
    types = resource_types_given(sent)
    with services.db.read(scope) as reading:
        namespace_id, notes = namespace_given(reading, sent, header)
        refs = resolve_channels(reading, raw, _WHERE, services)
    body = {
        "events": events,
        "resource_types": types,
        "namespace_id": namespace_id,
        "deliver_to": [ref.stored() for ref in refs],
        "is_active": _active(sent, True),
        "active_since": wire_time(clock.now()),
        **_kept(sent),
    }

    def write(tx: Tx) -> Record:
        if tx.count("resources", {"kind": KIND}) >= MAX_WEBHOOKS:
            raise ConflictError(f"the organization has {MAX_WEBHOOKS} webhooks already; delete some")
        _check_channels(tx, len(refs))
        made = tx.put(KIND, _PREFIX, name, body, ident=f"{_PREFIX}_{secrets.token_hex(8)}")
        begin_health(tx, made)
        tx.emit("webhook.created", made.id, {"name": name})
        return made

    return services.db.run(scope, write, actor), refs, [*notes, *silent(events)]


def change(
    services: Services, scope: Scope, actor: str, identifier: str, sent: Mapping[str, Any], *, whole: bool
) -> tuple[Record, list[ChannelRef], list[str]]:
    """Change what was sent, or with `whole` replace everything that clients of every age know of.

    A secret that comes back masked, or not at all, stays as it was. Switching it on forgets its failures.

    Raises:
        ValidationError, NotFoundError, ConflictError: what is wrong with it.
    """
    with services.db.read(scope) as reading:
        current = reading.get(KIND, identifier)
        body = {**current.body, **_changes(sent, current, whole=whole)}
        if "namespace_id" in sent:
            body["namespace_id"] = namespace_given(reading, sent, None)[0]
        raw = channels_given(sent)
        old = refs_of(current)
        refs = list(old) if raw is None else resolve_channels(reading, raw, _WHERE, services, current=old)
    body["deliver_to"] = [ref.stored() for ref in refs]
    name = _name(sent) if sent.get("webhook_name") is not None else current.name
    switched_on = body["is_active"] and not current.body["is_active"]
    if switched_on:
        body["active_since"] = wire_time(clock.now())

    def write(tx: Tx) -> Record:
        if len(refs) > len(old):
            _check_channels(tx, len(refs), current.id)
        changed = tx.change(current, body, name)
        if switched_on:
            clear_health(tx, changed)
        tx.emit("webhook.updated", changed.id, {"version": changed.version, "is_active": body["is_active"]})
        return changed

    return services.db.run(scope, write, actor), refs, silent(body["events"])


def _check_channels(tx: Tx, number: int, ident: str = "") -> None:
    others = sum(len(each.body.get("deliver_to") or ()) for each in tx.resources(KIND) if each.id != ident)
    if others + number > MAX_ALL_CHANNELS:
        message = f"the webhooks of an organization have at most {MAX_ALL_CHANNELS} channels together"
        raise ConflictError(f"{message}, the others have {others} and this one {number}; leave out or delete some")


def _changes(sent: Mapping[str, Any], current: Record, *, whole: bool) -> dict[str, Any]:
    """The plain fields of a change. `namespace_id`, which older clients do not know, is no part of a whole."""
    found: dict[str, Any] = {}
    events = events_given(sent, current.body["events"])
    if whole:
        missing = [("webhook_name", sent.get("webhook_name")), ("event_types", events)]
        missing.append(("channels", channels_given(sent)))
        if lacking := [key for key, value in missing if value is None]:
            message = f"is required where a webhook is replaced; PATCH changes single fields (missing: {lacking})"
            raise ValidationError.at(("body", lacking[0]), message, "missing")
    if events is not None:
        found["events"] = events
    if whole or "resource_types" in sent:
        found["resource_types"] = resource_types_given(sent)
    found["is_active"] = _active(sent, True if whole else current.body["is_active"])
    return found | _kept(sent)


def _kept(sent: Mapping[str, Any]) -> dict[str, Any]:
    """What is stored as it comes. The whole webhook is read for every page of events, so it has to stay small."""
    if len(orjson.dumps(sent.get("metadata"), default=str)) > _METADATA_BYTES:
        raise ValidationError.at(("body", "metadata"), f"may have {_METADATA_BYTES >> 10} kB as JSON", "too_long")
    return {key: sent[key] for key in _KEPT if key in sent}


def delete(tx: Tx, identifier: str) -> Record:
    """Remove a webhook; what is still to be delivered is given up. Raises NotFoundError."""
    current = tx.get(KIND, identifier)
    tx.remove(current)
    end_health(tx, current)
    tx.delete("deliveries", {"target_kind": KIND, "target_id": current.id})
    tx.emit("webhook.deleted", current.id, {"name": current.name})
    return current


def rotate(services: Services, scope: Scope, actor: str, identifier: str, grace_s: int) -> tuple[Record, str]:
    """Give a webhook a new signing secret; the old one is used besides for `grace_s` seconds.

    Raises:
        NotFoundError: there is no such webhook.
        ConflictError: it has no channel that is signed, or was changed meanwhile.
    """
    with services.db.read(scope) as reading:
        current = reading.get(KIND, identifier)
    refs = refs_of(current)
    if not any(is_signed(ref) for ref in refs):
        raise ConflictError(f"the webhook '{current.name}' has no channel of its own that is signed")
    rotated, secret = rotate_signing(services.vault, scope, refs, grace_s)

    def write(tx: Tx) -> Record:
        changed = tx.change(current, {**current.body, "deliver_to": [ref.stored() for ref in rotated]})
        tx.emit("webhook.secret_rotated", changed.id, {"grace_seconds": grace_s})
        return changed

    return services.db.run(scope, write, actor), secret


def _name(sent: Mapping[str, Any]) -> str:
    name = sent.get("webhook_name")
    if not isinstance(name, str):
        raise ValidationError.at(("body", "webhook_name"), "is required: a string", "missing")
    return check_name("webhook_name", name, _PREFIX, high=200)


def _active(sent: Mapping[str, Any], default: bool) -> bool:
    """`is_active`, or its other spelling `enabled`."""
    given = [sent[key] for key in ("is_active", "enabled") if sent.get(key) is not None]
    return bool(given[0]) if given else default
