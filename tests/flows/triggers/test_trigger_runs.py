"""Each due time runs exactly once, whoever races and whoever is killed."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from trigger_world import SCOPE, World, until

from mediatheca.flows.triggers.runs import fire_trigger, triggers_died
from mediatheca.flows.triggers.state import hold, set_status
from mediatheca.jobs.queue import JobQueue
from mediatheca.jobs.schedule import Scheduler, to_us
from mediatheca.jobs.worker import Run
from mediatheca.kernel import clock

KILLED = """
import os, signal, sys
from pathlib import Path
from trigger_world import SCOPE, World
from mediatheca.flows.triggers.runs import begin
from mediatheca.flows.triggers.state import hold
folder, url, trigger_id, due_at = sys.argv[1:]
world = World(Path(folder), url)
with world.db.begin(SCOPE) as tx:
    begin(world.services, tx, hold(tx, trigger_id), int(due_at))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def race(schedulers: list[Scheduler]) -> None:
    threads = [threading.Thread(target=scheduler.tick) for scheduler in schedulers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_many_due_times_run_once_each_while_schedulers_and_workers_race(world: World) -> None:
    bucket = world.bucket()
    triggers = [world.trigger(bucket, misfire_policy="all").id for _ in range(10)]
    with world.workers(2):
        for _ in range(5):
            world.clock.pass_(60)
            race(world.schedulers(2))
            # A trigger whose last run still goes on skips; here each round ends before the next one.
            until(lambda: world.waiting("trigger.fire") == 0)
            until(lambda: all(run["status"] != "running" for run in world.runs()))
    runs = world.runs()
    assert len(runs) == 50
    assert Counter(run["trigger_id"] for run in runs) == dict.fromkeys(triggers, 5)
    assert {run["status"] for run in runs} == {"completed"}
    assert world.events(["trigger.fired"]) == 50
    assert world.trigger_of(triggers[0]).body["execution_count"] == 5


def test_the_same_job_handed_out_twice_runs_once(world: World) -> None:
    trigger = world.trigger(world.bucket())
    due_at = to_us(clock.now())
    with world.db.begin(SCOPE) as tx:
        for _ in range(2):
            tx.enqueue("trigger.fire", {"trigger_id": trigger.id, "due_at": due_at})
    first, second = JobQueue(world.db).claim(["trigger.fire"], "w", limit=5)
    threads = [threading.Thread(target=fire_trigger, args=(world.services, Run(job))) for job in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(world.runs()) == 1
    assert world.waiting("trigger.fire") == 0


def test_a_worker_killed_between_the_run_and_its_action_leaves_neither_and_the_run_is_made_once(
    world: World, url: str, tmp_path: Path
) -> None:
    trigger = world.trigger(world.bucket())
    due_at = to_us(clock.now())
    with world.db.begin(SCOPE) as tx:
        tx.enqueue("trigger.fire", {"trigger_id": trigger.id, "due_at": due_at})
    (job,) = world.services.queue.claim(["trigger.fire"], "dead")  # by the worker that is killed
    arguments = [str(tmp_path / "other"), url, trigger.id, str(due_at)]
    script = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments], cwd=Path(__file__).parent, check=False, capture_output=True
    )
    assert script.returncode == -9, script.stderr.decode()
    assert world.runs() == []
    with world.db.read(SCOPE) as tx:
        assert tx.count("tasks", {}) == 0
    world.services.queue.reap(everything=True)
    with world.workers(2):
        until(lambda: [run["status"] for run in world.runs()] == ["completed"])
    with world.db.read(SCOPE) as tx:
        assert tx.count("tasks", {}) == 1
    assert job.payload["due_at"] == due_at


