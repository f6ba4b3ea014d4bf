"""The same on PostgreSQL: matches, states, executions and their repetition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from alert_world import DIMENSIONS, AlertWorld, search, stage
from sqlalchemy import text

from mediatheca.flows.alerts.evaluate import run_alerts
from mediatheca.flows.alerts.watch import watch_system
from mediatheca.flows.follow_up import FollowUp
from mediatheca.jobs.queue import Job
from mediatheca.jobs.worker import Run
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.tables import metadata

VECTOR = np.eye(DIMENSIONS, dtype=np.float32)[0]


def test_an_alert_is_settled_once_on_postgresql(postgres_url: str, tmp_path: Path) -> None:
    emptied = Database(postgres_url)
    emptied.migrate()
    with emptied.system() as connection:
        connection.execute(text(f"TRUNCATE {', '.join(metadata.tables)}"))
    emptied.close()
    world = AlertWorld(tmp_path, database_url=postgres_url)
    try:
        retriever = world.retriever("near", stage(search(VECTOR.tolist(), min_score=0.9)))
        alert = world.alert(retriever, cooldown_seconds=600)
        with world.services.db.begin(world.scope) as tx:
            body = {"source": "system", "system_condition": {"type": "task_queue_degraded", "params": {
                "max_waiting_seconds": 300, "max_waiting": 0,
            }}, "enabled": True}  # fmt: skip
            tx.put("alert", "alt", "queues", body, parent="system")
            tx.enqueue("nobody", {})
        collection = world.record(world.collection)
        job = Job("job", world.scope, "follow_up", {}, 1, 5, None, "token")
        for number, follow in enumerate(["one", "one", "two"]):
            ids = world.write({f"d{number}": ({"title": "x"}, VECTOR)})
            run_alerts(world.services, Run(job), FollowUp(follow, world.scope, collection, ids))
        assert watch_system(world.services) == 1
        with world.services.db.read(world.scope) as tx:
            runs = tx.rows("alert_runs", {"alert_id": alert}, order=("created_at",))
            assert [run["body"]["said"] for run in runs] == ["notify", "deferred"]
            (state,) = tx.rows("alert_states", {"alert_id": alert})
            assert (state["state"], state["body"]["held"]["runs"]) == ("firing", 1)
            assert tx.count("alert_matches", {"alert_id": alert}) == 2
            assert tx.count("jobs", {"kind": "alert.summary"}) == 1
    finally:
        world.close()
