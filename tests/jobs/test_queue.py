"""The durable queue, on both databases."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import pytest

from mediatheca.jobs.queue import BACKOFF_S, JobQueue
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.tx import LeaseLostError

A, B = Scope("org_a", "ns_a"), Scope("org_b", "ns_b")


def enqueue(db: Database, scope: Scope = A, count: int = 1, **options: object) -> list[str]:
    with db.begin(scope) as tx:
        return tx.enqueue_many("work", [{"n": n} for n in range(count)], **options)  # type: ignore[arg-type]


def status(db: Database, job_id: str, scope: Scope = A) -> str:
    with db.read(scope) as tx:
        row = tx.row("jobs", {"job_id": job_id})
    assert row is not None
    return str(row["status"])


def test_a_job_runs_only_if_its_transaction_commits(db: Database) -> None:
    with pytest.raises(RuntimeError), db.begin(A) as tx:
        tx.enqueue("work", {})
        raise RuntimeError
    assert JobQueue(db).claim(["work"], "w") == []


def test_a_claimed_job_carries_its_scope_and_is_not_claimed_twice(db: Database) -> None:
    queue = JobQueue(db)
    enqueue(db)
    (job,) = queue.claim(["work"], "w")
    assert job.scope == A
    assert job.payload == {"n": 0}
    assert job.attempts == 1
    assert queue.claim(["work"], "w") == []


def test_kinds_a_worker_does_not_know_are_left_alone(db: Database) -> None:
    enqueue(db)
    assert JobQueue(db).claim(["other"], "w") == []


def test_many_workers_never_share_a_job(db: Database) -> None:
    queue = JobQueue(db)
    enqueue(db, count=60)
    seen: Counter[str] = Counter()
    lock = threading.Lock()

    def work() -> None:
        while jobs := queue.claim(["work"], "w", limit=3):
            with lock:
                seen.update(job.job_id for job in jobs)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while jobs := queue.claim(["work"], "w", limit=10):  # a claim may come back empty while others hold rows
        seen.update(job.job_id for job in jobs)
    assert len(seen) == 60
    assert set(seen.values()) == {1}


def test_only_one_job_of_a_lock_runs_at_a_time(db: Database) -> None:
    queue = JobQueue(db)
    enqueue(db, count=3, lock="table")
    (first,) = queue.claim(["work"], "w", limit=10)
    assert queue.claim(["work"], "w", limit=10) == []
    assert queue.finish(first)
    assert len(queue.claim(["work"], "w", limit=10)) == 1


def test_an_organization_with_a_long_queue_does_not_starve_another(db: Database) -> None:
    queue = JobQueue(db)
    enqueue(db, A, count=50)
    enqueue(db, B, count=2)
    claimed = queue.claim(["work"], "w", limit=4)
    assert Counter(job.scope for job in claimed) == {A: 2, B: 2}


def test_higher_priority_goes_first(db: Database) -> None:
    queue = JobQueue(db)
    enqueue(db)
    (urgent,) = enqueue(db, priority=5)
    assert queue.claim(["work"], "w")[0].job_id == urgent


def test_a_delayed_job_waits(db: Database) -> None:
    enqueue(db, delay_s=60)
    assert JobQueue(db).claim(["work"], "w") == []


def test_a_failed_job_waits_before_its_next_attempt_and_dies_after_the_last(db: Database) -> None:
    queue = JobQueue(db)
    (job_id,) = enqueue(db, max_attempts=1)
    (job,) = queue.claim(["work"], "w")
    assert queue.fail(job, "boom") == "dead"
    assert status(db, job_id) == "dead"
    (job_id,) = enqueue(db, max_attempts=20)
    for attempt, seconds in enumerate((*BACKOFF_S, BACKOFF_S[-1]), start=1):
        with db.begin(A) as tx:
            tx.update("jobs", {"job_id": job_id}, {"run_at": 0})
            before = tx.time_us()
        (job,) = queue.claim(["work"], "w")
        assert (job.attempts, queue.fail(job, "boom")) == (attempt, "ready")
        with db.read(A) as tx:
            row, after = tx.row("jobs", {"job_id": job_id}), tx.time_us()
        assert row is not None
        assert before <= row["run_at"] - seconds * 1e6 <= after
    assert queue.claim(["work"], "w") == []  # for ten minutes


def test_a_permanent_failure_is_not_retried(db: Database) -> None:
    queue = JobQueue(db)
    enqueue(db)
    (job,) = queue.claim(["work"], "w")
    assert queue.fail(job, "never", permanent=True) == "dead"


def test_a_lease_that_ran_out_gives_the_job_to_somebody_else_and_fences_the_first(db: Database) -> None:
    stale = JobQueue(db, lease_s=-1)
    enqueue(db)
    (lost,) = stale.claim(["work"], "slow")
    queue = JobQueue(db)
    assert queue.reap() == 1
    (taken,) = queue.claim(["work"], "fast")
    assert taken.job_id == lost.job_id
    assert taken.attempts == 2
    assert queue.heartbeat([lost]) == set()
    assert not queue.finish(lost)
    with pytest.raises(LeaseLostError), db.begin(A) as tx:
        tx.emit("half.done", "x")
        tx.finish_job(lost.job_id, lost.token)
    with db.read(A) as tx:
        assert tx.count("events", {"type": "half.done"}) == 0
    assert queue.finish(taken)


def test_a_heartbeat_keeps_the_lease(db: Database) -> None:
    queue = JobQueue(db, lease_s=600)
    enqueue(db)
    jobs = queue.claim(["work"], "w")
    assert queue.heartbeat(jobs) == {jobs[0].job_id}
    assert queue.reap() == 0


def test_a_job_handed_back_does_not_lose_an_attempt(db: Database) -> None:
    queue = JobQueue(db)
    enqueue(db)
    (job,) = queue.claim(["work"], "w")
    queue.release(job)
    (again,) = queue.claim(["work"], "w")
    assert again.attempts == 1


def test_cancelling_a_group_stops_waiting_and_running_jobs(db: Database) -> None:
    queue = JobQueue(db)
    enqueue(db, count=3, group="batch")
    (running,) = queue.claim(["work"], "w")
    with db.begin(A) as tx:
        assert tx.cancel_jobs("batch") == 3
    assert queue.claim(["work"], "w") == []
    assert queue.heartbeat([running]) == set()


def test_finished_jobs_are_forgotten_and_dead_ones_kept(db: Database) -> None:
    queue = JobQueue(db)
    enqueue(db, count=2, max_attempts=1)
    done, dead = queue.claim(["work"], "w", limit=2)
    queue.finish(done)
    queue.fail(dead, "boom")
    assert queue.clean(older_than_s=-60) == 1
    assert queue.depth() == {"dead": 1}


def test_a_sqlite_queue_survives_a_restart(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'q.db'}"
    first = Database(url)
    first.migrate()
    enqueue(first)
    first.close()
    second = Database(url)
    assert len(JobQueue(second).claim(["work"], "w")) == 1
    second.close()
