"""Dates under a filter, as microseconds since 1970 UTC.

Two readings. A *filter value* is a date when it is `YYYY-MM-DD`, optionally followed by `T` or a space, `HH:MM`, `:SS`,
`.` and up to nine decimals, and `Z` or `±HH:MM`. A *document value* is a date when the index engine takes it for one:
the engine's parser also allows blanks and missing zeros, and filters must mean the same everywhere. Without a zone,
both are UTC; decimals beyond microseconds are cut.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta

_STRICT = re.compile(
    r"(?P<year>\d{4})-(?P<month>\d{2})-(?P<day>\d{2})"
    r"(?:[Tt ](?P<hour>\d{2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:\.(?P<fraction>\d{1,9}))?)?"
    r"(?P<zone>[Zz]|[+-]\d{2}:?\d{2})?)?",
    re.ASCII,
)
# The engine's parser skips blanks before numbers and takes one digit for two. `*+` and `{1,2}+`: it never backtracks.
_BLANK = r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*+"
_NUMBER = _BLANK + r"{name}[0-9]{{1,2}}+)"
_DAY = (
    rf"(?P<year>{_BLANK}(?:[+-][0-9]++|[0-9]{{1,4}}+))-"
    rf"{_NUMBER.format(name='(?P<month>')}-{_NUMBER.format(name='(?P<day>')}"
)
_CLOCK = rf"{_NUMBER.format(name='(?P<hour>')}:{_NUMBER.format(name='(?P<minute>')}"
_SECOND = _NUMBER.format(name="(?P<second>")
_OFFSET = r"(?P<zone>[Zz]|[+\-\u2212][0-9]{2}[:\s]*+(?:[0-9]{2})?)"
_LENIENT = re.compile(
    rf"{_DAY}(?:(?:T|{_BLANK}){_CLOCK}(?::{_SECOND}(?:{_BLANK}{_OFFSET}|\.(?P<fraction>[0-9]++))?)?)?"
)
_RFC3339 = re.compile(
    r"(?P<year>[0-9]{4})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})[Tt ](?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})"
    r":(?P<second>[0-9]{2})(?:\.(?P<fraction>[0-9]+))?(?P<zone>[Zz]|[+\-\u2212][0-9]{2}:[0-9]{2})"
)
_MOST_DIGITS = 64
_YEARS = range(-262_143, 262_143)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_CYCLE_YEARS, _CYCLE_DAYS = 400, 146_097
"""The Gregorian calendar repeats after 400 years."""


def filter_date(value: str) -> int | None:
    """The moment a filter value names; None when it is not a date."""
    found = _STRICT.fullmatch(value)
    return None if found is None else _micros(found)


def document_date(value: str) -> int | None:
    """The moment a document's string names; None when it is not a date."""
    if "-" not in value or len(value) > _MOST_DIGITS:
        return None
    found = _RFC3339.fullmatch(value) or _LENIENT.fullmatch(value)
    return None if found is None else _micros(found)


def as_datetime(micros: int) -> datetime | None:
    """The moment as a `datetime`; None outside the years 1 to 9999."""
    try:
        return _EPOCH + timedelta(microseconds=micros)
    except OverflowError:
        return None


def _micros(found: re.Match[str]) -> int | None:
    part = found.groupdict()
    day = _day_number(int(part["year"]), int(part["month"]), int(part["day"]))
    hour, minute, second = (int(part[name] or 0) for name in ("hour", "minute", "second"))
    offset = _offset_minutes(part["zone"])
    # 60 is a leap second: the moment after second 59.
    if day is None or offset is None or hour > 23 or minute > 59 or second > 60:
        return None
    fraction = int((part["fraction"] or "0")[:6].ljust(6, "0"))
    return (((day * 24 + hour) * 60 + minute - offset) * 60 + second) * 1_000_000 + fraction


def _day_number(year: int, month: int, day: int) -> int | None:
    """Days since 1970-01-01 in the Gregorian calendar, for years far beyond those of `datetime`."""
    if year not in _YEARS:
        return None
    cycle, year = divmod(year, _CYCLE_YEARS)
    try:
        same = date(year + _CYCLE_YEARS, month, day)
    except ValueError:
        return None
    return same.toordinal() - _EPOCH_DAY + (cycle - 1) * _CYCLE_DAYS


def _offset_minutes(zone: str | None) -> int | None:
    if zone is None or zone in "Zz":
        return 0
    hours, minutes = int(zone[1:3]), int(zone[-2:]) if len(zone) > 4 and zone[-2:].isdigit() else 0
    if minutes > 59 or hours > 23:
        return None
    return (hours * 60 + minutes) * (1 if zone[0] == "+" else -1)
