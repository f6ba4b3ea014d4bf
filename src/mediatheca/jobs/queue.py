"""The durable queue: one table, one claim statement for both databases.

Delivery is at least once. A claimed job is leased: the lease token fences every later write, a heartbeat renews it, and
a lease that ran out makes the job ready again (or dead, after `max_attempts`). Database time decides on PostgreSQL,
where workers may live on several machines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, RowMapping, bindparam, text
from sqlalchemy.exc import IntegrityError

from mediatheca.kernel.ids import new_uuid
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.tables import NOW_US, Json

T = TypeVar("T")

BACKOFF_S = (1, 5, 30, 120, 600)
"""Waiting time before attempt 2, 3, …; the last one repeats."""

# Fair: the n-th waiting job of an organization stands behind the (n - 1)-th of every other with as many running.
_CLAIM = """
WITH candidates AS {materialized} (
    SELECT job_id, priority, run_at,
           row_number() OVER (PARTITION BY organization_id ORDER BY priority DESC, run_at, job_id)
             + (SELECT count(*) FROM jobs r WHERE r.status = 'running' AND r.organization_id = j.organization_id)
             AS turn,
           CASE WHEN lock_key IS NULL THEN 1
                ELSE row_number() OVER (PARTITION BY lock_key ORDER BY priority DESC, run_at, job_id) END AS place
    FROM jobs j
    WHERE status = 'ready' AND run_at <= {now} AND kind IN :kinds
      AND NOT EXISTS (SELECT 1 FROM jobs r WHERE r.status = 'running' AND r.lock_key = j.lock_key)
), chosen AS {materialized} (
    SELECT j.job_id FROM jobs j JOIN candidates c ON c.job_id = j.job_id
    WHERE c.place = 1 AND j.status = 'ready'
    ORDER BY c.priority DESC, c.turn, c.run_at, c.job_id LIMIT :limit {skip_locked}
)
UPDATE jobs SET status = 'running', lease_token = :token, lease_until = {now} + :lease, worker = :worker,
                attempts = attempts + 1
WHERE job_id IN (SELECT job_id FROM chosen)
RETURNING job_id, organization_id, namespace_id, kind, payload, attempts, max_attempts, group_key
"""


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed job. `token` proves the lease."""

    job_id: str
    scope: Scope
    kind: str
    payload: dict[str, Any]
    attempts: int
    max_attempts: int
    group: str | None
    token: str


