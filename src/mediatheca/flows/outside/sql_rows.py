"""Rows of a database as JSON values, within a size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from mediatheca.kernel.errors import PayloadTooLargeError

Rows: TypeAlias = list[dict[str, Any]]

MAX_BYTES = 16 << 20
MAX_CELL = 1 << 20


def gather(rows: Iterable[Mapping[str, Any]]) -> Rows:
    """All rows.

    Raises:
        PayloadTooLargeError: one value, or all together, are larger than a document may be.
    """
    made: Rows = []
    left = MAX_BYTES
    for row in rows:
        plain = {str(name): _plain(value) for name, value in row.items()}
        left -= sum(_size(name, value) for name, value in plain.items())
        if left < 0:
            raise PayloadTooLargeError(f"query: its rows have more than {MAX_BYTES >> 20} MB; select fewer or less")
        made.append(plain)
    return made


def _size(name: str, value: Any) -> int:
    size = len(value) if isinstance(value, str) else 8 if not isinstance(value, list | dict) else len(str(value))
    if size > MAX_CELL:
        raise PayloadTooLargeError(f"query: a value of '{name[:60]}' has more than {MAX_CELL >> 20} MB")
    return size + len(name)


def _plain(value: Any) -> Any:
    """Dates, decimals, UUIDs and bytes have no JSON form: ISO-8601, numbers or texts, and hexadecimal."""
    from datetime import date, datetime, time
    from decimal import Decimal

    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < 1 << 63 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        if not value.is_finite():
            return None
        return _plain(int(value)) if value == value.to_integral_value() else float(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return str(value)
