"""Triggers as records: their changing part, and their schedules. Whoever changes one holds its row."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from mediatheca.flows.held import hold as hold_resource
from mediatheca.flows.triggers.config import timing_of
from mediatheca.jobs.schedule import add_schedule, pause_schedule, remove_schedule, resume_schedule
from mediatheca.kernel import clock
from mediatheca.kernel.clock import wire_time
from mediatheca.kernel.errors import ConflictError, NotFoundError
from mediatheca.kernel.ids import new_id
from mediatheca.stores.db.tx import Record, Tx

KIND = "trigger"
FIRE = "trigger.fire"
MAX_TRIGGERS = 1_000
"""Of a namespace: each event is held against those that wait for events, in one thread for all tenants."""
MAX_FAILURES = 5
"""Runs that fail one after the other before the trigger is switched off."""
FRESH: Mapping[str, Any] = {
    "last_triggered_at": None, "last_execution_task_id": None, "execution_count": 0, "consecutive_failures": 0,
    "last_execution_status": None, "last_execution_error": None, "event_counter": 0, "last_cooldown_at": None,
    "event_due_at": None, "baseline_snapshot": None, "last_drift_measurement": None, "last_volume_measurement": None,
    "last_condition_check_at": None,
}  # fmt: skip
"""What changes by itself. `event_due_at`: a run that waits for the end of a cool-down, in microseconds."""


def hold(tx: Tx, trigger_id: str) -> Record | None:
    """The trigger, whose row nobody else may change until the end of the transaction; None: it is gone."""
    return hold_resource(tx, KIND, trigger_id)


def require(tx: Tx, identifier: str) -> Record:
    """`hold` by id or name.

    Raises:
        NotFoundError: there is none.
    """
    found = hold(tx, tx.get(KIND, identifier).id)
    if found is None:
        raise NotFoundError(KIND, identifier)
    return found


def alter(tx: Tx, trigger: Record, **values: Any) -> Record:
    """Write some fields of a trigger that is held."""
    return tx.change(trigger, {**trigger.body, **values})


def create_trigger(tx: Tx, body: Mapping[str, Any], name: str | None, *, parent: str = "") -> Record:
    """Store a trigger with its schedule. `body`: `action_type`, `action_config`, `trigger_type`, `schedule_config`,
    `status` and `description`, all of them checked. `parent`: the collection whose `schedule` it is.

    Raises:
        ConflictError: the namespace has too many, or the name is taken.
    """
    if tx.count("resources", {"kind": KIND}) >= MAX_TRIGGERS:
        raise ConflictError(f"a namespace has at most {MAX_TRIGGERS:,} triggers; delete some, or use another namespace")
    ident = new_id("trig")
    held = {**FRESH, "created_by": tx.actor, **body}
    made = tx.put(KIND, "trig", name or ident, held, ident=ident, parent=parent)
    schedule(tx, made, clock.now())
    tx.emit("trigger.created", made.id, {"action_type": body["action_type"], "trigger_type": body["trigger_type"]})
    return made


def schedule(tx: Tx, trigger: Record, now: datetime) -> None:
    """Give the trigger the schedule that its configuration says, in the place of the one it has."""
    remove_schedule(tx, trigger.id)
    kind, config = trigger.body["trigger_type"], trigger.body["schedule_config"]
    timing = timing_of(kind, config)
    if timing is None:
        return
    add_schedule(
        tx, trigger.id, FIRE, {"trigger_id": trigger.id}, cron=timing.cron, timezone=timing.timezone,
        interval_s=timing.interval_s, after=now, misfire=config.get("misfire_policy", "once"),
        at_once=kind == "conditional" or bool(config.get("start_immediately")),
        enabled=trigger.body["status"] == "active",
    )  # fmt: skip


def set_status(tx: Tx, trigger: Record, status: str) -> Record:
    """Switch it on or off. What was due while it was off is not made up for, and counted events are forgotten."""
    fresh: dict[str, Any] = {"status": status, "event_counter": 0, "event_due_at": None}
    if status == "active":
        fresh["consecutive_failures"] = 0
        if trigger.body["trigger_type"] != "event":
            resume_schedule(tx, trigger.id, clock.now())
    else:
        pause_schedule(tx, trigger.id)
    return alter(tx, trigger, **fresh)


def remove_trigger(tx: Tx, trigger: Record) -> None:
    """With its schedule and history; what its runs have begun goes on."""
    remove_schedule(tx, trigger.id)
    tx.delete("trigger_runs", {"trigger_id": trigger.id})
    tx.remove(trigger)
    tx.emit("trigger.deleted", trigger.id, {"name": trigger.name})


def moment() -> str:
    """Now, as it is stored in a body."""
    return wire_time(clock.now())
