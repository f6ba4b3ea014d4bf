"""What runs by itself: readers of events, deliveries, taxonomies, clusters, triggers, alerts, and what follows a write.

The declarations are rows of `resources`; here is what they leave behind. `*_at` and `run_at` are microseconds.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, Index, Integer, PrimaryKeyConstraint, String, Table, Text

from mediatheca.stores.db.tables.columns import Json, metadata, scoped, time_column

event_cursors = Table(
    "event_cursors",
    metadata,
    Column("consumer", String(64), primary_key=True),
    Column("position", BigInteger, nullable=False),
    time_column("updated_at", null=False),
)
"""How far each reader of the events has come; readers serve all tenants."""

deliveries = scoped(
    "deliveries",
    Column("delivery_id", String(64), primary_key=True),
    Column("target_kind", String(16), nullable=False),
    Column("target_id", String(64), nullable=False),
    Column("channel_no", Integer, nullable=False, server_default="0"),
    Column("channel", Json, nullable=False),
    Column("message_id", String(64), nullable=False),
    Column("event_type", String(64), nullable=False),
    Column("body", Json, nullable=False),
    Column("status", String(16), nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("run_at", BigInteger, nullable=False),
    Column("lease_until", BigInteger),
    Column("lease_token", String(64)),
    Column("last_status", Integer),
    Column("last_error", Text),
    Column("response", Text),
    time_column("created_at", null=False),
    time_column("finished_at"),
    Index("ix_deliveries_due", "status", "run_at", "target_id"),
    Index("ix_deliveries_target", "namespace_id", "target_id", "delivery_id"),
    Index("ux_deliveries_message", "target_id", "channel_no", "message_id", unique=True),
    Index("ix_deliveries_age", "created_at"),
)
"""One message to one channel of one target; a message is queued once, however often its event is read."""

taxonomy_versions = scoped(
    "taxonomy_versions",
    Column("taxonomy_id", String(64), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("body", Json, nullable=False),
    time_column("created_at", null=False),
)

taxonomy_runs = scoped(
    "taxonomy_runs",
    Column("run_id", String(64), primary_key=True),
    Column("taxonomy_id", String(64), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("status", String(32), nullable=False),
    Column("task_id", String(64)),
    Column("body", Json, nullable=False),
    time_column("created_at", null=False),
    time_column("completed_at"),
    Index("ix_taxonomy_runs_taxonomy", "namespace_id", "taxonomy_id", "run_id"),
)

taxonomy_stats = scoped(
    "taxonomy_stats",
    Column("taxonomy_id", String(64), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("collection_id", String(64), primary_key=True),
    Column("hour", BigInteger, primary_key=True),
    Column("label", String(255), primary_key=True),
    Column("count", BigInteger, nullable=False, server_default="0"),
    Column("sum_score", Float, nullable=False, server_default="0"),
    Column("buckets", Json, nullable=False),
    Column("evaluated", BigInteger, nullable=False, server_default="0"),
    Column("failed", BigInteger, nullable=False, server_default="0"),
    Index("ix_taxonomy_stats_time", "namespace_id", "taxonomy_id", "hour"),
)
"""Labels given in an hour (Unix time / 3600), with a histogram of their scores; the empty label: all evaluated."""

cluster_runs = scoped(
    "cluster_runs",
    Column("run_id", String(64), primary_key=True),
    Column("cluster_id", String(64), nullable=False),
    Column("status", String(32), nullable=False),
    Column("task_id", String(64)),
    Column("body", Json, nullable=False),
    time_column("created_at", null=False),
    time_column("completed_at"),
    Index("ix_cluster_runs_cluster", "namespace_id", "cluster_id", "run_id"),
    Index("ix_cluster_runs_status", "status"),
)

trigger_runs = scoped(
    "trigger_runs",
    Column("run_id", String(64), primary_key=True),
    Column("trigger_id", String(64), nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("status", String(32), nullable=False),
    Column("task_id", String(64)),
    Column("body", Json, nullable=False),
    time_column("created_at", null=False),
    time_column("finished_at"),
    Index("ux_trigger_runs_due", "trigger_id", "due_at", unique=True),
    Index("ix_trigger_runs_trigger", "namespace_id", "trigger_id", "run_id"),
    Index("ix_trigger_runs_task", "task_id"),
)
"""One run for each due time, also across retries and several schedulers."""

alert_states = scoped(
    "alert_states",
    Column("alert_id", String(64), nullable=False),
    Column("collection_id", String(64), nullable=False, server_default=""),
    Column("state", String(16), nullable=False),
    Column("body", Json, nullable=False),
    time_column("fired_at"),
    time_column("notified_at"),
    time_column("cooldown_until"),
    PrimaryKeyConstraint("alert_id", "namespace_id", "collection_id"),
)

alert_runs = scoped(
    "alert_runs",
    Column("execution_id", String(64), primary_key=True),
    Column("alert_id", String(64), nullable=False),
    Column("collection_id", String(64), nullable=False, server_default=""),
    Column("triggered", Boolean, nullable=False),
    Column("body", Json, nullable=False),
    time_column("created_at", null=False),
    Index("ix_alert_runs_alert", "namespace_id", "alert_id", "created_at"),
    Index("ix_alert_runs_age", "organization_id", "namespace_id", "created_at"),
)

alert_matches = scoped(
    "alert_matches",
    Column("alert_id", String(64), nullable=False),
    Column("collection_id", String(64), nullable=False),
    Column("document_id", String(512), nullable=False),
    Column("content_key", String(64), nullable=False),
    time_column("matched_at", null=False),
    PrimaryKeyConstraint("alert_id", "namespace_id", "collection_id", "document_id"),
)
"""What an alert has told already: the same document with the same content is no news."""

follow_ups = scoped(
    "follow_ups",
    Column("follow_id", String(64), primary_key=True),
    Column("collection_id", String(64), nullable=False),
    Column("batch_id", String(64), nullable=False, server_default=""),
    Column("phase", Integer, nullable=False),
    Column("status", String(16), nullable=False),
    Column("document_ids", Json, nullable=False),
    Column("body", Json, nullable=False),
    time_column("created_at", null=False),
    time_column("finished_at"),
    Index("ix_follow_ups_collection", "namespace_id", "collection_id", "status", "follow_id"),
    Index("ix_follow_ups_batch", "namespace_id", "batch_id"),
    Index("ix_follow_ups_age", "status", "finished_at"),
)
"""Documents that were written and what is still to be done with them; `phase` is the next one."""
