"""What was put into buckets."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, String, Text

from mediatheca.stores.db.tables.columns import Json, scoped, time_column

objects = scoped(
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
    Column("processing_error", Text),
    Column("size_bytes", BigInteger, nullable=False, server_default="0"),
    Column("version", Integer, nullable=False, server_default="1"),
    time_column("created_at", null=False),
    time_column("updated_at", null=False),
    Index("ix_objects_stats", "organization_id", "namespace_id", "bucket_id", "status", "size_bytes"),
    Index("ix_objects_bucket", "namespace_id", "bucket_id", "object_id"),
    Index("ux_objects_unique_key", "bucket_id", "unique_key", unique=True),
    Index("ux_objects_idempotency", "bucket_id", "idempotency_key", unique=True),
    Index("ix_objects_hash", "bucket_id", "content_hash"),
)
"""`error`: why what it holds cannot be processed at all; `processing_error`: why nothing came of it so far."""

blobs = scoped(
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

uploads = scoped(
    "uploads",
    Column("upload_id", String(64), primary_key=True),
    Column("bucket_id", String(64), nullable=False),
    Column("store_key", Text, nullable=False),
    Column("status", String(32), nullable=False),
    Column("body", Json, nullable=False),
    Column("file_hash", String(64)),
    Column("object_id", String(64)),
    time_column("created_at", null=False),
    time_column("expires_at", null=False),
    time_column("completed_at"),
    Index("ix_uploads_bucket", "bucket_id", "upload_id"),
    Index("ix_uploads_open", "organization_id", "status", "expires_at"),
)
