"""Time: UTC everywhere, ISO-8601 with `Z` on the wire."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    """The current time, zone UTC."""
    return datetime.now(UTC)


def wire_time(moment: datetime) -> str:
    """`2026-01-31T12:00:00.000000Z`, the form every answer uses."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[: -len("+00:00")] + "Z"
