"""The queue of deliveries: claimed under a lease, and their results written many in one transaction.

A row is claimed by a token of the process. Whoever's lease ran out finds its rows taken by another token, and what it
writes about them then is left out. An attempt counts when it is recorded: a crash before costs none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import BindParameter, Connection, bindparam, text

from mediatheca.kernel import clock
from mediatheca.kernel.ids import new_uuid
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.retention import prune_rows
from mediatheca.stores.db.system_tx import SystemTx
from mediatheca.stores.db.tables import NOW_US, Json

T = TypeVar("T")

_CLAIM = """
WITH chosen AS {materialized} (
    SELECT delivery_id FROM deliveries
    WHERE status = 'pending' AND run_at <= {now} AND target_id NOT IN :held
    ORDER BY run_at, delivery_id LIMIT :limit {skip_locked}
)
UPDATE deliveries SET status = 'sending', lease_token = :token, lease_until = {now} + :lease
WHERE delivery_id IN (SELECT delivery_id FROM chosen)
RETURNING delivery_id, organization_id, namespace_id, target_kind, target_id, channel_no, channel, message_id,
          event_type, body, attempts, run_at
"""
_DUE = "SELECT min(run_at) FROM deliveries WHERE status = 'pending' AND target_id NOT IN :held"
_RECORD = """
UPDATE deliveries SET status = :status, attempts = attempts + :counted, run_at = CASE WHEN CAST(:delay AS BIGINT) < 0
       THEN run_at ELSE {now} + CAST(:delay AS BIGINT) END, lease_token = NULL, lease_until = NULL,
       last_status = :last_status, last_error = :last_error, response = :response, finished_at = :finished_at
WHERE delivery_id = :delivery_id AND lease_token = :token AND status = 'sending'
"""
_NONE = "-"
"""`NOT IN` wants a value; no id is this."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery that is ours to make."""

    delivery_id: str
    scope: Scope
    target_kind: str
    target_id: str
    channel_no: int
    channel: dict[str, Any]
    message_id: str
    event_type: str
    body: dict[str, Any]
    attempts: int
    """How often it was tried before."""


@dataclass(frozen=True, slots=True)
class Result:
    """What becomes of a delivery."""

    delivery_id: str
    status: str
    """delivered, pending (again after `delay_s`), failed, canceled or not_configured."""
    delay_s: float = 0.0
    counted: bool = True
    """Whether it was an attempt."""
    last_status: int | None = None
    last_error: str | None = None
    response: str | None = None

    def values(self, token: str, moment: datetime) -> dict[str, Any]:
        waiting = self.status == "pending"
        return {
            "delivery_id": self.delivery_id,
            "token": token,
            "status": self.status,
            "counted": int(self.counted),
            "delay": int(self.delay_s * 1e6) if waiting else -1,
            "last_status": self.last_status,
            "last_error": self.last_error,
            "response": self.response,
            "finished_at": None if waiting else int(moment.timestamp() * 1e6),
        }


class Deliveries:
    """The rows that one process works on."""

    def __init__(self, database: Database, lease_s: float = 60) -> None:
        self._db = database
        self.token = new_uuid()
        self._lease_us = int(lease_s * 1e6)
        postgresql = database.dialect == "postgresql"
        now = NOW_US[database.dialect]
        self._now = now
        claim = _CLAIM.format(
            now=now,
            materialized="MATERIALIZED" if postgresql else "",
            skip_locked="FOR UPDATE SKIP LOCKED" if postgresql else "",
        )
        held: BindParameter[Any] = bindparam("held", expanding=True)
        self._claim = text(claim).bindparams(held).columns(channel=Json, body=Json)
        self._due = text(_DUE).bindparams(held)
        self._record = text(_RECORD.format(now=now))

    def claim(self, limit: int, held: Collection[str] = ()) -> list[Claimed]:
        """Take what is due, oldest first, but nothing for the targets in `held`."""
        values = {"limit": limit, "held": [*held] or [_NONE], "token": self.token, "lease": self._lease_us}

        def take(connection: Connection) -> list[Claimed]:
            rows = connection.execute(self._claim, values).mappings().all()
            return [_claimed(row) for row in sorted(rows, key=lambda row: (row["run_at"], row["delivery_id"]))]

        return self._write(take)

    def wait_s(self, held: Collection[str] = ()) -> float | None:
        """Seconds until something is due, 0 or less: now; None: nothing waits."""
        with self._db.translate(), self._db.engine.connect() as connection, connection.begin():
            due = connection.execute(self._due, {"held": [*held] or [_NONE]}).scalar_one()
            if due is None:
                return None
            now = connection.execute(text(f"SELECT {self._now}")).scalar_one()
        return float(due - now) / 1e6

    def record(self, tx: SystemTx, results: Sequence[Result]) -> list[Result]:
        """Write results; gives those that were still ours."""
        moment = clock.now()
        connection = tx.connection
        return [
            result
            for result in sorted(results, key=lambda result: result.delivery_id)
            if connection.execute(self._record, result.values(self.token, moment)).rowcount
        ]

    def renew(self) -> int:
        """Keep the lease on what is ours; how many."""
        statement = text(
            f"UPDATE deliveries SET lease_until = {self._now} + :lease "  # noqa: S608
            "WHERE status = 'sending' AND lease_token = :token"
        )
        values = {"lease": self._lease_us, "token": self.token}
        return self._write(lambda connection: connection.execute(statement, values).rowcount)

    def hasten(self, target_id: str, channel_no: int) -> int:
        """A receiver is back: what waits for it is due now; how many."""
        statement = text(
            "UPDATE deliveries SET run_at = 0 WHERE status = 'pending' AND run_at > 0 "
            "AND target_id = :target AND channel_no = :channel"
        )
        values = {"target": target_id, "channel": channel_no}
        return self._write(lambda connection: connection.execute(statement, values).rowcount)

    def release(self) -> int:
        """Hand back all that is ours: the end of the process."""
        statement = text(
            "UPDATE deliveries SET status = 'pending', lease_token = NULL, lease_until = NULL "
            "WHERE status = 'sending' AND lease_token = :token"
        )
        return self._write(lambda connection: connection.execute(statement, {"token": self.token}).rowcount)

    def reap(self, *, everything: bool = False) -> int:
        """Make deliveries of processes that died due again. `everything`: of all, for the start of the only one."""
        statement = text(
            "UPDATE deliveries SET status = 'pending', lease_token = NULL, lease_until = NULL "  # noqa: S608
            f"WHERE status = 'sending' AND (lease_until < {self._now} OR :everything = 1)"
        )
        return self._write(lambda connection: connection.execute(statement, {"everything": int(everything)}).rowcount)

    def waiting(self) -> int:
        """How many are still to be delivered, of all processes."""
        statement = text("SELECT count(*) FROM deliveries WHERE status IN ('pending', 'sending')")
        with self._db.translate(), self._db.engine.connect() as connection, connection.begin():
            return int(connection.execute(statement).scalar_one())

    def prune(self, days: float) -> int:
        """Forget deliveries older than this."""
        return prune_rows(self._db, "deliveries", datetime.now(UTC) - timedelta(days=days), None)

    def _write(self, work: Callable[[Connection], T]) -> T:
        def attempt() -> T:
            with self._db.system() as connection:
                return work(connection)

        return self._db.again(attempt)


def _claimed(row: Any) -> Claimed:
    return Claimed(
        row["delivery_id"], Scope(row["organization_id"], row["namespace_id"]), row["target_kind"], row["target_id"],
        row["channel_no"], row["channel"], row["message_id"], row["event_type"], row["body"], row["attempts"],
    )  # fmt: skip