def test_a_trigger_paused_while_its_job_waits_does_not_run(world: World) -> None:
    trigger = world.trigger(world.bucket())
    world.clock.pass_(61)
    race(world.schedulers(2))
    with world.db.begin(SCOPE) as tx:
        held = hold(tx, trigger.id)
        assert held is not None
        set_status(tx, held, "paused")
    with world.workers(1):
        until(lambda: world.waiting("trigger.fire") == 0)
    assert world.runs() == []
    with world.db.begin(SCOPE) as tx:
        held = hold(tx, trigger.id)
        assert held is not None
        set_status(tx, held, "active")
    world.clock.pass_(600)
    race(world.schedulers(2))
    with world.workers(1):
        until(lambda: len(world.runs()) == 1)


@pytest.mark.parametrize(("policy", "statuses"), [("once", ["completed"]), ("all", ["completed"] * 3)])
def test_what_was_missed_runs_once_or_each_time_but_never_two_at_once(
    world: World, policy: str, statuses: list[str]
) -> None:
    world.trigger(world.bucket(), misfire_policy=policy)
    world.clock.pass_(185)
    race(world.schedulers(2))
    with world.workers(2):
        until(lambda: world.waiting("trigger.fire") == 0)
        until(lambda: all(run["status"] != "running" for run in world.runs()))
    assert [run["status"] for run in world.runs()] == statuses


def test_a_trigger_whose_bucket_is_gone_fails_with_the_reason_until_it_is_switched_off(world: World) -> None:
    bucket = world.bucket()
    trigger = world.trigger(bucket)
    with world.db.begin(SCOPE) as tx:
        tx.remove(tx.get("bucket", bucket))
    with world.workers(1):
        for count in range(1, 7):
            world.clock.pass_(60)
            race(world.schedulers(1))
            until(lambda: world.waiting("trigger.fire") == 0)
            assert len(world.runs()) == min(count, 5)
    assert {run["status"] for run in world.runs()} == {"failed"}
    assert bucket in world.runs()[0]["body"]["error"]
    body = world.trigger_of(trigger.id).body
    assert (body["status"], body["consecutive_failures"]) == ("failed", 5)
    assert world.events(["trigger.disabled"]) == 1


def test_jobs_that_are_out_of_attempts_are_failed_runs(world: World) -> None:
    trigger = world.trigger(world.bucket())
    due_at = to_us(clock.now())
    with world.db.begin(SCOPE) as tx:
        tx.enqueue("trigger.fire", {"trigger_id": trigger.id, "due_at": due_at}, priority=99)
        row = {"run_id": "trun_0", "trigger_id": trigger.id, "due_at": 1, "status": "running", "task_id": None}
        tx.insert("trigger_runs", [{**row, "body": {"task_ids": []}, "created_at": clock.now()}])
        tx.enqueue("trigger.watch", {"run_id": "trun_0", "looks": 0})
    for job in world.services.queue.claim(["trigger.fire", "trigger.watch"], "w", limit=5):
        triggers_died(world.services, job, "the database was gone")
        triggers_died(world.services, job, "the database was gone")
    assert [(run["status"], run["body"]["error"]) for run in world.runs()] == [("failed", "the database was gone")] * 2
    assert world.trigger_of(trigger.id).body["consecutive_failures"] == 2


def test_a_due_trigger_goes_before_a_long_queue_of_other_work(world: World) -> None:
    trigger = world.trigger(world.bucket())
    with world.db.begin(SCOPE) as tx:
        tx.enqueue_many("ingest.chunk", [{} for _ in range(50)])
    world.clock.pass_(61)
    race(world.schedulers(1))
    (job,) = world.services.queue.claim(["ingest.chunk", "trigger.fire"], "w")
    assert job.payload["trigger_id"] == trigger.id


def test_a_schedule_that_can_no_longer_be_computed_fails_its_trigger(world: World) -> None:
    trigger = world.trigger(world.bucket())
    with world.db.begin(SCOPE) as tx:
        tx.update("schedules", {}, {"interval_s": None, "cron": "0 9 * * *", "timezone": "Old/Zone"})
    world.clock.pass_(61)
    race(world.schedulers(2))
    with world.workers(1):
        until(lambda: world.trigger_of(trigger.id).body["status"] == "failed")
    assert "Old/Zone" in world.runs()[0]["body"]["error"]
