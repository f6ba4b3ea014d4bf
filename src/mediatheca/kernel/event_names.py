"""The names under which webhooks and readers of the feed ask for events.

Clients know three vocabularies: our own types (`kernel.event_catalogue`), the closed list of the wire format, whose
parsers refuse any other name, and a few names of older clients. All are accepted; an event is told under the name that
was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mediatheca.kernel.errors import FieldError, ValidationError
from mediatheca.kernel.event_catalogue import EVENTS, EXPANDED, subscribed_names

ALL = "*"
WIRE: tuple[str, ...] = (
    "object.created", "objects.created.batch", "object.updated", "object.deleted",
    "document.created", "document.updated", "document.deleted", "documents.updated.batch", "documents.deleted.batch",
    "collection.created", "collection.updated", "collection.deleted",
    "collection.documents.written", "collection.documents.batch_completed",
    "cluster.created", "cluster.updated", "cluster.deleted",
    "cluster.execution.started", "cluster.execution.completed", "cluster.execution.failed",
    "trigger.created", "trigger.updated", "trigger.deleted", "trigger.paused", "trigger.resumed", "trigger.fired",
    "trigger.execution.completed", "trigger.execution.failed",
    "taxonomy.created", "taxonomy.updated", "taxonomy.deleted",
    "alert.created", "alert.updated", "alert.deleted", "alert.triggered",
    "alert.execution.completed", "alert.execution.failed",
    "annotation.created", "annotation.updated", "annotation.deleted",
    "resource.executed", "resource.execution_failed", "manifest.apply.resource_state",
)  # fmt: skip
"""The closed list of the wire format."""
_STAND_IN = "resource.executed"
"""What the closed list says for names it has no counterpart of: it may not be empty."""
MAX_NAMES = 200
_SHOWN = 60


def _told() -> dict[str, list[str]]:
    """Every name that subscribers may ask for → the types of events that are told under it."""
    told: dict[str, list[str]] = {}
    for event in EVENTS:
        for name in subscribed_names(event):
            told.setdefault(name, []).append(event)
    for batch, name in EXPANDED.items():
        if batch not in told.setdefault(name, []):
            told[name].append(batch)
    return told


TOLD: Mapping[str, Sequence[str]] = _told()
NOT_YET: frozenset[str] = frozenset({*WIRE, "usage.threshold_exceeded"} - set(TOLD))
"""Names that clients may subscribe to although nothing here tells them."""
PRIVATE: frozenset[str] = frozenset(name for name, event in EVENTS.items() if not event.public)
"""Types that only administrators see."""


def for_subscribers() -> list[str]:
    """Every name that may be asked for."""
    return sorted({*TOLD, *NOT_YET})


def normal_names(given: Iterable[str], loc: tuple[str | int, ...]) -> list[str]:
    """Names as they are stored: without repetition; `["*"]` where everything is asked for.

    Raises:
        ValidationError: there is none, there are too many, or one is unknown; the message lists the known ones.
    """
    names = list(dict.fromkeys(given))
    if not names or len(names) > MAX_NAMES:
        raise ValidationError.at(loc, f"needs 1 to {MAX_NAMES} event types, got {len(names)}", "list_length")
    if ALL in names or set(names) >= set(WIRE):
        return [ALL]
    if unknown := [name for name in names if name not in TOLD and name not in NOT_YET]:
        known = ", ".join(for_subscribers())
        shown = ", ".join(f"'{name[:_SHOWN]}'" for name in unknown[:10])
        message = f"{shown}: no such event type; use '*' for all, or: {known}"
        raise ValidationError(f"{'.'.join(map(str, loc))}: {message}", [FieldError(loc, message, "event_type")])
    return names


def silent(names: Iterable[str]) -> list[str]:
    """Warnings for names that nothing here tells."""
    return [
        f"event_types: nothing in this server emits '{name}' yet; the subscription is kept"
        for name in names
        if name in NOT_YET
    ]


def wire_names(names: Sequence[str]) -> list[str]:
    """The same in the closed list of the wire format, never empty."""
    if ALL in names:
        return list(WIRE)
    found: dict[str, None] = {}
    for name in names:
        known = [name] if name in WIRE else [other for other in subscribed_names(name) if other in WIRE]
        found.update(dict.fromkeys(known))
    return list(found) or [_STAND_IN]


def types_told_as(name: str) -> frozenset[str]:
    """The types of events that are told under a name; empty: it is unknown, or nothing is told under it."""
    return frozenset({*TOLD.get(name, ()), *({name} if name in PRIVATE else ())})


def name_for(event_type: str, names: frozenset[str]) -> str | None:
    """The name under which an event of this type is told to one who asked for `names`; None: not at all. Its own name
    goes before its others, and it is told once."""
    known = subscribed_names(event_type)
    if ALL in names:
        return known[0] if known else None
    return next((name for name in known if name in names and name != EXPANDED.get(event_type)), None)


def each_for(event_type: str, names: frozenset[str]) -> str | None:
    """The name under which the documents of an event are told one by one; None: they are not."""
    name = EXPANDED.get(event_type)
    return name if name in names else None
