"""The schedule of a collection: a trigger whose parent is the collection, made and deleted with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from mediatheca.flows.triggers.actions import parse_action
from mediatheca.flows.triggers.config import parse_schedule
from mediatheca.flows.triggers.state import KIND, create_trigger, remove_trigger, schedule
from mediatheca.kernel import clock
from mediatheca.resources.base import Spec
from mediatheca.stores.db.tx import ReadTx, Record, Tx


class ScheduleSpec(Spec):
    """When the collection processes its sources again by itself."""

    trigger_type: Literal["cron", "interval"]
    schedule_config: dict[str, Any]
    description: str | None = Field(None, max_length=5000)


def checked_schedule(spec: ScheduleSpec | None) -> dict[str, Any] | None:
    """As it is stored.

    Raises:
        ValidationError: it never fires, or is none.
    """
    if spec is None:
        return None
    config = parse_schedule(spec.trigger_type, spec.schedule_config, clock.now())
    return {"trigger_type": spec.trigger_type, "schedule_config": config, "description": spec.description}


def set_schedule(tx: Tx, collection_id: str, wanted: dict[str, Any]) -> None:
    """Give the collection this schedule, in the place of the one it has."""
    held = next(iter(_of(tx, [collection_id])), None)
    if held is None:
        action = parse_action(tx, "collection_trigger", {"collection_id": collection_id})
        body = {"action_type": "collection_trigger", "action_config": action, "status": "active", **wanted}
        create_trigger(tx, body, None, parent=collection_id)
        return
    changed = tx.change(held, {**held.body, **wanted})
    schedule(tx, changed, clock.now())


def drop_schedule(tx: Tx, collection_id: str) -> None:
    """The schedule goes with its collection."""
    for trigger in _of(tx, [collection_id]):
        remove_trigger(tx, trigger)


def schedules_of(tx: ReadTx, collection_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Collection → what its view says about its schedule."""
    return {
        trigger.parent: {
            "schedule": {name: trigger.body[name] for name in ("trigger_type", "schedule_config", "description")},
            "trigger_id": trigger.id,
        }
        for trigger in _of(tx, collection_ids)
    }


def _of(tx: ReadTx, collection_ids: Sequence[str]) -> list[Record]:
    return tx.resources(KIND, {"parent": list(collection_ids)}) if collection_ids else []
