"""Work to do, work done, and the events it left."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, String, Text, text

from mediatheca.stores.db.tables.columns import Json, Serial, scoped, time_column

tasks = scoped(
    "tasks",
    Column("task_id", String(64), primary_key=True),
    Column("task_type", String(64), nullable=False),
    Column("status", String(32), nullable=False),
    Column("inputs", Json, nullable=False),
    Column("outputs", Json, nullable=False),
    Column("additional_data", Json, nullable=False),
    Column("progress", Json),
    Column("error", Text),
    time_column("created_at", null=False),
    time_column("updated_at", null=False),
    Index("ix_tasks_scope", "namespace_id", "task_id"),
)

jobs = scoped(
    "jobs",
    Column("job_id", String(64), primary_key=True),
    Column("kind", String(64), nullable=False),
    Column("payload", Json, nullable=False),
    Column("status", String(16), nullable=False),
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("lock_key", String(128)),
    Column("group_key", String(64)),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("max_attempts", Integer, nullable=False, server_default="5"),
    Column("run_at", BigInteger, nullable=False),
    Column("lease_until", BigInteger),
    Column("lease_token", String(64)),
    Column("worker", String(128)),
    Column("error", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger),
    Index("ix_jobs_ready", "status", "run_at", "priority"),
    Index("ix_jobs_lease", "status", "lease_until"),
    Index("ix_jobs_group", "group_key", "status"),
    Index(
        "ux_jobs_lock",
        "lock_key",
        unique=True,
        sqlite_where=text("status = 'running' AND lock_key IS NOT NULL"),
        postgresql_where=text("status = 'running' AND lock_key IS NOT NULL"),
    ),
)

schedules = scoped(
    "schedules",
    Column("schedule_id", String(64), primary_key=True),
    Column("kind", String(64), nullable=False),
    Column("payload", Json, nullable=False),
    Column("cron", String(128)),
    Column("timezone", String(64), nullable=False, server_default="UTC"),
    Column("interval_s", Integer),
    Column("misfire", String(8), nullable=False, server_default="once"),
    Column("enabled", Boolean, nullable=False),
    Column("next_at", BigInteger, nullable=False),
    Column("last_at", BigInteger),
    Index("ix_schedules_due", "enabled", "next_at"),
)

_NUMBERED: dict[str, Any] = {f"{dialect}_where": text("position IS NOT NULL") for dialect in ("sqlite", "postgresql")}

events = scoped(
    "events",
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("event_id", String(64), nullable=False, unique=True),
    Column("type", String(64), nullable=False),
    Column("resource_id", String(512), nullable=False),
    Column("actor", String(64), nullable=False),
    Column("payload", Json, nullable=False),
    time_column("created_at", null=False),
    Column("position", BigInteger),
    Index("ix_events_scope", "organization_id", "namespace_id", "seq"),
    Index("ix_events_type", "type", "seq"),
    Index("ix_events_position", "position", **_NUMBERED),
    Index("ix_events_feed", "organization_id", "position", **_NUMBERED),
    Index("ix_events_unnumbered", "seq", **{**_NUMBERED, "postgresql_where": text("position IS NULL")}),
)
"""`position`: the order in which readers see events, see `stores.db.event_feed`. Only PostgreSQL fills it: SQLite has
one writer, `seq` is its order, and the indexes of positions stay empty there."""
