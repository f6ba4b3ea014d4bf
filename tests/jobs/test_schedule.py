"""Schedules, with a driven clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mediatheca.jobs.queue import JobQueue
from mediatheca.jobs.schedule import Scheduler, add_schedule, next_time
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database

SCOPE = Scope("org", "ns")
START = datetime(2026, 3, 28, 12, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


def test_a_due_schedule_becomes_one_job_even_with_two_schedulers(db: Database) -> None:
    clock = Clock()
    with db.begin(SCOPE) as tx:
        due = add_schedule(tx, "sch_1", "work", {"a": 1}, interval_s=60, after=START)
    assert due == START + timedelta(seconds=60)
    one, two = Scheduler(db, clock), Scheduler(db, clock)
    assert one.tick() + two.tick() == 0
    clock.now += timedelta(seconds=61)
    assert one.tick() + two.tick() == 1
    (job,) = JobQueue(db).claim(["work"], "w", limit=5)
    assert job.payload == {"a": 1, "schedule_id": "sch_1"}
    assert job.scope == SCOPE


def test_a_schedule_missed_for_a_day_runs_once(db: Database) -> None:
    clock = Clock()
    with db.begin(SCOPE) as tx:
        add_schedule(tx, "sch_1", "work", {}, interval_s=60, after=START)
    clock.now += timedelta(days=1)
    assert Scheduler(db, clock).tick() == 1
    assert Scheduler(db, clock).tick() == 0


def test_daylight_saving_moves_a_daily_schedule_by_an_hour() -> None:
    before = datetime(2026, 3, 28, 12, tzinfo=UTC)  # Berlin changes on the 29th
    first = next_time(before - timedelta(days=1), "0 9 * * *", "Europe/Berlin", None)
    second = next_time(before, "0 9 * * *", "Europe/Berlin", None)
    assert first.hour == 8
    assert second.hour == 7


@pytest.mark.parametrize(
    ("cron", "zone", "field"),
    [("every day", "UTC", "cron_expression"), ("0 9 * * *", "Mars/Base", "timezone"), (None, "UTC", "schedule_config")],
)
def test_a_schedule_that_cannot_be_is_refused_naming_the_field(cron: str | None, zone: str, field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        next_time(START, cron, zone, None)
