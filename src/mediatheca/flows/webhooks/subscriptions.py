"""Who is to be told of an event: the active webhooks of an organization, kept in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from mediatheca.flows.delivery import ChannelRef, refs_of
from mediatheca.kernel.event_catalogue import EVENTS
from mediatheca.kernel.event_names import each_for, name_for
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.event_feed import Event
from mediatheca.stores.db.tx import Record

log = structlog.get_logger()

KIND: Final = "webhook"
_MAX = 10_000
"""Organizations held at a time."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """An active webhook. `namespace_id` empty: of all namespaces; no `resource_types`: of all."""

    webhook_id: str
    names: frozenset[str]
    resource_types: frozenset[str]
    namespace_id: str
    channels: tuple[ChannelRef, ...]
    since: datetime | None = None
    """When it was switched on: older events are none of its business. None: the clocks of several machines do not tell
    that exactly, and an event too many is better than one too few."""

    def name_for(self, event: Event) -> str | None:
        """The name under which it is told of an event; None: it is not."""
        return name_for(event.type, self.names) if self._concerned(event) else None

    def each_for(self, event: Event) -> str | None:
        """The name under which it is told of every document of an event; None: it is not."""
        return each_for(event.type, self.names) if self._concerned(event) else None

    def _concerned(self, event: Event) -> bool:
        if event.type.startswith(f"{KIND}.") and event.resource_id == self.webhook_id:
            return False  # what happens to a webhook is no news to itself: that could go on for ever
        if self.since is not None and event.created_at < self.since:
            return False
        if self.namespace_id and self.namespace_id not in (event.scope.namespace_id, _namespace_of(event)):
            return False
        return not self.resource_types or not self.resource_types.isdisjoint(resource_types_of(event.type))


def _namespace_of(event: Event) -> str:
    return event.resource_id if event.type.startswith("namespace.") else ""


def resource_types_of(event_type: str) -> frozenset[str]:
    """What an event is of, as `resource_types` may name it: of `documents.updated.batch`, `document` too."""
    first = event_type.partition(".")[0]
    known = EVENTS.get(event_type)
    return frozenset({first, first.removesuffix("s"), *({known.resource} if known else ())})


def known_resource_types() -> list[str]:
    return sorted({name for event in EVENTS if EVENTS[event].public for name in resource_types_of(event)})


class Subscriptions:
    """Used by one thread. SQLite has one process, whose changes are heard; on PostgreSQL they are read anew each time,
    since another process may have made them."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._held: dict[str, tuple[Subscription, ...]] = {}
        database.listen(self._changed)

    def _changed(self, topics: set[str]) -> None:
        if f"resource:{KIND}" in topics:
            self._held = {}

    def begin(self) -> None:
        """Before a page of events."""
        if self._db.dialect == "postgresql" or len(self._held) > _MAX:
            self._held = {}

    def of(self, organization_id: str) -> tuple[Subscription, ...]:
        """The active webhooks of an organization; a dict look-up most of the time."""
        held = self._held
        found = held.get(organization_id)
        if found is None:
            found = held[organization_id] = self._load(organization_id)
        return found

    def _load(self, organization_id: str) -> tuple[Subscription, ...]:
        with self._db.read(Scope(organization_id)) as tx:
            records: Sequence[Record] = tx.resources(KIND)
        one_clock = self._db.dialect == "sqlite"
        return tuple(found for record in records if (found := _subscription(record, one_clock)) is not None)


def _subscription(record: Record, one_clock: bool) -> Subscription | None:
    """None: it is switched off, or cannot be read. One that cannot be must not keep the others from being told."""
    body = record.body
    try:
        if not body["is_active"]:
            return None
        return Subscription(
            record.id, frozenset(body["events"]), frozenset(body.get("resource_types") or ()),
            body.get("namespace_id") or "", tuple(refs_of(record)),
            datetime.fromisoformat(body["active_since"]) if one_clock else None,
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        log.error("webhook.unreadable", webhook_id=record.id, exc_info=error)
        return None
