"""What a receiver is told of an event.

A message is the event under the name that was asked for, with an id that stays the same over all attempts. Events that
name many documents are told document by document to those who asked for that; such a message has an id of its own,
made from those of the event and the document, so that it is the same whenever it is made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson

from mediatheca.kernel.clock import wire_time
from mediatheca.kernel.event_catalogue import EXPANDED
from mediatheca.stores.db.event_feed import Event

MAX_BYTES = 256 << 10
"""Of one message, as JSON."""
_IDS_BYTES = MAX_BYTES - (64 << 10)
_NAMES = ("name", "status", "reason")


def message(event: Event, name: str) -> dict[str, Any]:
    """The body of an event told as `name`; at most `MAX_BYTES` of JSON.

    A payload that is larger is cut down to the ids in it, and `truncated` says so.
    """
    body: dict[str, Any] = {
        "event_id": event.event_id,
        "event_type": name,
        "occurred_at": wire_time(event.created_at),
        "namespace_id": event.scope.namespace_id or None,
        "organization_id": event.scope.organization_id,
        "subject": {"type": _subject_type(event), "id": event.resource_id},
        "data": event.payload,
        "metadata": {"actor": event.actor, "position": event.position, "source_event_type": event.type},
        "cache_scope": _cache_scope(event),
        "truncated": False,
    }
    if len(orjson.dumps(body)) > MAX_BYTES:
        body |= {"data": ids_of(event.payload), "truncated": True}
    return body


def documents_of(event: Event) -> list[str]:
    """The documents that an event names."""
    found = event.payload.get("document_ids")
    return [ident for ident in found if isinstance(ident, str)] if isinstance(found, list) else []


def document_events(event: Event, name: str, document_ids: Sequence[str]) -> list[Event]:
    """The same event for each of these documents, of type `name`."""
    common = {key: value for key, value in event.payload.items() if key != "document_ids"}
    collection_id = common.pop("collection_id", None) or event.resource_id
    return [
        replace(
            event,
            event_id=document_event_id(event.event_id, ident),
            type=name,
            resource_id=ident,
            payload={**common, "collection_id": collection_id, "document_id": ident},
        )
        for ident in document_ids
    ]


def document_event_id(event_id: str, document_id: str) -> str:
    """The id of an event told of one of its documents; the same every time."""
    return f"evt_{hashlib.blake2b(f'{event_id}/{document_id}'.encode(), digest_size=13).hexdigest()}"


def _subject_type(event: Event) -> str:
    """What the event's resource is: events of many documents are about their collection."""
    return "collection" if event.type in EXPANDED else event.type.partition(".")[0]


def _cache_scope(event: Event) -> dict[str, Any]:
    """How far a reader's cache is out of date."""
    if event.type.startswith(("document.", "documents.", "collection.documents.")):
        return {"scope": "collection", "id": event.payload.get("collection_id") or event.resource_id}
    if event.type.startswith("namespace."):
        return {"scope": "namespace", "id": event.resource_id}
    return {"scope": "key", "id": event.resource_id}


def ids_of(payload: dict[str, Any]) -> dict[str, Any]:
    """The ids of a payload, as many as fit, with the number of those of a list that do not."""
    kept: dict[str, Any] = {}
    room = _IDS_BYTES
    for key, value in payload.items():
        if len(key) > 100 or not (key.endswith(("_id", "_ids")) or key in _NAMES):
            continue
        if isinstance(value, list):
            fitting, room = _fitting(value, room)
            kept[key] = fitting
            if len(fitting) < len(value):
                kept[f"{key}_left_out"] = len(value) - len(fitting)
        elif len(encoded := orjson.dumps(value)) <= room:
            kept[key], room = value, room - len(encoded)
    return kept


def _fitting(values: Sequence[Any], room: int) -> tuple[list[Any], int]:
    found = []
    for value in values:
        size = len(orjson.dumps(value)) + 1
        if size > room:
            break
        found.append(value)
        room -= size
    return found, room
