"""What the database knows of documents: their tables, their deletes, what people say of them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, String

from mediatheca.stores.db.tables.columns import Json, scoped, time_column

document_tables = scoped(
    "document_tables",
    Column("collection_id", String(64), primary_key=True),
    Column("write_seq", BigInteger, nullable=False, server_default="0"),
    Column("committed_seq", BigInteger, nullable=False, server_default="0"),
    Column("commits", Integer, nullable=False, server_default="0"),
    Column("lease_token", String(64)),
    Column("lease_until", BigInteger),
    Column("status", String(16), nullable=False, server_default="live"),
)

tombstones = scoped(
    "tombstones",
    Column("collection_id", String(64), primary_key=True),
    Column("kind", String(16), primary_key=True),
    Column("key", String(512), primary_key=True),
    Column("seq", BigInteger, nullable=False),
)

annotation_rows = scoped(
    "annotations",
    Column("annotation_id", String(64), primary_key=True),
    Column("document_id", String(512), nullable=False),
    Column("collection_id", String(64), nullable=False, server_default=""),
    Column("label", String(100), nullable=False),
    Column("actor_id", String(64), nullable=False),
    Column("retriever_id", String(64), nullable=False, server_default=""),
    Column("version", Integer, nullable=False),
    Column("body", Json, nullable=False),
    time_column("created_at", null=False),
    time_column("updated_at", null=False),
    Index("ix_annotations_document", "namespace_id", "document_id"),
    Index("ix_annotations_label", "namespace_id", "collection_id", "label"),
)
