"""Event triggers: a consumer of events that counts, in the transaction that moves its cursor."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from mediatheca.flows.triggers.config import event_names
from mediatheca.flows.triggers.state import FIRE, KIND, alter, hold
from mediatheca.jobs.dispatch import Take
from mediatheca.jobs.schedule import PRIORITY, to_us
from mediatheca.kernel import clock
from mediatheca.kernel.event_catalogue import EVENTS
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.event_feed import Event
from mediatheca.stores.db.system_tx import SystemTx
from mediatheca.stores.db.tx import ReadTx, Record, Tx

_MAX = 10_000
"""Namespaces held at a time."""
_ENDS = frozenset({
    "cluster.execution.started", "cluster.execution.completed", "cluster.execution.failed",
    "taxonomy.materialized", "taxonomy.execution_failed",
})  # fmt: skip
Batches: TypeAlias = dict[tuple[Scope, str], Mapping[str, Any]]
"""Batches that were looked at in one transaction."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """An active event trigger."""

    trigger_id: str
    names: frozenset[str]


class EventTriggers:
    """A run begins when `event_threshold` events were counted. Within the cool-down of the last run it waits for its
    end; further events are counted meanwhile and are no run of their own."""

    name = "event_triggers"
    types = frozenset(name for name in EVENTS if event_names(name))

    def __init__(self, database: Database) -> None:
        self._db = database
        self._held: dict[Scope, tuple[Waiting, ...]] = {}
        database.listen(self._changed)

    def _changed(self, topics: set[str]) -> None:
        if f"resource:{KIND}" in topics:
            self._held = {}

    def take(self, events: Sequence[Event]) -> Take | None:
        """What an enrichment wrote (its events have a `reason`) does not count: a trigger that enriches would start
        itself."""
        if self._db.dialect == "postgresql" or len(self._held) > _MAX:
            self._held = {}  # another process may have made a trigger
        hits: defaultdict[tuple[Scope, str], list[Event]] = defaultdict(list)
        for event in events:
            if not event.payload.get("reason"):
                for waiting in self._of(event.scope):
                    if event.type in waiting.names:
                        hits[event.scope, waiting.trigger_id].append(event)
        return (lambda tx: _count_all(tx, hits)) if hits else None

    def _of(self, scope: Scope) -> tuple[Waiting, ...]:
        if not scope.namespace_id:
            return ()
        held = self._held
        if scope not in held:
            with self._db.read(scope) as tx:
                held[scope] = tuple(_waiting(record) for record in tx.resources(KIND) if _active(record))
        return held[scope]


def _active(trigger: Record) -> bool:
    return bool(trigger.body["trigger_type"] == "event" and trigger.body["status"] == "active")


def _waiting(trigger: Record) -> Waiting:
    return Waiting(trigger.id, frozenset(event_names(trigger.body["schedule_config"]["event_type"])))


def _count_all(tx: SystemTx, hits: Mapping[tuple[Scope, str], Sequence[Event]]) -> None:
    batches: Batches = {}
    for (scope, trigger_id), events in sorted(hits.items(), key=lambda hit: hit[0][1]):
        inner = tx.for_scope(scope)
        trigger = hold(inner, trigger_id)
        if trigger is not None and _active(trigger):
            _count(inner, trigger, events, batches)


def _count(tx: Tx, trigger: Record, events: Sequence[Event], batches: Batches) -> None:
    config = trigger.body["schedule_config"]
    counted = [(event, _weight(tx, trigger, event, batches)) for event in events]
    new = sum(weight for _, weight in counted)
    if not new:
        return
    total = trigger.body["event_counter"] + new
    values = {"event_counter": total}
    if total >= config["event_threshold"] and trigger.body["event_due_at"] is None:
        now = clock.now()
        at = max(now, _cool_until(trigger))
        cause = {"event_id": next(event.event_id for event, weight in reversed(counted) if weight), "events": total}
        values["event_due_at"] = _free(tx, trigger.id, to_us(at))
        payload = {"trigger_id": trigger.id, "due_at": values["event_due_at"], "cause": cause}
        tx.enqueue(FIRE, payload, delay_s=max(0.0, (at - now).total_seconds()), priority=PRIORITY)
    alter(tx, trigger, **values)


def _cool_until(trigger: Record) -> datetime:
    last = trigger.body["last_cooldown_at"]
    if last is None:
        return clock.now()
    cooldown = timedelta(seconds=trigger.body["schedule_config"]["cooldown_seconds"])
    return datetime.fromisoformat(last) + cooldown


def _free(tx: ReadTx, trigger_id: str, due_at: int) -> int:
    """A due time that no run has."""
    while tx.count("trigger_runs", {"trigger_id": trigger_id, "due_at": due_at}):
        due_at += 1
    return due_at


def _batch(tx: ReadTx, event: Event, batches: Batches) -> Mapping[str, Any]:
    """The batch that an event tells of, read once for all triggers; empty: of none."""
    ident = event.payload.get("batch_id") or (event.resource_id if event.type.startswith("batch.") else "")
    if not ident:
        return {}
    key = (event.scope, str(ident))
    if key not in batches:
        batch = tx.row("batches", {"batch_id": key[1]})
        batches[key] = batch["body"] if batch is not None else {}
    return batches[key]


def _of_its_action(trigger: Record, event: Event) -> bool:
    """Whether an event is the end of what the trigger begins: it would begin it again, without end."""
    action = trigger.body["action_config"]
    return event.type in _ENDS and event.resource_id in (action.get("cluster_id"), action.get("taxonomy_id"))


def _weight(tx: ReadTx, trigger: Record, event: Event, batches: Batches) -> int:
    """How much an event counts: the documents it tells of; 0: it is of another collection, or of the trigger's own
    doing."""
    payload, collection_id = event.payload, trigger.body["schedule_config"].get("collection_id")
    body = _batch(tx, event, batches)
    if body.get("trigger_id") == trigger.id or _of_its_action(trigger, event):
        return 0
    if collection_id is not None:
        named = {payload.get("collection_id"), event.resource_id, *(body.get("collection_ids") or ())}
        if event.type == "collection.documents.written":
            named = {event.resource_id}
        if collection_id not in named:
            return 0
    told = payload.get("documents") or payload.get("document_ids") or payload.get("count")
    return max(1, len(told) if isinstance(told, list) else int(told) if isinstance(told, int) else 1)
