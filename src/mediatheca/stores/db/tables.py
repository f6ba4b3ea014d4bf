"""The tables of the control plane. Configuration is rows of `resources`; what is big or busy has its own table.

Every table that belongs to a tenant has `organization_id` and `namespace_id` (empty at organization level); `Tx` adds
both to every statement. Times are microseconds since 1970, UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Float,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    TypeDecorator,
    text,
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


def _scoped(name: str, *columns: Column[Any] | Index | PrimaryKeyConstraint) -> Table:
    return Table(
        name,
        metadata,
        Column("organization_id", String(64), nullable=False),
        Column("namespace_id", String(64), nullable=False, server_default=""),
        *columns,
    )


def _time(name: str, *, null: bool = True) -> Column[Any]:
    return Column(name, UtcTime(), nullable=null)


resources = _scoped(
    "resources",
    Column("kind", String(32), nullable=False),
    Column("id", String(64), nullable=False),
    Column("parent", String(64), nullable=False, server_default=""),
    Column("name", String(255), nullable=False),
    Column("body", Json, nullable=False),
    Column("version", Integer, nullable=False, server_default="1"),
    _time("created_at", null=False),
    _time("updated_at", null=False),
    # Callers may choose ids of namespaces: two organizations may choose the same.
    PrimaryKeyConstraint("organization_id", "kind", "id"),
    Index("ux_resources_name", "organization_id", "namespace_id", "kind", "parent", "name", unique=True),
)

objects = _scoped(
    "objects",
    Column("object_id", String(64), primary_key=True),
    Column("bucket_id", String(64), nullable=False),
    Column("key_prefix", Text, nullable=False, server_default=""),
    Column("fields", Json, nullable=False),
    Column("metadata", Json, nullable=False),
    Column("unique_key", String(64)),
    Column("idempotency_key", String(255)),
    Column("content_hash", String(64)),
    Column("status", String(32), nullable=False, server_default="PENDING"),
    Column("error", Text),
    Column("document_count", Integer, nullable=False, server_default="0"),
    Column("size_bytes", BigInteger, nullable=False, server_default="0"),
    Column("version", Integer, nullable=False, server_default="1"),
    _time("created_at", null=False),
    _time("updated_at", null=False),
    Index("ix_objects_stats", "organization_id", "namespace_id", "bucket_id", "status", "size_bytes"),
    Index("ix_objects_bucket", "namespace_id", "bucket_id", "object_id"),
    Index("ux_objects_unique_key", "bucket_id", "unique_key", unique=True),
    Index("ux_objects_idempotency", "bucket_id", "idempotency_key", unique=True),
    Index("ix_objects_hash", "bucket_id", "content_hash"),
)

blobs = _scoped(
    "blobs",
    Column("blob_id", String(64), primary_key=True),
    Column("object_id", String(64), nullable=False),
    Column("bucket_id", String(64), nullable=False),
    Column("position", Integer, nullable=False),
    Column("property", String(100), nullable=False),
    Column("type", String(32), nullable=False),
    Column("store_key", Text),
    Column("inline", Json),
    Column("source_url", Text),
    Column("filename", Text),
    Column("mime_type", String(255), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("hash", String(64)),
    Column("metadata", Json, nullable=False),
    Index("ix_blobs_object", "object_id", "position"),
    Index("ix_blobs_store_key", "store_key"),
    Index("ix_blobs_hash", "namespace_id", "hash"),
    Index("ix_blobs_bucket", "bucket_id"),
)

uploads = _scoped(
    "uploads",
    Column("upload_id", String(64), primary_key=True),
    Column("bucket_id", String(64), nullable=False),
    Column("store_key", Text, nullable=False),
    Column("status", String(32), nullable=False),
    Column("body", Json, nullable=False),
    Column("file_hash", String(64)),
    Column("object_id", String(64)),
    _time("created_at", null=False),
    _time("expires_at", null=False),
    _time("completed_at"),
    Index("ix_uploads_bucket", "bucket_id", "upload_id"),
)

batches = _scoped(
    "batches",
    Column("batch_id", String(64), primary_key=True),
    Column("bucket_id", String(64), nullable=False),
    Column("status", String(32), nullable=False),
    Column("task_id", String(64)),
    Column("object_count", Integer, nullable=False, server_default="0"),
    Column("current_tier", Integer, nullable=False, server_default="0"),
    Column("body", Json, nullable=False),
    _time("created_at", null=False),
    _time("updated_at", null=False),
    _time("started_at"),
    _time("completed_at"),
    Index("ix_batches_bucket", "namespace_id", "bucket_id", "batch_id"),
    Index("ix_batches_status", "status"),
)

batch_objects = _scoped(
    "batch_objects",
    Column("batch_id", String(64), primary_key=True),
    Column("object_id", String(64), primary_key=True),
)

chunks = _scoped(
    "chunks",
    Column("chunk_id", String(64), primary_key=True),
    Column("batch_id", String(64), nullable=False),
    Column("collection_id", String(64), nullable=False),
    Column("tier", Integer, nullable=False),
    Column("status", String(32), nullable=False),
    Column("object_ids", Json, nullable=False),
    Column("fetched", Integer, nullable=False, server_default="0"),
    Column("written", Integer, nullable=False, server_default="0"),
    Column("filtered", Integer, nullable=False, server_default="0"),
    Column("failed", Integer, nullable=False, server_default="0"),
    Column("replaced", Integer, nullable=False, server_default="0"),
    Column("last_seq", BigInteger, nullable=False, server_default="0"),
    _time("updated_at", null=False),
    Index("ix_chunks_batch", "batch_id", "tier", "status"),
)

derivations = _scoped(
    "derivations",
    Column("collection_id", String(64), primary_key=True),
    Column("object_id", String(64), primary_key=True),
    Column("object_version", Integer, nullable=False),
    Column("documents", Integer, nullable=False),
    Column("batch_id", String(64), nullable=False),
    _time("updated_at", null=False),
    Index("ix_derivations_object", "object_id"),
)

cached_results = _scoped(
    "cached_results",
    Column("key", String(64), nullable=False),
    Column("checksum", String(64), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    _time("last_used_at", null=False),
    # A key is a hash of content: two tenants may have the same.
    PrimaryKeyConstraint("organization_id", "namespace_id", "key"),
    Index("ix_cached_results_used", "last_used_at", "size_bytes"),
)

failures = _scoped(
    "failures",
    Column("batch_id", String(64), primary_key=True),
    Column("collection_id", String(64), primary_key=True),
    Column("object_id", String(64), primary_key=True),
    Column("phase", String(32), nullable=False),
    Column("reason", Text, nullable=False),
    Column("error_type", String(32), nullable=False),
    Column("extractor", String(128), nullable=False),
    Column("attempt", Integer, nullable=False),
    _time("created_at", null=False),
)

tasks = _scoped(
    "tasks",
    Column("task_id", String(64), primary_key=True),
    Column("task_type", String(64), nullable=False),
    Column("status", String(32), nullable=False),
    Column("inputs", Json, nullable=False),
    Column("outputs", Json, nullable=False),
    Column("additional_data", Json, nullable=False),
    Column("error", Text),
    _time("created_at", null=False),
    _time("updated_at", null=False),
    Index("ix_tasks_scope", "namespace_id", "task_id"),
)

jobs = _scoped(
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

schedules = _scoped(
    "schedules",
    Column("schedule_id", String(64), primary_key=True),
    Column("kind", String(64), nullable=False),
    Column("payload", Json, nullable=False),
    Column("cron", String(128)),
    Column("timezone", String(64), nullable=False, server_default="UTC"),
    Column("interval_s", Integer),
    Column("enabled", Boolean, nullable=False),
    Column("next_at", BigInteger, nullable=False),
    Column("last_at", BigInteger),
    Index("ix_schedules_due", "enabled", "next_at"),
)

events = _scoped(
    "events",
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("event_id", String(64), nullable=False, unique=True),
    Column("type", String(64), nullable=False),
    Column("resource_id", String(64), nullable=False),
    Column("actor", String(64), nullable=False),
    Column("payload", Json, nullable=False),
    _time("created_at", null=False),
    Index("ix_events_scope", "organization_id", "namespace_id", "seq"),
)

api_keys = _scoped(
    "api_keys",
    Column("key_id", String(64), primary_key=True),
    Column("key_hash", String(64), nullable=False, unique=True),
    Column("key_prefix", String(16), nullable=False),
    Column("user_id", String(64), nullable=False),
    Column("name", String(100), nullable=False),
    Column("description", Text),
    Column("permissions", Json, nullable=False),
    Column("scopes", Json, nullable=False),
    Column("principal_id", String(255)),
    Column("status", String(16), nullable=False),
    Column("created_by", String(64)),
    _time("expires_at"),
    _time("last_used_at"),
    _time("created_at", null=False),
    _time("revoked_at"),
    Index("ux_api_keys_name", "organization_id", "user_id", "name", unique=True),
)

document_tables = _scoped(
    "document_tables",
    Column("collection_id", String(64), primary_key=True),
    Column("write_seq", BigInteger, nullable=False, server_default="0"),
    Column("committed_seq", BigInteger, nullable=False, server_default="0"),
    Column("commits", Integer, nullable=False, server_default="0"),
    Column("lease_token", String(64)),
    Column("lease_until", BigInteger),
    Column("status", String(16), nullable=False, server_default="live"),
)

tombstones = _scoped(
    "tombstones",
    Column("collection_id", String(64), primary_key=True),
    Column("kind", String(16), primary_key=True),
    Column("key", String(512), primary_key=True),
    Column("seq", BigInteger, nullable=False),
)

executions = _scoped(
    "executions",
    Column("execution_id", String(64), primary_key=True),
    Column("retriever_id", String(64), nullable=False),
    Column("status", String(32), nullable=False),
    Column("body", Json, nullable=False),
    _time("created_at", null=False),
    Index("ix_executions_retriever", "namespace_id", "retriever_id", "created_at"),
    Index("ix_executions_age", "organization_id", "namespace_id", "created_at"),
)

retriever_versions = _scoped(
    "retriever_versions",
    Column("retriever_id", String(64), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("body", Json, nullable=False),
    _time("created_at", null=False),
)

interactions = _scoped(
    "interactions",
    Column("interaction_id", String(64), primary_key=True),
    Column("retriever_id", String(64), nullable=False, server_default=""),
    Column("execution_id", String(64), nullable=False, server_default=""),
    Column("session_id", String(255), nullable=False, server_default=""),
    Column("user_id", String(255), nullable=False, server_default=""),
    Column("feature_id", String(255), nullable=False),
    Column("body", Json, nullable=False),
    Column("credit", Json, nullable=False),
    Column("learned", Boolean, nullable=False),
    _time("occurred_at", null=False),
    _time("created_at", null=False),
    Index("ix_interactions_retriever", "namespace_id", "retriever_id", "occurred_at"),
    Index("ix_interactions_execution", "execution_id", "feature_id"),
    Index("ix_interactions_user", "namespace_id", "user_id"),
    Index("ix_interactions_session", "namespace_id", "session_id"),
)

fusion_arms = _scoped(
    "fusion_arms",
    Column("retriever_id", String(64), primary_key=True),
    Column("context_key", String(64), primary_key=True),
    Column("feature_uri", String(512), primary_key=True),
    Column("successes", Float, nullable=False),
    Column("failures", Float, nullable=False),
    Column("trials", Integer, nullable=False),
    _time("updated_at", null=False),
)

fusion_users = _scoped(
    "fusion_users",
    Column("retriever_id", String(64), primary_key=True),
    Column("user_key", String(64), primary_key=True),
    Column("opted_out", Boolean, nullable=False),
    _time("updated_at", null=False),
)

annotation_rows = _scoped(
    "annotations",
    Column("annotation_id", String(64), primary_key=True),
    Column("document_id", String(255), nullable=False),
    Column("collection_id", String(64), nullable=False, server_default=""),
    Column("label", String(100), nullable=False),
    Column("actor_id", String(64), nullable=False),
    Column("retriever_id", String(64), nullable=False, server_default=""),
    Column("version", Integer, nullable=False),
    Column("body", Json, nullable=False),
    _time("created_at", null=False),
    _time("updated_at", null=False),
    Index("ix_annotations_document", "namespace_id", "document_id"),
    Index("ix_annotations_label", "namespace_id", "collection_id", "label"),
)

publications = _scoped(
    "publications",
    Column("public_name", String(50), primary_key=True),
    Column("public_id", String(64), nullable=False, unique=True),
    Column("retriever_id", String(64), nullable=False, unique=True),
    Column("is_active", Boolean, nullable=False),
    Column("password_hash", Text, nullable=False, server_default=""),
    Column("body", Json, nullable=False),
    _time("created_at", null=False),
    _time("updated_at", null=False),
    Index("ix_publications_scope", "namespace_id", "public_name"),
)

retriever_keys = _scoped(
    "retriever_keys",
    Column("key_id", String(64), primary_key=True),
    Column("key_hash", String(64), nullable=False, unique=True),
    Column("retriever_id", String(64), nullable=False),
    Column("status", String(16), nullable=False),
    Column("body", Json, nullable=False),
    _time("expires_at"),
    _time("created_at", null=False),
    _time("revoked_at"),
    Index("ix_retriever_keys_retriever", "namespace_id", "retriever_id"),
)

server_state = Table(
    "server_state",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", Json, nullable=False),
)
