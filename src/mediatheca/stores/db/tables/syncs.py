"""Syncs of buckets: their runs, what is known of every file of a source, and the files that could not be taken."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, String, Text

from mediatheca.stores.db.tables.columns import Json, scoped, time_column

sync_jobs = scoped(
    "sync_jobs",
    Column("sync_job_id", String(64), primary_key=True),
    Column("sync_id", String(64), nullable=False),
    Column("bucket_id", String(64), nullable=False),
    Column("status", String(16), nullable=False),
    Column("task_id", String(64)),
    Column("token", String(64)),
    Column("body", Json, nullable=False),
    time_column("created_at", null=False),
    time_column("updated_at", null=False),
    time_column("completed_at"),
    Index("ix_sync_jobs_sync", "namespace_id", "sync_id", "sync_job_id"),
    Index("ix_sync_jobs_ended", "sync_id", "status", "completed_at"),
)
"""A run. `token`: of the job that works on it; a worker that was taken for dead writes nothing more."""

sync_items = scoped(
    "sync_items",
    Column("item_id", String(64), primary_key=True),
    Column("sync_id", String(64), nullable=False),
    Column("source_key", Text, nullable=False),
    Column("etag", String(255), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    time_column("modified_at"),
    Column("content_hash", String(64), nullable=False),
    Column("object_id", String(64), nullable=False),
    Column("status", String(16), nullable=False),
    Column("seen", Integer, nullable=False),
    time_column("created_at", null=False),
    time_column("updated_at", null=False),
    Index("ix_sync_items_seen", "sync_id", "seen", "item_id"),
    Index("ix_sync_items_object", "object_id"),
)
"""A file that was taken. `seen`: the number of the last run that met it; what a whole listing has not met is gone."""

sync_failures = scoped(
    "sync_failures",
    Column("dlq_id", String(64), primary_key=True),
    Column("sync_id", String(64), nullable=False),
    Column("item_id", String(64), nullable=False),
    Column("sync_job_id", String(64), nullable=False),
    Column("source_key", Text, nullable=False),
    Column("etag", String(255), nullable=False),
    Column("error_type", String(64), nullable=False),
    Column("error_message", Text, nullable=False),
    Column("retry_count", Integer, nullable=False),
    Column("exhausted", Boolean, nullable=False),
    Column("disposal_reason", String(64)),
    time_column("created_at", null=False),
    time_column("last_seen_at", null=False),
    time_column("last_reattempt_at"),
    time_column("requeued_at"),
    time_column("resolved_at"),
    Index("ux_sync_failures_item", "item_id", unique=True),
    Index("ix_sync_failures_sync", "namespace_id", "sync_id", "dlq_id"),
)
"""Files that could not be taken: one row each, until it is resolved and after."""
