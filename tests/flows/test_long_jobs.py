"""Jobs that take minutes have threads of their own, end with their task, and are buried by whoever knows their kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from datapath_shop import ok
from quiet_app import QuietApp

from mediatheca.jobs.queue import Job
from mediatheca.jobs.worker import WorkerPool
from mediatheca.kernel.clock import now


@pytest.fixture
def quiet(tmp_path: Path) -> Iterator[QuietApp]:
    made = QuietApp(tmp_path)
    yield made
    made.close()


def test_ending_a_task_cancels_its_jobs(quiet: QuietApp) -> None:
    moment = now()
    common = {"inputs": [], "outputs": [], "additional_data": {}, "created_at": moment, "updated_at": moment}
    with quiet.db.begin(quiet.scope) as tx:
        tx.insert("tasks", [{"task_id": "task_1", "task_type": "build", "status": "PENDING", **common}])
        for number in range(2):
            tx.enqueue("long.job", {"number": number}, group="task_1")
        tx.enqueue("long.job", {}, group="task_2")
    (running,) = quiet.services.queue.claim(["long.job"], "the test")
    ok(quiet.client.delete("/v1/tasks/task_1"))
    states = {row["job_id"]: row["status"] for row in quiet.rows("jobs", kind="long.job", group_key="task_1")}
    assert set(states.values()) == {"cancelled"}
    assert quiet.services.queue.heartbeat([running]) == set()
    assert [row["status"] for row in quiet.rows("jobs", group_key="task_2")] == ["ready"]


def test_a_pool_buries_only_the_kinds_it_knows(quiet: QuietApp) -> None:
    with quiet.db.begin(quiet.scope) as tx:
        for kind in ("one.kind", "other.kind"):
            tx.enqueue(kind, {})
    queue = quiet.services.queue
    for job in queue.claim(["one.kind", "other.kind"], "the test", limit=2):
        assert queue.fail(job, "a reason", permanent=True) == "dead"
    seen: list[str] = []

    def bury(job: Job, message: str) -> None:
        seen.append(job.kind)

    pool = WorkerPool(queue, {"one.kind": lambda run: None}, 1, on_dead=bury)
    pool._bury()
    assert seen == ["one.kind"]
    assert [job.kind for job, _ in queue.unburied()] == ["other.kind"]


def test_the_server_runs_long_jobs_beside_those_of_an_ingest(quiet: QuietApp) -> None:
    long, short = set(quiet.app.long_pool._handlers), set(quiet.app.pool._handlers)
    assert "follow_up" in long
    assert long & short == {"trigger.fire", "trigger.watch"}  # milliseconds each, on whichever thread is free
