"""A trigger is not set off by the end of what it begins."""

from __future__ import annotations

from typing import Any

import pytest
from trigger_world import SCOPE, World

from mediatheca.flows.triggers.events import EventTriggers
from mediatheca.jobs.dispatch import Dispatcher


@pytest.mark.parametrize(
    ("event_type", "kind", "action"),
    [
        ("cluster.execution.completed", "cluster", "cluster"),
        ("cluster.execution.failed", "cluster", "cluster"),
        ("taxonomy.materialized", "taxonomy", "taxonomy_enrichment"),
    ],
)
def test_only_the_end_of_something_else_counts(world: World, event_type: str, kind: str, action: str) -> None:
    trigger = world.trigger(world.bucket())
    config: dict[str, Any] = {"event_type": event_type, "event_threshold": 5, "cooldown_seconds": 0}
    with world.db.begin(SCOPE) as tx:
        body = {**trigger.body, "trigger_type": "event", "schedule_config": config, "action_type": action}
        tx.change(trigger, {**body, "action_config": {f"{kind}_id": f"{kind}_own"}})
    reader = Dispatcher(world.db, world.services.feed, [EventTriggers(world.db)])
    reader.lag()
    with world.db.begin(SCOPE) as tx:
        tx.emit(event_type, f"{kind}_own", {})
        tx.emit(event_type, f"{kind}_other", {})
    for _ in range(3):
        reader.tick()
    assert world.trigger_of(trigger.id).body["event_counter"] == 1
