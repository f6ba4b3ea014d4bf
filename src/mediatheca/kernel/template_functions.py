"""What templates can call, and the caps on what they make."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta
from math import ceil, exp, floor, log, sqrt
from typing import Any

from jinja2 import Undefined
from jinja2.exceptions import SecurityError

from mediatheca.kernel import clock
from mediatheca.kernel.filter_dates import filter_date

MAX_OUTPUT = 1024 * 1024
MAX_ITEMS = 10_000
MAX_DIGITS = 100
"""Places a number is rounded to: Python makes an integer of as many digits as it is asked for."""
MAX_NUMBER = 400
"""Characters of a text that is read as an integer."""


def check_size(value: Any, limit: int = MAX_OUTPUT) -> None:
    """Refuse a value whose text would be larger than `limit`, without making the text; and integers that JSON's readers
    do not take."""
    left, stack = limit, [value]
    while stack:
        item = stack.pop()
        left -= len(item) if isinstance(item, (str, bytes)) else 2
        if isinstance(item, Mapping):
            stack.extend(item.keys())
            stack.extend(item.values())
        elif isinstance(item, (list, tuple, set, frozenset)):
            stack.extend(item)
        elif isinstance(item, int) and not -(2**63) <= item < 2**63:
            raise SecurityError("the template makes an integer of more than 64 bits")
        if left - len(stack) < 0:
            raise SecurityError(f"the template makes more than {limit:,} characters")


def as_text(value: Any) -> str:
    return "" if value is None or isinstance(value, Undefined) else str(value)


def slugify(value: Any) -> str:
    """`Hello, World!` → `hello-world`."""
    return re.sub(r"[\W_]+", "-", as_text(value).lower()).strip("-")


def to_bool(value: Any) -> bool:
    """`"false"`, `"no"`, `"off"`, `"0"` and `""` are false, as is everything Python calls false."""
    if isinstance(value, str):
        return value.strip().lower() not in ("", "0", "false", "no", "off", "null", "none")
    return bool(value)


def limited_range(*bounds: int) -> range:
    values = range(*bounds)
    if len(values) > MAX_ITEMS:
        raise SecurityError(f"range() is limited to {MAX_ITEMS:,} items")
    return values


def limited_round(value: Any, digits: int | None = None) -> Any:
    check_digits(digits)
    return round(value, digits)


def check_digits(digits: Any) -> None:
    """Raises SecurityError for more digits than a number has."""
    if isinstance(digits, int) and abs(digits) > MAX_DIGITS:
        raise SecurityError(f"round() is limited to {MAX_DIGITS} digits")


_moment: ContextVar[datetime | None] = ContextVar("template_moment", default=None)


@contextmanager
def at_moment(moment: datetime) -> Iterator[None]:
    """What is rendered inside takes `moment` for the current time: one time for all of an execution, and for its
    replay."""
    token = _moment.set(moment)
    try:
        yield
    finally:
        _moment.reset(token)


def _now() -> datetime:
    return _moment.get() or clock.now()


def utc_now() -> str:
    """The current time, ISO-8601 with `Z`."""
    return clock.wire_time(_now())


def time_ago(*, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0) -> str:
    """The time that long ago, ISO-8601 with `Z`."""
    return clock.wire_time(_now() - timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds))


def days_since(time: Any) -> float:
    """Days that have passed since an ISO-8601 time, with fractions; negative for one to come."""
    moment = filter_date(time) if isinstance(time, str) else None
    if moment is None:
        raise SecurityError(f"days_since() needs an ISO-8601 time, got {str(time)[:50]!r}")
    return (_now().timestamp() * 1e6 - moment) / 86_400e6


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "max": max,
    "min": min,
    "abs": abs,
    "round": limited_round,
    "ceil": ceil,
    "floor": floor,
    "log": log,
    "exp": exp,
    "sqrt": sqrt,
    "days_since": days_since,
    "range": limited_range,
    "utc_now": utc_now,
    "time_ago": time_ago,
}
