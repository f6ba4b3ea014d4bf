"""Who may come in: keys of users, and retrievers that are public."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, String, Table, Text

from mediatheca.stores.db.tables.columns import Json, metadata, scoped, time_column

api_keys = scoped(
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
    time_column("expires_at"),
    time_column("last_used_at"),
    time_column("created_at", null=False),
    time_column("revoked_at"),
    Index("ux_api_keys_name", "organization_id", "user_id", "name", unique=True),
)

publications = scoped(
    "publications",
    Column("public_name", String(50), primary_key=True),
    Column("public_id", String(64), nullable=False, unique=True),
    Column("retriever_id", String(64), nullable=False, unique=True),
    Column("is_active", Boolean, nullable=False),
    Column("password_hash", Text, nullable=False, server_default=""),
    Column("body", Json, nullable=False),
    time_column("created_at", null=False),
    time_column("updated_at", null=False),
    Index("ix_publications_scope", "namespace_id", "public_name"),
)

retriever_keys = scoped(
    "retriever_keys",
    Column("key_id", String(64), primary_key=True),
    Column("key_hash", String(64), nullable=False, unique=True),
    Column("retriever_id", String(64), nullable=False),
    Column("status", String(16), nullable=False),
    Column("body", Json, nullable=False),
    time_column("expires_at"),
    time_column("created_at", null=False),
    time_column("revoked_at"),
    Index("ix_retriever_keys_retriever", "namespace_id", "retriever_id"),
)

request_windows = Table(
    "request_windows",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("seconds", Integer, primary_key=True),
    Column("period", BigInteger, nullable=False),
    Column("used", BigInteger, nullable=False),
)
"""Requests of visitors to published retrievers, counted together by all processes; `period` is Unix time / seconds."""
