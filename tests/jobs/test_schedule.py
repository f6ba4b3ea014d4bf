"""Schedules, with a driven clock."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from mediatheca.jobs.queue import JobQueue
from mediatheca.jobs.schedule import (
    MAX_MISSED,
    Misfire,
    Scheduler,
    Timing,
    add_schedule,
    from_us,
    next_due,
    pause_schedule,
    resume_schedule,
    to_us,
)
from mediatheca.kernel.errors import MediathecaError, NotFoundError, ValidationError
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database

SCOPE = Scope("org", "ns")
START = datetime(2026, 3, 28, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


def plan(db: Database, misfire: Misfire = "once", ident: str = "sch_1", **timing: Any) -> datetime:
    timing = timing or {"interval_s": 60}
    with db.begin(SCOPE) as tx:
        return add_schedule(tx, ident, "work", {"a": 1}, after=START, misfire=misfire, **timing)


def jobs(db: Database, kind: str = "work") -> list[dict[str, Any]]:
    with db.read(SCOPE) as tx:
        found = [row["payload"] for row in tx.rows("jobs", {"kind": kind}, order=("job_id",))]
    return sorted(found, key=lambda payload: payload["due_at"])


def test_a_due_schedule_becomes_one_job_even_with_two_schedulers(db: Database) -> None:
    clock = Clock()
    due = plan(db)
    assert due == START + timedelta(seconds=60)
    one, two = Scheduler(db, clock), Scheduler(db, clock)
    assert one.tick() + two.tick() == 0
    clock.now += timedelta(seconds=61)
    assert one.tick() + two.tick() == 1
    (job,) = JobQueue(db).claim(["work"], "w", limit=5)
    assert job.payload == {"a": 1, "schedule_id": "sch_1", "due_at": to_us(due), "missed": 0}
    assert job.scope == SCOPE


def test_a_thousand_due_times_become_a_thousand_jobs_while_two_schedulers_race(db: Database) -> None:
    with db.begin(SCOPE) as tx:
        for number in range(250):
            add_schedule(tx, f"sch_{number}", "work", {}, interval_s=60, after=START)
    clock = Clock()

    def race(scheduler: Scheduler) -> None:
        for _ in range(3):
            scheduler.tick()

    for _ in range(4):
        clock.now += timedelta(seconds=60)
        threads = [threading.Thread(target=race, args=(Scheduler(db, clock),)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    seen = Counter((job["schedule_id"], job["due_at"]) for job in jobs(db))
    assert len(seen) == 1000
    assert set(seen.values()) == {1}


# ---- missed due times


def test_a_schedule_missed_for_a_day_runs_once_for_the_last_due_time(db: Database) -> None:
    plan(db)
    clock = Clock()
    clock.now += timedelta(days=1, seconds=5)
    assert Scheduler(db, clock).tick() == 1
    assert Scheduler(db, clock).tick() == 0
    (job,) = jobs(db)
    assert from_us(job["due_at"]) == START + timedelta(days=1)
    assert job["missed"] >= MAX_MISSED


def test_skipped_due_times_are_told_and_only_what_is_on_time_runs(db: Database) -> None:
    plan(db, "skip", cron="*/10 * * * *")
    clock = Clock()
    clock.now += timedelta(minutes=40, seconds=20)
    assert Scheduler(db, clock).tick() == 2
    told, run = jobs(db)
    assert (told["skipped"], told["missed"], from_us(told["due_at"])) == (True, 3, START + timedelta(minutes=30))
    assert "skipped" not in run
    assert from_us(run["due_at"]) == START + timedelta(minutes=40)


def test_a_due_time_found_hours_late_is_skipped_by_skip_and_made_up_for_by_once(db: Database) -> None:
    plan(db, "skip", "sch_skip", cron="0 13 * * *")
    plan(db, "once", "sch_once", cron="0 13 * * *")
    clock = Clock()
    clock.now += timedelta(hours=5)
    assert Scheduler(db, clock).tick() == 2
    by_schedule = {job["schedule_id"]: job for job in jobs(db)}
    assert by_schedule["sch_skip"]["skipped"] is True
    assert "skipped" not in by_schedule["sch_once"]


def test_all_missed_due_times_run_one_by_one_and_only_the_last_hundred_of_many(db: Database) -> None:
    plan(db, "all", "sch_few")
    clock = Clock()
    clock.now += timedelta(minutes=7)
    assert Scheduler(db, clock).tick() == 7
    assert [from_us(job["due_at"]) - START for job in jobs(db)] == [MINUTE * n for n in range(1, 8)]
    clock.now += timedelta(days=30)
    assert Scheduler(db, clock).tick() == MAX_MISSED
    last = jobs(db)[-MAX_MISSED:]
    assert last[0]["missed"] > 0
    assert from_us(last[-1]["due_at"]) == START + timedelta(days=30, minutes=7)


@pytest.mark.parametrize("cron", ["* * * * *", "*/7 * * * *", "0 3 * * *", "15,45 8-17 * * MON-FRI"])
def test_what_was_missed_over_a_year_is_what_one_would_count_by_hand(cron: str) -> None:
    timing = Timing(cron, "Europe/Berlin")
    first, until = timing.after(START), START + timedelta(days=365)
    found = timing.due(first, until)[-MAX_MISSED:]
    expected = [found[0]]
    while (following := timing.after(expected[-1])) <= until:
        expected.append(following)
    assert found == expected
    assert len(found) == MAX_MISSED


def test_a_paused_schedule_makes_nothing_and_resuming_does_not_make_up_for_it(db: Database) -> None:
    plan(db, "all")
    clock = Clock()
    with db.begin(SCOPE) as tx:
        pause_schedule(tx, "sch_1")
        assert next_due(tx, ["sch_1"]) == {}
    clock.now += timedelta(hours=5)
    assert Scheduler(db, clock).tick() == 0
    with db.begin(SCOPE) as tx:
        assert resume_schedule(tx, "sch_1", clock.now) == clock.now + MINUTE
        assert next_due(tx, ["sch_1", "sch_2"]) == {"sch_1": clock.now + MINUTE}
        with pytest.raises(NotFoundError):
            resume_schedule(tx, "sch_2", clock.now)
    assert Scheduler(db, clock).tick() == 0


def test_an_interval_may_begin_at_once_and_does_not_drift(db: Database) -> None:
    clock = Clock()
    assert plan(db, at_once=True, interval_s=90) == START
    for late_s in (3, 40, 1):
        Scheduler(db, clock).tick()
        clock.now += timedelta(seconds=90 + late_s)
    Scheduler(db, clock).tick()
    assert [from_us(job["due_at"]) - START for job in jobs(db)] == [timedelta(seconds=90 * n) for n in range(4)]


def test_a_row_that_cannot_be_computed_is_switched_off_and_the_others_go_on(db: Database) -> None:
    for number in range(3):
        plan(db, ident=f"sch_{number}")
    with db.begin(SCOPE) as tx:
        tx.update("schedules", {"schedule_id": "sch_1"}, {"interval_s": None, "cron": "0 9 * * *", "timezone": "Old/Z"})
    clock = Clock()
    clock.now += timedelta(seconds=61)
    assert Scheduler(db, clock).tick() == 3
    broken = [job for job in jobs(db) if "broken" in job]
    assert [job["schedule_id"] for job in broken] == ["sch_1"]
    assert "Old/Z" in broken[0]["broken"]
    with db.read(SCOPE) as tx:
        assert next_due(tx, ["sch_1"]) == {}


def test_a_row_that_fails_to_be_written_does_not_stop_the_others(db: Database) -> None:
    for number in range(120):
        plan(db, ident=f"sch_{number:03d}")
    with db.begin(SCOPE) as tx:
        tx.update("schedules", {"schedule_id": "sch_000"}, {"payload": "no object"})
    clock = Clock()
    clock.now += timedelta(seconds=61)
    assert Scheduler(db, clock).tick() == 119


# ---- what is refused


@pytest.mark.parametrize(
    ("cron", "zone", "field"),
    [
        ("every day", "UTC", "cron_expression"),
        ("0 0 30 2 *", "UTC", "cron_expression"),
        ("0 0 0 9 * *", "UTC", "cron_expression"),
        ("61 * * * *", "UTC", "cron_expression"),
        ("*/0 * * * *", "UTC", "cron_expression"),
        ("", "UTC", "cron_expression"),
        ("0," * 200 + "0 * * * *", "UTC", "cron_expression"),
        ("٣ * * * *", "UTC", "cron_expression"),
        ("0 9 * * *", "Mars/Base", "timezone"),
        ("0 9 * * *", "../etc/passwd", "timezone"),
        ("0 9 * * *", "Europe", "timezone"),
        ("0 9 * * *", "Europe/Berlin\0", "timezone"),
        ("0 9 * * *", "x" * 5000, "timezone"),
        ("0 9 * * *", "", "timezone"),
        (None, "UTC", "schedule_config"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_naming_the_field(cron: str | None, zone: str, field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        Timing(cron, zone, None).after(START)


def test_a_date_that_never_comes_is_refused_as_such() -> None:
    with pytest.raises(ValidationError, match="never"):
        Timing("0 0 31 2,4,6 *", "UTC", None).after(START)
    leap_monday = Timing("0 0 29 2 *", "UTC", None).after(START)
    assert (leap_monday.year, leap_monday.month, leap_monday.day) == (2028, 2, 29)


@pytest.mark.parametrize("seconds", [0, -5, 29, 10**12])
def test_an_interval_below_half_a_minute_or_over_a_year_is_refused(seconds: int) -> None:
    with pytest.raises(ValidationError, match="interval_seconds"):
        Timing(None, "UTC", seconds).after(START)


def test_an_expression_that_is_always_refused_costs_nothing_at_the_tick(db: Database) -> None:
    with pytest.raises(MediathecaError), db.begin(SCOPE) as tx:
        add_schedule(tx, "sch_1", "work", {}, cron="0 0 30 2 *", after=START)
    with db.read(SCOPE) as tx:
        assert tx.count("schedules", {}) == 0


# ---- daylight saving
# Berlin: 2026-03-29 02:00 -> 03:00, 2026-10-25 03:00 -> 02:00. Lord Howe moves by half an hour:
# 2026-10-04 02:00 -> 02:30, 2026-04-05 02:00 -> 01:30.

DAYS = {
    "Europe/Berlin": (date(2026, 3, 29), date(2026, 10, 25)),
    "Australia/Lord_Howe": (date(2026, 10, 4), date(2026, 4, 5)),
    "America/New_York": (date(2026, 3, 8), date(2026, 11, 1)),
    "America/Santiago": (date(2026, 9, 6), date(2026, 4, 5)),
}
CHANGES = [(zone, day) for zone, days in DAYS.items() for day in days]


def around(zone: str, day: date) -> tuple[datetime, datetime]:
    """From noon two days before to noon two days after."""
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=ZoneInfo(zone)).astimezone(UTC)
    return noon - timedelta(days=2), noon + timedelta(days=2)


def fired(cron: str, zone: str, day: date) -> list[datetime]:
    start, end = around(zone, day)
    return list(_fired(Timing(cron, zone), start, end))


def _fired(timing: Timing, moment: datetime, end: datetime) -> Iterator[datetime]:
    while (moment := timing.after(moment)) <= end:
        yield moment


def wall_times(zone: str, day: date) -> Iterator[tuple[datetime, datetime]]:
    """Each minute that passes, in UTC and as the clock on the wall shows it."""
    moment, end = around(zone, day)
    while (moment := moment + MINUTE) <= end:
        yield moment, moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None)


@pytest.mark.parametrize(("zone", "day"), CHANGES)
@pytest.mark.parametrize("cron", ["30 2 * * *", "0 0 * * *", "15 2 * * *", "45 1 * * *", "0 9 * * *", "5 23,0 * * *"])
def test_a_time_of_day_comes_once_a_day_also_when_clocks_change(zone: str, day: date, cron: str) -> None:
    minute, hours = cron.split()[0], [int(hour) for hour in cron.split()[1].split(",")]
    walls = list(wall_times(zone, day))
    expected = []
    days = sorted({wall.date() for _, wall in walls})
    for wanted in (datetime(d.year, d.month, d.day, hour, int(minute)) for d in days for hour in hours):
        # The first minute that passes at which the wall shows this time or, in a gap, a later one.
        passed = [utc for utc, wall in walls if wall >= wanted and wall - wanted < timedelta(hours=12)]
        if passed and walls[0][1] <= wanted:
            expected.append(min(passed))
    assert fired(cron, zone, day) == sorted(set(expected))


@pytest.mark.parametrize(("zone", "day"), CHANGES)
@pytest.mark.parametrize(("cron", "step"), [("*/15 * * * *", 15), ("*/20 * * * *", 20), ("* * * * *", 1)])
def test_every_few_minutes_goes_on_through_the_change_as_the_wall_shows_them(
    zone: str, day: date, cron: str, step: int
) -> None:
    assert fired(cron, zone, day) == [utc for utc, wall in wall_times(zone, day) if wall.minute % step == 0]


@pytest.mark.parametrize(("zone", "day"), CHANGES)
def test_every_hour_goes_on_through_the_change(zone: str, day: date) -> None:
    assert fired("0 * * * *", zone, day) == [utc for utc, wall in wall_times(zone, day) if wall.minute == 0]


def test_a_schedule_made_in_the_doubled_hour_is_not_due_in_the_past() -> None:
    second_coming = datetime(2026, 10, 25, 1, 10, tzinfo=UTC)  # 02:10 in Berlin, for the second time
    assert Timing("30 2 * * *", "Europe/Berlin", None).after(second_coming) == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


def test_a_driven_clock_over_the_change_makes_one_job_a_day(db: Database) -> None:
    zone = ZoneInfo("Europe/Berlin")
    clock = Clock()
    clock.now = datetime(2026, 10, 24, 0, tzinfo=zone).astimezone(UTC)
    with db.begin(SCOPE) as tx:
        add_schedule(tx, "sch_1", "work", {}, cron="30 2 * * *", timezone="Europe/Berlin", after=clock.now)
    for _ in range(4 * 24 * 6):
        clock.now += timedelta(minutes=10)
        Scheduler(db, clock).tick()
    local = [from_us(job["due_at"]).astimezone(zone) for job in jobs(db)]
    assert [(moment.day, moment.hour, moment.minute) for moment in local] == [(d, 2, 30) for d in (24, 25, 26, 27)]
