"""What is made of objects: batches, their chunks, what succeeded, what failed, what need not be computed again."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, PrimaryKeyConstraint, String, Text

from mediatheca.stores.db.tables.columns import Json, scoped, time_column

batches = scoped(
    "batches",
    Column("batch_id", String(64), primary_key=True),
    Column("bucket_id", String(64), nullable=False),
    Column("status", String(32), nullable=False),
    Column("task_id", String(64)),
    Column("object_count", Integer, nullable=False, server_default="0"),
    Column("current_tier", Integer, nullable=False, server_default="0"),
    Column("body", Json, nullable=False),
    time_column("created_at", null=False),
    time_column("updated_at", null=False),
    time_column("started_at"),
    time_column("completed_at"),
    Index("ix_batches_bucket", "namespace_id", "bucket_id", "batch_id"),
    Index("ix_batches_status", "status"),
)

batch_objects = scoped(
    "batch_objects",
    Column("batch_id", String(64), primary_key=True),
    Column("object_id", String(64), primary_key=True),
)

chunks = scoped(
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
    time_column("updated_at", null=False),
    Index("ix_chunks_batch", "batch_id", "tier", "status"),
)

derivations = scoped(
    "derivations",
    Column("collection_id", String(64), primary_key=True),
    Column("object_id", String(64), primary_key=True),
    Column("object_version", Integer, nullable=False),
    Column("documents", Integer, nullable=False),
    Column("batch_id", String(64), nullable=False),
    time_column("updated_at", null=False),
    Index("ix_derivations_object", "object_id"),
)

failures = scoped(
    "failures",
    Column("batch_id", String(64), primary_key=True),
    Column("collection_id", String(64), primary_key=True),
    Column("object_id", String(64), primary_key=True),
    Column("phase", String(32), nullable=False),
    Column("reason", Text, nullable=False),
    Column("error_type", String(32), nullable=False),
    Column("extractor", String(128), nullable=False),
    Column("attempt", Integer, nullable=False),
    time_column("created_at", null=False),
)

cached_results = scoped(
    "cached_results",
    Column("key", String(64), nullable=False),
    Column("checksum", String(64), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    time_column("last_used_at", null=False),
    # A key is a hash of content: two tenants may have the same.
    PrimaryKeyConstraint("organization_id", "namespace_id", "key"),
    Index("ix_cached_results_used", "last_used_at", "size_bytes"),
)
