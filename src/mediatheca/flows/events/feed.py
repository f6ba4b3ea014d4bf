"""The change feed: the events of one organization in their order, from a cursor on.

A cursor is a position together with a mark of the filters it was given out for: with other filters it would skip events
without a word. Events are kept for a time; a cursor that is older than what is kept has missed some, which is said.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import orjson

from mediatheca.kernel.clock import wire_time
from mediatheca.kernel.errors import ForbiddenError, GoneError, NotFoundError, ValidationError
from mediatheca.kernel.event_catalogue import EVENTS
from mediatheca.kernel.event_names import NOT_YET, PRIVATE, for_subscribers, types_told_as
from mediatheca.stores.db.event_feed import Event, EventFeed
from mediatheca.stores.db.listing import decode_cursor, encode_cursor
from mediatheca.stores.db.tx import ReadTx

MAX_TYPES = 100
_IDLE = 10_000
"""So far behind the newest event, the cursor of an empty page moves on: it must not expire where nothing happens."""
_VERBS = {"created": "insert", "updated": "update", "deleted": "delete"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whose events, and which. `namespace_id` None: of every namespace. No `types`: all but those in `without`."""

    organization_id: str
    namespace_id: str | None = None
    types: frozenset[str] = frozenset()
    without: frozenset[str] = field(default=PRIVATE)

    @property
    def mark(self) -> str:
        """Tells these filters from any other, of any organization."""
        parts = [self.organization_id, self.namespace_id, sorted(self.types), sorted(self.without)]
        return hashlib.blake2b(orjson.dumps(parts), digest_size=8).hexdigest()

    def cursor(self, position: int) -> str:
        return encode_cursor({"p": position, "f": self.mark})


@dataclass(frozen=True, slots=True)
class FeedPage:
    """Events in order, the position to go on from, and whether there are more already."""

    events: list[Event]
    upto: int
    has_more: bool


def wanted(tx: ReadTx, *, admin: bool, namespace: str | None, event_types: Collection[str]) -> Wanted:
    """The filters of a request.

    Raises:
        NotFoundError: the namespace is not one of the organization, and never was.
        ValidationError: an event type is unknown, or there are too many.
        ForbiddenError: a type is for administrators.
    """
    organization_id = tx.scope.organization_id
    types = _types(event_types, admin=admin)
    namespace_id = _namespace(tx, namespace) if namespace else None
    return Wanted(organization_id, namespace_id, types, frozenset() if admin or types else PRIVATE)


def _types(names: Collection[str], *, admin: bool) -> frozenset[str]:
    if len(names) > MAX_TYPES:
        raise ValidationError.at(("query", "event_type"), f"at most {MAX_TYPES}, got {len(names)}", "list_length")
    found: set[str] = set()
    for name in names:
        types = types_told_as(name)
        if not types and name not in NOT_YET:
            message = f"'{name[:60]}' is no event type; there are: {', '.join(for_subscribers())}"
            raise ValidationError.at(("query", "event_type"), message, "event_type")
        if not admin and types <= PRIVATE and types:
            raise ForbiddenError(f"event_type: '{name}' is seen by keys with the permission 'admin' only")
        found |= types or {name}
    return frozenset(found)


def _namespace(tx: ReadTx, ident: str) -> str:
    found = tx.find("namespace", ident)
    if found is not None:
        return found.id
    gone = {"type": "namespace.deleted", "resource_id": ident}
    if tx.row("events", gone) is None and not tx.within(ident).rows("events", {}, columns=("seq",), limit=1):
        raise NotFoundError("namespace", ident)
    return ident  # deleted: its events are kept


def position(feed: EventFeed, asked: Wanted, cursor: str, loc: str = "cursor") -> int:
    """Where a cursor stands.

    Raises:
        ValidationError: it is no cursor of the feed, or was given out for other filters.
        GoneError: the events behind it are not kept any more, or it is from before a restored backup;
            `details.oldest_cursor` is the one to begin again from.
    """
    try:
        state = decode_cursor(cursor)
    except ValidationError:
        state = {}
    at = state.get("p")
    if type(at) is not int or not 0 <= at < 2**63:
        raise ValidationError.at((loc,), "is not a cursor of the feed; leave it out to begin with the oldest event")
    if state.get("f") != asked.mark:
        message = "was given out for other filters (namespace_id, event_type, the rights of the key); send those again"
        raise ValidationError.at((loc,), message, "cursor")
    oldest, newest = feed.oldest(), feed.newest()
    if oldest <= at <= newest:
        return at
    reason = "the events after it are no longer kept" if at < oldest else "it lies behind the newest event"
    raise GoneError(
        f"{loc}: {reason}; read again what you keep a copy of, and go on from details.oldest_cursor",
        details={"oldest_cursor": asked.cursor(oldest)},
    )


def page(feed: EventFeed, asked: Wanted, after: int, limit: int) -> FeedPage:
    """Events behind a position. On an empty page the position stays, unless it is far behind."""
    feed.sequence()  # what the caller has just done is there
    newest = feed.newest()
    rows = feed.read(
        after, limit + 1, organization_id=asked.organization_id, namespace_id=asked.namespace_id, types=asked.types,
        without=asked.without,
    )  # fmt: skip
    if len(rows) > limit:
        return FeedPage(rows[:limit], rows[limit - 1].position, True)
    if rows:
        return FeedPage(rows, rows[-1].position, False)
    return FeedPage([], newest if newest - after > _IDLE else after, False)


def operation(event_type: str) -> str:
    """`insert`, `update`, `delete` or `other`."""
    known = EVENTS.get(event_type)
    return known.operation if known else _VERBS.get(event_type.rpartition(".")[2], "other")


def event_view(event: Event, asked: Wanted) -> dict[str, Any]:
    """An event as readers of the feed see it."""
    return {
        "seq": event.position,
        "cursor": asked.cursor(event.position),
        "namespace_id": event.scope.namespace_id or None,
        "event_id": event.event_id,
        "event_type": event.type,
        "resource_type": event.type.partition(".")[0],
        "resource_id": event.resource_id,
        "operation": operation(event.type),
        "payload": event.payload,
        "actor": event.actor,
        "trace_id": None,
        "created_at": wire_time(event.created_at),
    }
