"""What retrievers were asked, and what they learn from it."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Float, Index, Integer, String

from mediatheca.stores.db.tables.columns import Json, scoped, time_column

executions = scoped(
    "executions",
    Column("execution_id", String(64), primary_key=True),
    Column("retriever_id", String(64), nullable=False),
    Column("status", String(32), nullable=False),
    Column("body", Json, nullable=False),
    time_column("created_at", null=False),
    Index("ix_executions_retriever", "namespace_id", "retriever_id", "created_at"),
    Index("ix_executions_age", "organization_id", "namespace_id", "created_at"),
)

interactions = scoped(
    "interactions",
    Column("interaction_id", String(64), primary_key=True),
    Column("retriever_id", String(64), nullable=False, server_default=""),
    Column("execution_id", String(64), nullable=False, server_default=""),
    Column("session_id", String(255), nullable=False, server_default=""),
    Column("user_id", String(255), nullable=False, server_default=""),
    Column("feature_id", String(512), nullable=False),
    Column("body", Json, nullable=False),
    Column("credit", Json, nullable=False),
    Column("learned", Boolean, nullable=False),
    time_column("occurred_at", null=False),
    time_column("created_at", null=False),
    Index("ix_interactions_retriever", "namespace_id", "retriever_id", "occurred_at"),
    Index("ix_interactions_execution", "execution_id", "feature_id"),
    Index("ix_interactions_user", "namespace_id", "user_id"),
    Index("ix_interactions_session", "namespace_id", "session_id"),
)

fusion_arms = scoped(
    "fusion_arms",
    Column("retriever_id", String(64), primary_key=True),
    Column("context_key", String(64), primary_key=True),
    Column("feature_uri", String(512), primary_key=True),
    Column("successes", Float, nullable=False),
    Column("failures", Float, nullable=False),
    Column("trials", Integer, nullable=False),
    time_column("updated_at", null=False),
)

fusion_users = scoped(
    "fusion_users",
    Column("retriever_id", String(64), primary_key=True),
    Column("user_key", String(64), primary_key=True),
    Column("opted_out", Boolean, nullable=False),
    time_column("updated_at", null=False),
)

shown_results = scoped(
    "shown_results",
    Column("execution_id", String(64), primary_key=True),
    Column("session_key", String(64), nullable=False),
    Column("user_key", String(64), nullable=False),
    Column("documents", Json, nullable=False),
    time_column("created_at", null=False),
    Index("ix_shown_results_session", "namespace_id", "session_key", "created_at"),
    Index("ix_shown_results_user", "namespace_id", "user_key", "created_at"),
    Index("ix_shown_results_age", "organization_id", "namespace_id", "created_at"),
)
