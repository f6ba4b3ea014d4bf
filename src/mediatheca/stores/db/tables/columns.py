"""What every table is made of: the scope of a tenant, times, JSON."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Dialect,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    TypeDecorator,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData()
Json = JSON().with_variant(JSONB(), "postgresql")
Serial = BigInteger().with_variant(Integer(), "sqlite")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

NOW_US: Mapping[str, str] = {
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)",  # to the millisecond
    "postgresql": "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)",
}
"""SQL for the database's time, in microseconds since 1970, by dialect: the one clock that all machines share."""


class UtcTime(TypeDecorator[datetime]):
    """Microseconds since 1970 in the database, an aware UTC datetime in Python."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else (value - _EPOCH) // timedelta(microseconds=1)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        return None if value is None else _EPOCH + timedelta(microseconds=value)


def scoped(name: str, *columns: Column[Any] | Index | PrimaryKeyConstraint) -> Table:
    """A table of tenants' rows."""
    return Table(
        name,
        metadata,
        Column("organization_id", String(64), nullable=False),
        Column("namespace_id", String(64), nullable=False, server_default=""),
        *columns,
    )


def time_column(name: str, *, null: bool = True) -> Column[Any]:
    return Column(name, UtcTime(), nullable=null)
