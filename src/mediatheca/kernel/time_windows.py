"""Moments cut to calendar windows: hour, day, week (from Monday), month, quarter, year. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal, TypeAlias

Window: TypeAlias = Literal["year", "quarter", "month", "week", "day", "hour", "minute", "second"]
_FINE: dict[str, timedelta] = {
    "hour": timedelta(hours=1),
    "minute": timedelta(minutes=1),
    "second": timedelta(seconds=1),
}
_MONTHS = {"year": 12, "quarter": 3, "month": 1}


def window_start(moment: datetime, unit: Window) -> datetime:
    """The beginning of the window that a moment lies in, in the moment's own zone."""
    if unit in _FINE:
        whole = moment.replace(microsecond=0)
        if unit == "second":
            return whole
        return whole.replace(second=0) if unit == "minute" else whole.replace(minute=0, second=0)
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if unit == "day":
        return day
    if unit == "week":
        return day - timedelta(days=day.weekday())
    first = 1 if unit == "year" else day.month if unit == "month" else day.month - (day.month - 1) % 3
    return day.replace(month=first, day=1)


def next_window(start: datetime, unit: Window) -> datetime:
    """The beginning of the following window. Days and longer follow the calendar, whatever the clocks do.

    Raises:
        OverflowError: it would lie beyond the year 9999.
    """
    if unit in _FINE:
        # Fractions of a day pass in real time: an hour that the clocks repeat is two windows.
        return (start.astimezone(UTC) + _FINE[unit]).astimezone(start.tzinfo)
    if unit in ("day", "week"):
        return start + timedelta(days=7 if unit == "week" else 1)
    months = start.year * 12 + start.month - 1 + _MONTHS[unit]
    if months // 12 > 9999:
        raise OverflowError("beyond the year 9999")
    return start.replace(year=months // 12, month=months % 12 + 1)


def window_name(start: datetime) -> str:
    """ISO-8601, UTC with `Z`."""
    offset = start.utcoffset()
    return start.strftime("%Y-%m-%dT%H:%M:%SZ") if not offset else start.isoformat(timespec="seconds")
