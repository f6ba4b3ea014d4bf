"""Where a delivery goes: the target's channel as it is now, opened and kept in memory for a few seconds."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError as PydanticError

from mediatheca.channels import Channel, ChannelParams
from mediatheca.flows.delivery.refs import KIND, ChannelRef, Opened, open_ref, refs_of
from mediatheca.flows.delivery.signing import Signing
from mediatheca.flows.vault import Vault
from mediatheca.kernel.errors import MediathecaError
from mediatheca.kernel.notices import ChannelSettings
from mediatheca.kernel.redaction import Redactor
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.deliveries import Claimed
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.tx import ReadTx

KEPT_S = 5.0
"""Changes of this process count at once; those of another one after this."""
MAX_KEPT = 4096


@dataclass(frozen=True, slots=True)
class Address:
    """A channel, ready to be used; or what becomes of deliveries to it without an attempt."""

    channel: Channel | None = None
    params: ChannelParams | None = field(default=None, repr=False)
    signing: tuple[Signing, ...] = field(default=(), repr=False)
    redactor: Redactor = field(default=Redactor(()), repr=False)
    status: str = ""
    """canceled, not_configured, or pending where another attempt may go better; empty: send."""
    problem: str = ""


class AddressBook:
    """Looks addresses up. Thread-safe; asks the database, so not for the event loop."""

    def __init__(
        self, database: Database, vault: Vault, channels: dict[str, Channel], settings: ChannelSettings
    ) -> None:
        self._db, self._vault, self._channels, self._settings = database, vault, channels, settings
        self._lock = threading.Lock()
        self._kept: dict[tuple[Any, ...], tuple[float, Address]] = {}

    def forget(self) -> None:
        """Something has changed."""
        with self._lock:
            self._kept = {}

    def find(self, claimed: Claimed) -> Address:
        """The address of a delivery."""
        named = claimed.channel
        key = (
            claimed.scope, claimed.target_kind, claimed.target_id, claimed.channel_no,
            named["channel"], named["channel_id"], bool(named.get("always")),
        )  # fmt: skip
        kept = self._kept
        held = kept.get(key)
        if held is not None and held[0] > time.monotonic():
            return held[1]
        found = self._look(claimed)
        with self._lock:
            if len(self._kept) >= MAX_KEPT:
                self._kept = {}
            # Into the same dict: what was read before somebody cleared it must not be kept.
            kept[key] = (time.monotonic() + KEPT_S, found)
        return found

    def _look(self, claimed: Claimed) -> Address:
        organization = Scope(claimed.scope.organization_id)
        with self._db.read(organization) as tx:
            body = _body(tx, claimed.target_kind, claimed.target_id, claimed.scope.namespace_id)
            ref, problem = _ref(tx, claimed, body)
        if ref is None:
            return Address(status="canceled", problem=problem)
        channel = self._channels.get(ref.channel)
        if channel is None:
            return Address(
                status="not_configured", problem=f"there is no channel of type '{ref.channel}' here any more"
            )
        try:
            return self._ready(channel, open_ref(self._vault, organization, channel, ref))
        except MediathecaError as error:
            return Address(channel, status="pending", problem=error.message)
        except PydanticError:
            problem = "the stored settings do not fit the channel any more; store them again"
            return Address(channel, status="canceled", problem=problem)

    def _ready(self, channel: Channel, opened: Opened) -> Address:
        problem = channel.missing(opened.params, self._settings)
        if problem:
            return Address(channel, status="not_configured", problem=problem)
        values = [text for value in opened.secrets.values() for text in _texts(value)]
        values += [each.value for each in opened.signing]
        values += [self._settings.slack_token] if self._settings.slack_token else []
        return Address(channel, opened.params, opened.signing, Redactor(values))


def _body(tx: ReadTx, kind: str, ident: str, namespace_id: str) -> dict[str, Any] | None:
    """A target, in the delivery's namespace or of the organization."""
    for level in dict.fromkeys((namespace_id, "")):
        row = tx.within(level).row("resources", {"kind": kind, "id": ident})
        if row is not None:
            body: dict[str, Any] = row["body"]
            return body
    return None


def _ref(tx: ReadTx, claimed: Claimed, body: dict[str, Any] | None) -> tuple[ChannelRef | None, str]:
    """The channel that a delivery was queued for, or why there is none."""
    kind, named = claimed.target_kind, claimed.channel
    if body is None:
        return None, f"the {kind} was deleted"
    if not named.get("always") and not body.get("is_active", body.get("enabled", True)):
        return None, f"the {kind} is switched off; switch it on and replay the delivery"
    own = next((ref for ref in refs_of(body) if ref.index == claimed.channel_no), None)
    if own is None or (own.channel, own.channel_id) != (named["channel"], named["channel_id"]):
        return None, f"the {kind} has no such channel any more"
    if not own.channel_id:
        return own, ""
    stored = _body(tx, KIND, own.channel_id, "")
    if stored is None:
        return None, f"the stored channel '{own.channel_id}' was deleted"
    return refs_of(stored)[0], ""


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in _texts(item)]
    return [value] if isinstance(value, str) else []
