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
    r"(?:[Zz]|(?P<behind>[+-])(?P<hours>\d{2}):?(?P<minutes>\d{2}))?)?",
    re.ASCII,
)
# The engine tries these forms in turn. It skips blanks before numbers, takes one digit for two, never backtracks.
_SPACES = "\t\n\v\f\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_BLANK = f"[{_SPACES}]*+"
_YEAR = rf"{_BLANK}(?P<year>[+-][0-9]++|[0-9]{{1,4}}+)"
_MONTH, _DAY, _HOUR, _MINUTE, _SECOND = (
    rf"{_BLANK}(?P<{name}>[0-9]{{1,2}}+)" for name in ("month", "day", "hour", "minute", "second")
)
_FRACTION = r"(?:\.(?P<fraction>[0-9]++))?"
_HOURS = rf"(?P<behind>[+\-\u2212])(?P<hours>[0-9]{{2}})[:{_SPACES}]*+"
_FORMS = tuple(
    re.compile(form)
    for form in (
        rf"{_YEAR}{_BLANK}-{_MONTH}{_BLANK}-{_DAY}[Tt ]{_HOUR}{_BLANK}:{_MINUTE}{_BLANK}:{_SECOND}{_FRACTION}"
        rf"{_BLANK}(?:[Uu][Tt][Cc]|[Zz]|{_HOURS}(?P<minutes>[0-9]{{2}})){_BLANK}",
        rf"{_YEAR}-{_MONTH}-{_DAY}(?:(?:T|{_BLANK}){_HOUR}:{_MINUTE}"
        rf"(?::{_SECOND}{_FRACTION}(?:{_BLANK}(?:[Zz]|{_HOURS}(?P<minutes>[0-9]{{2}})?))?)?)?",
    )
)
_LONGEST = 200
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
    if "-" not in value or len(value) > _LONGEST:
        return None
    for form in _FORMS:
        found = form.fullmatch(value)
        micros = None if found is None else _micros(found)
        if micros is not None:
            return micros
    return None


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
    offset = _offset_minutes(part)
    if day is None or offset is None or hour > 23 or minute > 59 or second > 60:
        return None
    fraction = int((part["fraction"] or "0")[:6].ljust(6, "0"))
    if second == 60:  # a leap second lies before the next minute, as in the engine
        second, fraction = 59, 999_999
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


def _offset_minutes(part: dict[str, str | None]) -> int | None:
    hours, minutes = int(part["hours"] or 0), int(part["minutes"] or 0)
    if hours > 23 or minutes > 59:
        return None
    return (hours * 60 + minutes) * (1 if part["behind"] == "+" else -1)
