"""Configuration: what is small and changes rarely is a row of `resources`."""

from __future__ import annotations

from sqlalchemy import Column, Index, Integer, PrimaryKeyConstraint, String, Table

from mediatheca.stores.db.tables.columns import Json, metadata, scoped, time_column

resources = scoped(
    "resources",
    Column("kind", String(32), nullable=False),
    Column("id", String(64), nullable=False),
    Column("parent", String(64), nullable=False, server_default=""),
    Column("name", String(255), nullable=False),
    Column("body", Json, nullable=False),
    Column("version", Integer, nullable=False, server_default="1"),
    time_column("created_at", null=False),
    time_column("updated_at", null=False),
    # Callers may choose ids of namespaces: two organizations may choose the same.
    PrimaryKeyConstraint("organization_id", "kind", "id"),
    Index("ux_resources_name", "organization_id", "namespace_id", "kind", "parent", "name", unique=True),
)

retriever_versions = scoped(
    "retriever_versions",
    Column("retriever_id", String(64), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("body", Json, nullable=False),
    time_column("created_at", null=False),
)

server_state = Table(
    "server_state",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", Json, nullable=False),
)
