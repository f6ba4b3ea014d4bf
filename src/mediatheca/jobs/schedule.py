"""Schedules: cron expressions in a time zone, or intervals, turned into jobs exactly once per due time.

Expressions have five fields and follow Debian's cron. One that names hours (`30 2 * * *`) runs once a day also where
clocks change: a time that is skipped in spring runs when the gap ends, one that comes twice in autumn runs at its first
coming. One with a star in the minutes or hours (`*/20 * * * *`) goes by the hours that really pass.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import structlog
from cronsim import CronSim, CronSimError
from sqlalchemy import select

from mediatheca.kernel.errors import MediathecaError, NotFoundError, ValidationError
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.tables import schedules
from mediatheca.stores.db.tx import ReadTx, Tx

log = structlog.get_logger()

Misfire: TypeAlias = Literal["skip", "once", "all"]
"""What becomes of due times that passed while nobody looked: none runs, the last one runs, each of them runs."""
GRACE_S = 60
"""So late a due time still counts as kept: for `skip`."""
MAX_MISSED = 100
"""Due times that `all` runs after a pause, the latest; earlier ones are told as missed."""
PRIORITY = 10
"""Of jobs that are due at a time: they go before the thousands of an ingest."""
MIN_INTERVAL_S = 30
MAX_INTERVAL_S = 366 * 86_400
MAX_CRON = 128
MAX_ZONE = 64
_PAGE = 100
_LOOKS = (timedelta(hours=2), timedelta(days=4))
"""How far back due times are looked for before all since the last one are."""


@dataclass(frozen=True, slots=True)
class Timing:
    """When a schedule is due: `cron` in `timezone`, or every `interval_s` seconds."""

    cron: str | None = None
    timezone: str = "UTC"
    interval_s: int | None = None

    def after(self, moment: datetime) -> datetime:
        """The next due time, strictly after `moment`. Of an interval: one interval later.

        Raises:
            ValidationError: bad cron expression, one that is never due, unknown zone, or neither of the two.
        """
        if self.interval_s is not None:
            return moment + timedelta(seconds=_interval(self.interval_s))
        return next(self._times(moment))

    def _times(self, moment: datetime) -> Iterator[datetime]:
        """The due times of a cron expression after `moment`, each later than the one before."""
        if self.cron is None:
            raise ValidationError.at("schedule_config", "needs cron_expression or interval_seconds")
        simulated, last = _simulated(self.cron, moment.astimezone(_zone(self.timezone))), moment
        while True:
            try:
                due = next(simulated).astimezone(UTC)
            except (StopIteration, OverflowError) as error:
                message = f"'{self.cron}' never fires: there is no such date"
                raise ValidationError.at("cron_expression", message) from error
            if due > last:  # several times of a skipped hour are one; the second coming of an hour is none
                last = due
                yield due

    def due(self, first: datetime, until: datetime) -> list[datetime]:
        """The due times from `first`, which is one, to `until`; if there are many, the last `MAX_MISSED` or more."""
        if self.interval_s is not None:
            step = timedelta(seconds=_interval(self.interval_s))
            count = (until - first) // step
            return [first + n * step for n in range(max(0, count - MAX_MISSED), count + 1)]
        for back in _LOOKS:
            if first < until - back:
                found = self._between(until - back, until)
                if len(found) >= MAX_MISSED:
                    return found
        return [first, *self._between(first, until)]

    def _between(self, after: datetime, until: datetime) -> list[datetime]:
        found = []
        for moment in self._times(after):
            if moment > until:
                break
            found.append(moment)
        return found


def _interval(seconds: int) -> int:
    if not MIN_INTERVAL_S <= seconds <= MAX_INTERVAL_S:
        message = f"must be {MIN_INTERVAL_S} to {MAX_INTERVAL_S} seconds, got {seconds}"
        raise ValidationError.at("interval_seconds", message)
    return seconds


def _zone(name: str) -> ZoneInfo:
    try:
        if not 0 < len(name) <= MAX_ZONE:
            raise ValueError("too long")
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        message = f"'{name[:MAX_ZONE]}' is not a time zone of the IANA database, such as Europe/Berlin"
        raise ValidationError.at("timezone", message) from error


def _simulated(cron: str, moment: datetime) -> CronSim:
    if len(cron) > MAX_CRON or len(cron.split()) != 5:
        message = f"'{cron[:MAX_CRON]}' is not a cron expression of five fields: minute hour day month weekday"
        raise ValidationError.at("cron_expression", message)
    try:
        return CronSim(cron, moment)
    except CronSimError as error:
        message = f"'{cron}' is not a cron expression, or names a date that never comes: {error}"
        raise ValidationError.at("cron_expression", message) from error


# ---- schedules in a transaction


def add_schedule(
    tx: Tx, schedule_id: str, kind: str, payload: dict[str, Any], *, cron: str | None = None, timezone: str = "UTC",
    interval_s: int | None = None, after: datetime, misfire: Misfire = "once", at_once: bool = False,
    enabled: bool = True,
) -> datetime:  # fmt: skip
    """Store a schedule that enqueues `kind` jobs; returns the first due time.

    A job gets `payload`, `schedule_id`, `due_at` (microseconds since 1970) and `missed`, the number of due times before
    it that do not run (at least, after a long pause). With `misfire="skip"` due times that were missed come as one job
    that says `skipped: true`; with "all", several at once say `made_up: true`. A schedule that can no longer be
    computed is switched off, with one job that says why: `broken`.

    Args:
        at_once: the first due time is `after` itself.

    Raises:
        ValidationError: see `Timing.after`.
    """
    timing = Timing(cron, timezone, interval_s)
    due = timing.after(after)
    row: dict[str, Any] = {"schedule_id": schedule_id, "kind": kind, "payload": payload, "misfire": misfire}
    row |= {"cron": cron, "timezone": timezone, "interval_s": interval_s, "enabled": enabled}
    due = after if at_once else due
    tx.insert("schedules", [{**row, "next_at": to_us(due)}])
    return due


def resume_schedule(tx: Tx, schedule_id: str, after: datetime) -> datetime:
    """Switch a schedule on again; due times that passed meanwhile are not made up for. Returns the next one.

    Raises:
        NotFoundError: there is none.
    """
    row = tx.row("schedules", {"schedule_id": schedule_id})
    if row is None:
        raise NotFoundError("schedule", schedule_id)
    due = _timing(row).after(after)
    tx.update("schedules", {"schedule_id": schedule_id}, {"enabled": True, "next_at": to_us(due)})
    return due


def pause_schedule(tx: Tx, schedule_id: str) -> None:
    """Nothing becomes due until it is resumed."""
    tx.update("schedules", {"schedule_id": schedule_id}, {"enabled": False})


def remove_schedule(tx: Tx, schedule_id: str) -> None:
    tx.delete("schedules", {"schedule_id": schedule_id})


def next_due(tx: ReadTx, schedule_ids: Sequence[str]) -> dict[str, datetime]:
    """When those that are switched on are due next."""
    if not schedule_ids:
        return {}
    where = {"schedule_id": list(schedule_ids), "enabled": True}
    found = tx.rows("schedules", where, columns=("schedule_id", "next_at"))
    return {row["schedule_id"]: from_us(row["next_at"]) for row in found}


def to_us(moment: datetime) -> int:
    """Microseconds since 1970."""
    return round(moment.timestamp() * 1e6)


def from_us(moment: int) -> datetime:
    return datetime.fromtimestamp(moment / 1e6, UTC)


def _timing(row: Mapping[str, Any]) -> Timing:
    return Timing(row["cron"], row["timezone"], row["interval_s"])


# ---- the scheduler


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
        """Enqueue everything due now; returns how many jobs. A schedule that fails does not stop the others."""
        self.last_beat = time.monotonic()
        moment, made = self._now(), 0
        failed: set[str] = set()
        while not self._closing.is_set():
            rows = self._page(moment, len(failed))
            fresh = [row for row in rows if row["schedule_id"] not in failed]
            for row in fresh:
                try:
                    made += self._fire(row, moment)
                except Exception as error:
                    failed.add(row["schedule_id"])
                    log.error("scheduler.schedule_failed", schedule=row["schedule_id"], exc_info=error)
            self.last_beat = time.monotonic()
            if not fresh:
                break
        return made

    def _page(self, moment: datetime, extra: int) -> list[dict[str, Any]]:
        """The schedules that have been due longest; `extra` of them may be known to fail."""
        where = (schedules.c.enabled, schedules.c.next_at <= to_us(moment))
        statement = select(schedules).where(*where).order_by(schedules.c.next_at, schedules.c.schedule_id)
        with self._db.translate(), self._db.engine.connect() as connection, connection.begin():
            return [dict(row) for row in connection.execute(statement.limit(_PAGE + extra)).mappings()]

    def _fire(self, row: dict[str, Any], moment: datetime) -> int:
        where = {"schedule_id": row["schedule_id"], "next_at": row["next_at"], "enabled": True}
        try:
            values, jobs = _plan(row, moment)
        except ValidationError as error:  # stored long ago; the zone or the expression is no longer known
            values, jobs = {"enabled": False}, [{"due_at": row["next_at"], "missed": 0, "broken": error.message}]

        def fire(tx: Tx) -> int:
            if not tx.update("schedules", where, values):
                return 0
            common = {**row["payload"], "schedule_id": row["schedule_id"]}
            return len(tx.enqueue_many(row["kind"], [{**common, **job} for job in jobs], priority=PRIORITY))

        return self._db.run(Scope(row["organization_id"], row["namespace_id"]), fire, "scheduler")


def _plan(row: Mapping[str, Any], moment: datetime) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What becomes of a schedule that is due, and what its jobs say besides its payload."""
    timing = _timing(row)
    due = timing.due(from_us(row["next_at"]), moment)
    following = timing.after(due[-1])
    values = {"next_at": to_us(following), "last_at": to_us(moment)}
    return values, _jobs(row["misfire"], due, moment)


def _jobs(misfire: Misfire, due: Sequence[datetime], moment: datetime) -> list[dict[str, Any]]:
    if misfire == "all":
        left = max(0, len(due) - MAX_MISSED)
        late: dict[str, Any] = {"made_up": True} if len(due) > 1 else {}
        return [{"due_at": to_us(at), "missed": 0 if n else left, **late} for n, at in enumerate(due[left:])]
    if misfire == "once":
        return [{"due_at": to_us(due[-1]), "missed": len(due) - 1}]
    gone = [at for at in due if moment - at > timedelta(seconds=GRACE_S)]
    told: list[dict[str, Any]] = [{"due_at": to_us(gone[-1]), "missed": len(gone), "skipped": True}] if gone else []
    return told + [{"due_at": to_us(at), "missed": 0} for at in due[len(gone) :]]
