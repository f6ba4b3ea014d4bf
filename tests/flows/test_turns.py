"""Jobs that go on for long leave the others their turn."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from quiet_app import QuietApp

from helpers import wait_for
from mediatheca.flows.follow_up import FollowUp, Outcome, Phase, run_follow_ups
from mediatheca.flows.services import Services
from mediatheca.jobs.worker import Handler, Run, WorkerPool


@pytest.fixture
def quiet(tmp_path: Path) -> Iterator[QuietApp]:
    made = QuietApp(tmp_path)
    yield made
    made.close()


def test_a_collection_that_is_written_to_all_the_time_goes_to_the_end_of_the_queue(quiet: QuietApp) -> None:
    seen: list[str] = []

    def run(services: Services, run: Run, follow: FollowUp) -> Outcome:
        seen.extend(follow.document_ids)
        quiet.write(f"later-{len(seen)}")
        spine.tick()
        return Outcome(done=1)

    phases = [Phase(1, "only", lambda tx, collection: True, run)]
    spine = quiet.dispatcher(phases)
    quiet.write("first")
    spine.tick()
    held = quiet.claim("follow_up")
    run_follow_ups(quiet.services, phases, held, turn_s=0.05)
    states = sorted(row["status"] for row in quiet.rows("jobs", kind="follow_up"))
    assert states == ["done", "ready"]
    assert quiet.rows("follow_ups", status="open"), "what was written meanwhile waits for the job that is ready"


def test_one_thread_takes_no_job_that_may_take_an_hour(quiet: QuietApp) -> None:
    held, done = threading.Event(), threading.Event()

    def long(run: Run) -> None:
        held.wait(120)

    handlers: dict[str, Handler] = {"long.one": long, "short.one": lambda run: done.set()}
    with quiet.db.begin(quiet.scope) as tx:
        for _ in range(3):
            tx.enqueue("long.one", {})
    pool = WorkerPool(quiet.services.queue, handlers, 2, poll_s=0.02, long=["long.one"])
    pool.start()
    try:
        wait_for(lambda: [row for row in quiet.rows("jobs", kind="long.one") if row["status"] == "running"])
        with quiet.db.begin(quiet.scope) as tx:
            tx.enqueue("short.one", {})
        assert done.wait(120)
        assert sum(row["status"] == "running" for row in quiet.rows("jobs", kind="long.one")) == 1
    finally:
        held.set()
        pool.close()
