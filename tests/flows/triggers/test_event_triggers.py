"""Events are counted once each, also while two servers read them."""

from __future__ import annotations

import threading

from trigger_world import SCOPE, World, until

from mediatheca.flows.triggers.config import GROUPS
from mediatheca.flows.triggers.events import EventTriggers
from mediatheca.flows.triggers.state import require, set_status
from mediatheca.jobs.dispatch import Dispatcher
from mediatheca.kernel.scope import Scope


def waiting_for(world: World, threshold: int, **more: object) -> str:
    config = {"event_type": "objects_added", "event_threshold": threshold, "cooldown_seconds": 0, **more}
    trigger = world.trigger(world.bucket())
    with world.db.begin(SCOPE) as tx:
        body = {**trigger.body, "trigger_type": "event", "schedule_config": config}
        tx.change(trigger, body)
        tx.delete("schedules", {})
    return trigger.id


def dispatchers(world: World, count: int = 2) -> list[Dispatcher]:
    consumers = [[EventTriggers(world.db)] for _ in range(count)]
    # Who has lost to the other tries again at once.
    made = [Dispatcher(world.db, world.services.feed, each, backoff=(0.0,)) for each in consumers]
    for dispatcher in made:
        dispatcher.lag()
    return made


def emit(world: World, count: int, type: str = "object.created", **payload: object) -> None:
    with world.db.begin(SCOPE) as tx:
        tx.emit_many(type, [(f"obj_{n}", dict(payload)) for n in range(count)])


def read(world: World, readers: list[Dispatcher]) -> None:
    def all_(dispatcher: Dispatcher) -> None:
        for _ in range(5):
            dispatcher.tick()

    threads = [threading.Thread(target=all_, args=(dispatcher,)) for dispatcher in readers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for dispatcher in readers:
        all_(dispatcher)


def test_two_servers_count_each_event_once(world: World) -> None:
    ident = waiting_for(world, 1_000_000)
    readers = dispatchers(world)
    for _ in range(4):
        emit(world, 300)
        read(world, readers)
    assert world.trigger_of(ident).body["event_counter"] == 1200


def test_many_events_at_once_are_one_run_and_the_counter_begins_anew(world: World) -> None:
    ident = waiting_for(world, 10)
    readers = dispatchers(world)
    emit(world, 95)
    read(world, readers)
    assert world.waiting("trigger.fire") == 1
    emit(world, 95)
    read(world, readers)
    assert world.waiting("trigger.fire") == 1
    with world.workers(2):
        until(lambda: [run["status"] for run in world.runs()] == ["completed"])
    body = world.trigger_of(ident).body
    assert (body["event_counter"], body["event_due_at"]) == (0, None)
    emit(world, 9)
    read(world, readers)
    assert world.trigger_of(ident).body["event_counter"] == 9
    assert world.waiting("trigger.fire") == 0


def test_what_an_enrichment_wrote_other_namespaces_and_other_types_do_not_count(world: World) -> None:
    ident = waiting_for(world, 5)
    readers = dispatchers(world)
    emit(world, 5, reason="enriched")
    emit(world, 5, "object.deleted")
    with world.db.begin(Scope(SCOPE.organization_id, "ns_other")) as tx:
        tx.emit("object.created", "obj_x", {})
    with world.db.begin(Scope("org_other", SCOPE.namespace_id)) as tx:
        tx.emit("object.created", "obj_x", {})
    read(world, readers)
    assert world.trigger_of(ident).body["event_counter"] == 0


def test_a_cool_down_delays_the_next_run(world: World) -> None:
    ident = waiting_for(world, 1, cooldown_seconds=3600)
    readers = dispatchers(world)
    emit(world, 1)
    read(world, readers)
    with world.workers(1):
        until(lambda: len(world.runs()) == 1)
    emit(world, 1)
    read(world, readers)
    assert world.waiting("trigger.fire") == 1
    assert world.services.queue.claim(["trigger.fire"], "w") == []  # not before the hour is over
    assert world.trigger_of(ident).body["event_due_at"] is not None


def test_a_run_that_waits_is_dropped_when_the_trigger_is_switched_off_and_on(world: World) -> None:
    ident = waiting_for(world, 1)
    readers = dispatchers(world)
    emit(world, 1)
    read(world, readers)
    for status in ("paused", "active"):
        with world.db.begin(SCOPE) as tx:
            set_status(tx, require(tx, ident), status)
    with world.workers(1):
        until(lambda: world.waiting("trigger.fire") == 0)
    assert world.runs() == []
    emit(world, 1)
    read(world, readers)
    with world.workers(1):
        until(lambda: [run["status"] for run in world.runs()] == ["completed"])


def test_a_trigger_that_is_deleted_between_counting_and_running_leaves_nothing(world: World) -> None:
    ident = waiting_for(world, 1)
    readers = dispatchers(world)
    emit(world, 1)
    read(world, readers)
    with world.db.begin(SCOPE) as tx:
        tx.remove(tx.get("trigger", ident))
    with world.workers(1):
        until(lambda: world.waiting("trigger.fire") == 0)
    assert world.runs() == []


def test_the_consumer_reads_every_type_that_a_trigger_may_wait_for() -> None:
    assert {name for names in GROUPS.values() for name in names} <= EventTriggers.types
    assert not any(name.startswith(("trigger.", "alert.", "event.")) for name in EventTriggers.types)
