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
    Column("object_id", String(512), primary_key=True),
)
"""`object_id`: of an object; of a document where a document that was written directly stands for itself."""

chunks = scoped(
    "chunks",
    Column("chunk_id", String(64), primary_key=True),
    Column("batch_id", String(64), nullable=False),
    Column("collection_id", String(64), nullable=False),
    Column("tier", Integer, nullable=False),
    Column("part", Integer, nullable=False, server_default="0"),
    Column("status", String(32), nullable=False),
    Column("object_ids", Json, nullable=False),
    Column("document_ids", Json),
    Column("units", Integer, nullable=False, server_default="0"),
    Column("advanced", Integer, nullable=False, server_default="0"),
    Column("job_id", String(64)),
    Column("fetched", Integer, nullable=False, server_default="0"),
    Column("processed", Integer, nullable=False, server_default="0"),
    Column("retried", Integer, nullable=False, server_default="0"),
    Column("missing_inputs", Integer, nullable=False, server_default="0"),
    Column("dropped", Integer, nullable=False, server_default="0"),
    Column("written", Integer, nullable=False, server_default="0"),
    Column("filtered", Integer, nullable=False, server_default="0"),
    Column("failed", Integer, nullable=False, server_default="0"),
    Column("replaced", Integer, nullable=False, server_default="0"),
    Column("last_seq", BigInteger, nullable=False, server_default="0"),
    Column("error", Text),
    time_column("started_at"),
    time_column("updated_at", null=False),
    Index("ix_chunks_batch", "batch_id", "tier", "status"),
)
"""`part`: the piece of the batch's objects, the same in all tiers. `document_ids`: only what comes of these documents
of the source; none: of all. `units`: how many `object_ids`; `advanced` of them are done while it runs. Of what was
`fetched`, everything was `processed`, `filtered` or `failed`; `retried` of it had failed before."""

derivations = scoped(
    "derivations",
    Column("collection_id", String(64), primary_key=True),
    Column("object_id", String(512), primary_key=True),
    Column("object_version", Integer, nullable=False),
    Column("source_state", String(96), nullable=False, server_default=""),
    Column("documents", Integer, nullable=False),
    Column("batch_id", String(64), nullable=False),
    time_column("updated_at", null=False),
    Index("ix_derivations_object", "object_id"),
)

failed_items = scoped(
    "failed_items",
    Column("item_id", String(64), primary_key=True),
    Column("batch_id", String(64), nullable=False),
    Column("collection_id", String(64), nullable=False),
    Column("object_id", String(512), nullable=False),
    Column("source_document_id", String(512), nullable=False, server_default=""),
    Column("tier", Integer, nullable=False, server_default="0"),
    Column("kind", String(32), nullable=False, server_default="object"),
    Column("outcome", String(16), nullable=False, server_default="failed"),
    Column("what", Text, nullable=False, server_default=""),
    Column("phase", String(32), nullable=False),
    Column("reason", Text, nullable=False),
    Column("error_type", String(32), nullable=False),
    Column("extractor", String(128), nullable=False),
    Column("attempt", Integer, nullable=False),
    time_column("created_at", null=False),
    time_column("retried_at"),
    Index("ix_failed_items_batch", "batch_id", "collection_id", "object_id"),
    Index("ix_failed_items_object", "object_id", "collection_id"),
)
"""What a batch did not make documents of, or not wholly. `outcome`: failed, dropped (a part of an item), skipped,
filtered. `kind` of item: object, document (of the source), page, segment, face, url, file, field."""

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
