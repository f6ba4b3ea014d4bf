"""Worker threads: run, retry, stop, hand back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from mediatheca.jobs.queue import Job, JobQueue
from mediatheca.jobs.worker import JobCancelledError, PermanentJobError, Run, WorkerPool
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database

SCOPE = Scope("org", "ns")


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


def enqueue(db: Database, **payload: object) -> str:
    with db.begin(SCOPE) as tx:
        return tx.enqueue("work", payload, group="g")


def finish(db: Database, run: Run) -> None:
    with db.begin(SCOPE) as tx:
        tx.finish_job(run.job.job_id, run.job.token)


def test_a_committed_job_wakes_a_waiting_worker(db: Database) -> None:
    done = threading.Event()

    def handle(run: Run) -> None:
        finish(db, run)
        done.set()

    worker = WorkerPool(JobQueue(db), {"work": handle}, 1, poll_s=60)
    db.listen(worker.wake)
    worker.start()
    enqueue(db)
    assert done.wait(120)
    worker.close()
    assert JobQueue(db).depth() == {"done": 1}


def test_a_handler_that_raises_is_retried_and_one_that_cannot_succeed_is_not(db: Database) -> None:
    dead: list[str] = []

    def handle(run: Run) -> None:
        raise PermanentJobError("no such thing") if run.job.payload["permanent"] else RuntimeError("boom")

    worker = WorkerPool(
        JobQueue(db), {"work": handle}, 1, poll_s=0.05, on_dead=lambda job, message: dead.append(message)
    )
    enqueue(db, permanent=True)
    enqueue(db, permanent=False)
    worker.start()
    until(lambda: JobQueue(db).depth() == {"dead": 1, "ready": 1})
    worker.close()
    assert dead == ["PermanentJobError: no such thing"]


def test_a_dead_job_is_seen_to_once_though_several_threads_look(db: Database) -> None:
    begun, go, seen = threading.Event(), threading.Event(), list[str]()

    def bury(job: Job, message: str) -> None:
        seen.append(message)
        begun.set()
        assert go.wait(120)

    queue = JobQueue(db)
    enqueue(db)
    (job,) = queue.claim(["work"], "w")
    assert queue.fail(job, "boom", permanent=True) == "dead"
    worker = WorkerPool(queue, {"work": lambda run: None}, 1, on_dead=bury)
    first, second = (threading.Thread(target=worker._bury) for _ in range(2))
    first.start()
    assert begun.wait(120)
    second.start()
    second.join(0.2)  # it would have seen the job, which nobody has buried yet
    go.set()
    for thread in (first, second):
        thread.join(120)
    assert seen == ["boom"]
    assert queue.unburied() == []


def test_a_machine_that_slept_longer_than_its_leases_keeps_its_jobs(db: Database) -> None:
    started, go = threading.Event(), threading.Event()
    attempts: list[int] = []

    def handle(run: Run) -> None:
        started.set()
        assert go.wait(120)
        run.check()
        attempts.append(run.job.attempts)
        finish(db, run)

    worker = WorkerPool(JobQueue(db, lease_s=1.5), {"work": handle}, 1, poll_s=0.05)
    ident = enqueue(db)
    worker.start()
    assert started.wait(120)
    with db.begin(SCOPE) as tx:
        tx.update("jobs", {"job_id": ident}, {"lease_until": 1})
    until(lambda: leased_until(db, ident) != 1)
    go.set()
    until(lambda: JobQueue(db).depth() == {"done": 1})
    worker.close()
    assert attempts == [1]


def leased_until(db: Database, ident: str) -> int | None:
    with db.read(SCOPE) as tx:
        row = tx.row("jobs", {"job_id": ident})
    assert row is not None
    return row["lease_until"]  # type: ignore[no-any-return]


def test_a_cancelled_job_is_told_to_stop(db: Database) -> None:
    started, stopped = threading.Event(), threading.Event()

    def handle(run: Run) -> None:
        started.set()
        try:
            while True:
                run.check()
                time.sleep(0.01)
        except JobCancelledError:
            stopped.set()
            raise

    worker = WorkerPool(JobQueue(db, lease_s=0.3), {"work": handle}, 1, poll_s=0.05)
    worker.start()
    enqueue(db)
    assert started.wait(120)
    with db.begin(SCOPE) as tx:
        tx.cancel_jobs("g")
    assert stopped.wait(120)
    worker.close()


def test_closing_hands_back_what_does_not_finish_in_time(db: Database) -> None:
    started = threading.Event()

    def handle(run: Run) -> None:
        started.set()
        run.stop.wait(120)
        run.check()

    worker = WorkerPool(JobQueue(db), {"work": handle}, 1, poll_s=0.05)
    worker.start()
    enqueue(db)
    assert started.wait(120)
    worker.close(grace_s=0.1)
    (job,) = JobQueue(db).claim(["work"], "other")
    assert job.attempts == 1


def test_a_worker_that_died_loses_its_jobs_to_another(db: Database) -> None:
    enqueue(db)
    JobQueue(db, lease_s=0.1).claim(["work"], "dead worker")
    done: list[Job] = []

    def handle(run: Run) -> None:
        finish(db, run)
        done.append(run.job)

    # Of its own it has enough: only what the dead one left behind runs out.
    worker = WorkerPool(JobQueue(db, lease_s=6), {"work": handle}, 1, poll_s=0.05)
    worker.start()
    until(lambda: len(done) == 1)
    worker.close()
    assert done[0].attempts == 2
