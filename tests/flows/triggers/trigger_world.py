"""A composed server over a database of either kind, not started: tests drive its scheduler and its workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mediatheca.app import App, build
from mediatheca.flows.triggers.jobs import trigger_jobs
from mediatheca.flows.triggers.runs import triggers_died
from mediatheca.flows.triggers.state import create_trigger
from mediatheca.jobs.schedule import Scheduler
from mediatheca.jobs.worker import WorkerPool
from mediatheca.kernel import clock
from mediatheca.kernel.scope import Scope
from mediatheca.settings import Settings
from mediatheca.stores.db.tx import Record, Row

SCOPE = Scope("org_1", "ns_1")


class DrivenClock:
    """Begins a second from now."""

    def __init__(self) -> None:
        self.now = self._soon()

    @staticmethod
    def _soon() -> datetime:
        return clock.now().astimezone(UTC) + timedelta(seconds=1)

    def catch_up(self) -> None:
        self.now = max(self.now, self._soon())

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class World:
    def __init__(self, folder: Path, database: str) -> None:
        self.app: App = build(Settings(data_dir=folder, database_url=database, workers=0, log_level="critical"))
        self.services = self.app.services
        self.db = self.services.db
        self.clock = DrivenClock()

    def bucket(self) -> str:
        with self.db.begin(SCOPE) as tx:
            return tx.put("bucket", "bkt", "things", {"bucket_schema": {"properties": {}}}).id

    def trigger(self, bucket_id: str, **timing: Any) -> Record:
        """A trigger that has nothing to do, whose runs end by themselves."""
        body = {
            "action_type": "batch_rerun",
            "action_config": {"bucket_id": bucket_id, "retry_failed_only": True},
            "trigger_type": "interval",
            "schedule_config": {"interval_seconds": 60, "start_immediately": False, **timing},
            "status": "active",
            "description": None,
        }
        with self.db.begin(SCOPE) as tx:
            made = create_trigger(tx, body, None)
        self.clock.catch_up()  # a trigger is scheduled from the moment it is made
        return made

    def schedulers(self, count: int = 2) -> list[Scheduler]:
        return [Scheduler(self.db, self.clock) for _ in range(count)]

    @contextmanager
    def workers(self, count: int = 2) -> Iterator[None]:
        """So many pools at work."""
        pools = [
            WorkerPool(
                self.services.queue,
                trigger_jobs(self.services),
                2,
                poll_s=0.02,
                on_dead=lambda job, message: triggers_died(self.services, job, message),
            )
            for _ in range(count)
        ]
        for pool in pools:
            self.db.listen(pool.wake)
            pool.start()
        try:
            yield
        finally:
            for pool in pools:
                pool.close()

    def runs(self) -> list[Row]:
        with self.db.read(SCOPE) as tx:
            return tx.rows("trigger_runs", {}, order=("due_at", "trigger_id"))

    def waiting(self, kind: str) -> int:
        with self.db.read(SCOPE) as tx:
            return tx.count("jobs", {"kind": kind, "status": ["ready", "running"]})

    def trigger_of(self, ident: str) -> Record:
        with self.db.read(SCOPE) as tx:
            return tx.get("trigger", ident)

    def events(self, kinds: Sequence[str]) -> int:
        with self.db.read(SCOPE) as tx:
            return tx.count("events", {"type": list(kinds)})

    def close(self) -> None:
        self.app.close()


def until(holds: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)
