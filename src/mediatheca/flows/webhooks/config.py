"""A webhook as callers write it, in any of the shapes that circulate, and as it is stored.

`{url, events}`, `{event_types, channels: [{channel_type, config}], enabled}` and
`{event_types, channels: [{channel, configs}], is_active}` make one and the same webhook.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mediatheca.flows.delivery import ChannelRef, refs_of
from mediatheca.flows.webhooks.subscriptions import known_resource_types
from mediatheca.kernel.errors import NotFoundError, ValidationError
from mediatheca.kernel.event_names import normal_names, wire_names
from mediatheca.stores.db.tx import ReadTx, Record

MAX_CHANNELS = 20
MAX_WEBHOOKS = 50
"""Of an organization: each event is looked at for each of them."""
MAX_ALL_CHANNELS = 200
"""Of all webhooks of an organization: each event may become so many messages, of a whole page in one transaction."""
_SHORT = ("headers", "timeout", "payload_template", "signing_secret")
"""What may stand beside a `url`; it goes into the channel."""


def channels_given(sent: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    """The channels of a request, `url` as one of them; None: it has none.

    Raises:
        ValidationError: both a `url` and `channels`, too many of them, or what is no list of objects.
    """
    url, channels = sent.get("url"), sent.get("channels")
    if url is not None and channels is not None:
        raise ValidationError.at(("body", "url"), "goes with no 'channels': put it into a channel there", "conflict")
    if url is not None:
        config = {"url": url, **{key: sent[key] for key in _SHORT if sent.get(key) is not None}}
        return [{"channel": "webhook", "configs": config}]
    if channels is None:
        return None
    if not isinstance(channels, list) or not 1 <= len(channels) <= MAX_CHANNELS:
        raise ValidationError.at(("body", "channels"), f"must be a list of 1 to {MAX_CHANNELS} channels", "list_length")
    for number, channel in enumerate(channels):
        if not isinstance(channel, dict):
            raise ValidationError.at(("body", "channels", number), "must be an object", "dict_type")
    return channels


def events_given(sent: Mapping[str, Any], current: Sequence[str] = ()) -> list[str] | None:
    """The event types of a request as they are stored; None: it names none.

    What a webhook shows has them twice, as `events` and in the closed list of the wire format, `event_types`; when it
    is sent back with one of them changed, that one counts.

    Raises:
        ValidationError: one is unknown.
    """
    plain, listed = _names(sent, "events"), _names(sent, "event_types")
    if listed is not None and current and _is_wire_form(listed, current):
        listed = list(current)  # sent back as it was shown
    if plain is None or listed is None:
        given, key = (listed, "event_types") if plain is None else (plain, "events")
        return None if given is None else normal_names(given, ("body", key))
    if _is_wire_form(listed, plain):
        return normal_names(plain, ("body", "events"))
    if list(plain) == list(current):
        return normal_names(listed, ("body", "event_types"))
    return normal_names([*plain, *listed], ("body", "event_types"))


def _is_wire_form(listed: Collection[str], names: Sequence[str]) -> bool:
    return set(listed) == set(wire_names(names))


def _names(sent: Mapping[str, Any], key: str) -> list[str] | None:
    given = sent.get(key)
    if given is None:
        return None
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValidationError.at(("body", key), "must be a list of event types, or '*'", "string_type")
    return names


def resource_types_given(sent: Mapping[str, Any]) -> list[str]:
    """Raises ValidationError for a type that no event is of."""
    given = sent.get("resource_types") or []
    known = known_resource_types()
    if not isinstance(given, list) or not set(map(str, given)) <= set(known):
        message = f"must be a list of resource types; events are of: {', '.join(known)}"
        raise ValidationError.at(("body", "resource_types"), message, "resource_type")
    return list(dict.fromkeys(given))


def namespace_given(tx: ReadTx, sent: Mapping[str, Any], header: str | None) -> tuple[str, list[str]]:
    """The namespace whose events are wanted (empty: of all), and warnings.

    `header`: the `X-Namespace` of the route whose clients send it; they always do, so an unknown one is no error.

    Raises:
        NotFoundError: `namespace_id` names none.
    """
    ident = sent.get("namespace_id") or header
    if not ident:
        return "", []
    found = tx.find("namespace", str(ident))
    if found is not None:
        return found.id, []
    if sent.get("namespace_id"):
        raise NotFoundError("namespace", str(ident))
    return "", [f"X-Namespace: there is no namespace '{ident[:100]}'; the webhook is told of all namespaces"]


def is_signed(ref: ChannelRef) -> bool:
    """Whether a channel has a signing secret of this webhook's; a stored channel has its own."""
    return ref.channel == "webhook" and not ref.channel_id


def channel_views(refs: Sequence[ChannelRef], *, fresh: bool = False) -> list[dict[str, Any]]:
    """Channels as callers read them, under both pairs of keys. `fresh`: with the secret that was just made."""
    shown = []
    for ref in refs:
        config = dict(ref.config)
        if fresh and ref.secret:
            config["signing_secret"] = ref.secret
        one = {"channel": ref.channel, "configs": config, "channel_type": ref.channel, "config": config}
        shown.append(one | ({"channel_id": ref.channel_id} if ref.channel_id else {}))
    return shown


def view(webhook: Record, health: Mapping[str, Any], fresh: Sequence[ChannelRef] = ()) -> dict[str, Any]:
    """A webhook as callers read it. `fresh`: its channels right after they were made, with their secrets."""
    body = webhook.body
    secret = next((ref.secret for ref in fresh if ref.secret), None)
    signed = any(is_signed(ref) for ref in refs_of(webhook))
    return {
        "webhook_id": webhook.id,
        "webhook_name": webhook.name,
        "event_types": wire_names(body["events"]),
        "events": body["events"],
        "resource_types": body["resource_types"] or None,
        "namespace_id": body["namespace_id"] or None,
        "channels": channel_views(fresh or refs_of(webhook), fresh=bool(fresh)),
        "is_active": body["is_active"],
        "enabled": body["is_active"],
        "delivery_health": dict(health),
        "signing_secret": secret or ("redacted" if signed else None),
        "description": body.get("description"),
        "metadata": body.get("metadata") or {},
        "created_at": webhook.created_at,
        "updated_at": webhook.updated_at,
    }
