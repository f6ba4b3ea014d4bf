"""Schedules: cron expressions in a time zone, or intervals, turned into jobs exactly once per due time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import structlog
from cronsim import CronSim, CronSimError
from sqlalchemy import select

from mediatheca.kernel.errors import MediathecaError, ValidationError
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.tables import schedules
from mediatheca.stores.db.tx import Tx

log = structlog.get_logger()


def next_time(after: datetime, cron: str | None, timezone: str, interval_s: int | None) -> datetime:
    """When a schedule is due next, strictly after `after`.

    Raises:
        ValidationError: bad cron expression, unknown zone, or neither cron nor interval given.
    """
    if interval_s is not None:
        return after + timedelta(seconds=interval_s)
    if cron is None:
        raise ValidationError.at("schedule_config", "needs cron_expression or interval_seconds")
    try:
        zone = ZoneInfo(timezone)
        return next(CronSim(cron, after.astimezone(zone))).astimezone(UTC)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ValidationError.at("timezone", f"'{timezone}' is not a time zone of the IANA database") from error
    except (CronSimError, StopIteration) as error:
        raise ValidationError.at("cron_expression", f"'{cron}' is not a cron expression: {error}") from error


def add_schedule(
    tx: Tx, schedule_id: str, kind: str, payload: dict[str, Any], *, cron: str | None = None, timezone: str = "UTC",
    interval_s: int | None = None, after: datetime,
) -> datetime:  # fmt: skip
    """Store a schedule that enqueues `kind` jobs; returns the first due time."""
    due = next_time(after, cron, timezone, interval_s)
    row: dict[str, Any] = {
        "schedule_id": schedule_id,
        "kind": kind,
        "payload": payload,
        "cron": cron,
        "timezone": timezone,
    }
    row |= {"interval_s": interval_s, "enabled": True, "next_at": _us(due)}
    tx.insert("schedules", [row])
    return due


def _us(moment: datetime) -> int:
    return round(moment.timestamp() * 1e6)


class Scheduler:
    """Turns due schedules into jobs. Several may run at once: the due time is moved on by compare-and-set.

    `chores` are (seconds, what) pairs of this process's own housekeeping, run in the same thread.
    """

    def __init__(
        self,
        database: Database,
        now: Callable[[], datetime],
        chores: Sequence[tuple[float, Callable[[], object]]] = (),
        tick_s: float = 1,
    ) -> None:
        self._db = database
        self._now = now
        self._chores: list[list[Any]] = [[time.monotonic() + seconds, seconds, chore] for seconds, chore in chores]
        self._tick_s = tick_s
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="scheduler", daemon=True)
        self.last_beat = time.monotonic()

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(5)

    def _loop(self) -> None:
        while not self._closing.wait(self._tick_s):
            try:
                self.tick()
                self._do_chores()
            except MediathecaError as error:
                log.error("scheduler.tick_failed", error=error.message)
            except Exception as error:  # this thread must outlive whatever a chore or the database does
                log.error("scheduler.crashed", exc_info=error)

    def _do_chores(self) -> None:
        for entry in self._chores:
            due, seconds, chore = entry
            if due <= time.monotonic():
                entry[0] = time.monotonic() + seconds
                try:
                    chore()
                except Exception as error:  # one chore must not cost the others their turn
                    log.error("scheduler.chore_failed", exc_info=error)

    def tick(self) -> int:
        """Enqueue everything due now; returns how many. A schedule that missed several times runs once."""
        self.last_beat = time.monotonic()
        moment = self._now()
        with self._db.engine.connect() as connection, connection.begin():
            due = connection.execute(
                select(schedules).where(schedules.c.enabled, schedules.c.next_at <= _us(moment)).limit(100)
            )
            rows = [dict(row) for row in due.mappings()]
        return sum(self._fire(row, moment) for row in rows)

    def _fire(self, row: dict[str, Any], moment: datetime) -> bool:
        following = next_time(moment, row["cron"], row["timezone"], row["interval_s"])
        where = {"schedule_id": row["schedule_id"], "next_at": row["next_at"]}

        def fire(tx: Tx) -> bool:
            if not tx.update("schedules", where, {"next_at": _us(following), "last_at": _us(moment)}):
                return False
            tx.enqueue(row["kind"], {**row["payload"], "schedule_id": row["schedule_id"]})
            return True

        return self._db.run(Scope(row["organization_id"], row["namespace_id"]), fire, "scheduler")