class JobQueue:
    """Claims, renews and ends jobs. Enqueueing belongs to a transaction: `Tx.enqueue`."""

    def __init__(self, database: Database, lease_s: float = 30) -> None:
        self._db = database
        self.lease_us = int(lease_s * 1e6)
        now = NOW_US[database.dialect]
        postgresql = database.dialect == "postgresql"
        self._now = now
        self._claim = (
            text(
                _CLAIM.format(
                    now=now,
                    materialized="MATERIALIZED" if postgresql else "",
                    skip_locked="FOR UPDATE OF j SKIP LOCKED" if postgresql else "",
                )
            )
            .bindparams(bindparam("kinds", expanding=True))
            .columns(payload=Json)
        )

    def claim(self, kinds: Sequence[str], worker: str, limit: int = 1) -> list[Job]:
        """Lease up to `limit` ready jobs of these kinds, fairly over organizations."""
        token = new_uuid()
        values = {"kinds": list(kinds), "limit": limit, "token": token, "lease": self.lease_us, "worker": worker}
        try:
            rows = self._write(lambda connection: connection.execute(self._claim, values).mappings().all())
        except IntegrityError:  # another worker took the same lock between our look and our write
            return []
        return [_job(row, token) for row in rows]

    def _write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction of its own; again when it lost to another process's."""

        def attempt() -> T:
            with self._db.system() as connection:
                return work(connection)

        return self._db.again(attempt)

    def heartbeat(self, jobs: Sequence[Job]) -> set[str]:
        """Renew leases. Returns the ids still ours; the others were cancelled or taken over."""
        statement = text(
            f"UPDATE jobs SET lease_until = {self._now} + :lease "  # noqa: S608
            "WHERE job_id = :job AND lease_token = :token AND status = 'running' RETURNING job_id"
        )

        def renew(connection: Connection) -> set[str]:
            alive: set[str] = set()
            for job in sorted(jobs, key=lambda job: job.job_id):
                values = {"lease": self.lease_us, "job": job.job_id, "token": job.token}
                alive.update(connection.execute(statement, values).scalars())
            return alive

        return self._write(renew)

    def finish(self, job: Job) -> bool:
        """Mark done. Handlers that write results finish in the same transaction instead: `Tx.finish_job`."""
        return self._write(lambda connection: self._end(connection, job, "done", None))

    def fail(self, job: Job, error: str, *, permanent: bool = False) -> str:
        """Retry later with back-off, or give up. Returns the new status: `ready`, `dead` or, if it is no longer ours,
        `lost`. A dead job stays `unburied` until somebody has seen to what it leaves behind."""
        status = "dead" if permanent or job.attempts >= job.max_attempts else "ready"
        delay = BACKOFF_S[min(job.attempts, len(BACKOFF_S)) - 1]
        ours = self._write(lambda connection: self._end(connection, job, status, error, int(delay * 1e6)))
        return status if ours else "lost"

    def unburied(self, kinds: Sequence[str] = (), limit: int = 100) -> list[tuple[Job, str]]:
        """Dead jobs of these kinds (none: of all), with the reason, that nobody has seen to: whoever gave up on them
        may have died itself."""
        chosen = " AND kind IN :kinds" if kinds else ""
        statement = text(
            "SELECT job_id, organization_id, namespace_id, kind, payload, attempts, max_attempts, group_key, error "  # noqa: S608
            f"FROM jobs WHERE status = 'dead' AND finished_at IS NULL{chosen} ORDER BY job_id LIMIT :limit"
        ).columns(payload=Json)
        values: dict[str, Any] = {"limit": limit}
        if kinds:
            statement, values["kinds"] = statement.bindparams(bindparam("kinds", expanding=True)), list(kinds)
        with self._db.translate(), self._db.engine.connect() as connection, connection.begin():
            rows = connection.execute(statement, values).mappings().all()
        return [(_job(row, ""), row["error"] or "") for row in rows]

    def bury(self, job: Job) -> None:
        """A dead job has been seen to."""
        statement = text(f"UPDATE jobs SET finished_at = {self._now} WHERE job_id = :job AND status = 'dead'")  # noqa: S608
        self._write(lambda connection: connection.execute(statement, {"job": job.job_id}))

    def release(self, job: Job) -> None:
        """Hand back an unfinished job at once (shutdown); the attempt does not count."""
        statement = text(
            "UPDATE jobs SET status = 'ready', lease_token = NULL, lease_until = NULL, attempts = attempts - 1 "
            "WHERE job_id = :job AND lease_token = :token AND status = 'running'"
        )
        self._write(lambda connection: connection.execute(statement, {"job": job.job_id, "token": job.token}))

    def _end(self, connection: Connection, job: Job, status: str, error: str | None, delay_us: int = 0) -> bool:
        statement = text(
            "UPDATE jobs SET status = CAST(:status AS VARCHAR), error = :error, lease_token = NULL, "  # noqa: S608
            f"lease_until = NULL, run_at = {self._now} + :delay, "
            f"finished_at = CASE WHEN CAST(:status AS VARCHAR) = 'done' THEN {self._now} END "
            "WHERE job_id = :job AND lease_token = :token AND status = 'running'"
        )
        values = {"status": status, "error": error, "delay": delay_us, "job": job.job_id, "token": job.token}
        return connection.execute(statement, values).rowcount > 0

    def reap(self, *, everything: bool = False) -> int:
        """Make jobs whose lease ran out ready again; give up on those out of attempts. Returns how many.

        `everything`: leases that still run too, for the start of the only process that works.
        """
        statement = text(
            "UPDATE jobs SET status = CASE WHEN attempts >= max_attempts THEN 'dead' ELSE 'ready' END, "  # noqa: S608
            f"error = 'the worker stopped answering', lease_token = NULL, lease_until = NULL, run_at = {self._now} "
            f"WHERE status = 'running' AND (lease_until < {self._now} OR :everything = 1)"
        )
        count = self._write(lambda connection: connection.execute(statement, {"everything": int(everything)}).rowcount)
        if count:
            self._db.notify({"jobs"})
        return count

    def clean(self, older_than_s: float = 86_400) -> int:
        """Forget finished jobs; dead ones are kept until somebody looks."""
        statement = text(
            f"DELETE FROM jobs WHERE status IN ('done', 'cancelled') AND finished_at < {self._now} - :age"  # noqa: S608
        )
        return self._write(lambda connection: connection.execute(statement, {"age": int(older_than_s * 1e6)}).rowcount)

    def depth(self) -> dict[str, int]:
        """Jobs by status, for metrics."""
        with self._db.engine.connect() as connection, connection.begin():
            rows = connection.execute(text("SELECT status, count(*) FROM jobs GROUP BY status"))
            return {status: int(count) for status, count in rows}


def _job(row: RowMapping, token: str) -> Job:
    return Job(
        row["job_id"], Scope(row["organization_id"], row["namespace_id"]), row["kind"], row["payload"],
        row["attempts"], row["max_attempts"], row["group_key"], token,
    )  # fmt: skip
