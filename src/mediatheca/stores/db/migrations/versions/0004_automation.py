"""Positions of events, missed runs of schedules, and the tables of what runs by itself."""

import sqlalchemy as sa
from alembic import op

from mediatheca.stores.db.tables import metadata

revision = "0004"
down_revision = "0003"

_TABLES = (
    "event_cursors", "deliveries", "taxonomy_versions", "taxonomy_runs", "taxonomy_stats", "cluster_runs",
    "trigger_runs", "alert_states", "alert_runs", "alert_matches", "follow_ups",
)  # fmt: skip
_DOCUMENTS = (("events", "resource_id"), ("annotations", "document_id"), ("interactions", "feature_id"))
"""Ids of documents: they may have 512 characters."""
_INDEXES = ("ix_events_position", "ix_events_feed", "ix_events_unnumbered", "ix_events_type")


def upgrade() -> None:
    """The first migrations make today's tables: look before you add."""
    connection = op.get_bind()
    for name in _TABLES:
        metadata.tables[name].create(connection, checkfirst=True)
    _add("events", sa.Column("position", sa.BigInteger))
    _add("schedules", sa.Column("misfire", sa.String(8), nullable=False, server_default="once"))
    if connection.dialect.name == "postgresql":  # SQLite does not look at lengths
        for table, column in _DOCUMENTS:
            op.alter_column(table, column, type_=sa.String(512))
    for index in metadata.tables["events"].indexes:
        if index.name in _INDEXES:
            index.create(connection, checkfirst=True)


def _add(table: str, column: sa.Column[object]) -> None:
    if column.name not in {held["name"] for held in sa.inspect(op.get_bind()).get_columns(table)}:
        op.add_column(table, column)


def downgrade() -> None:
    """Nothing to undo: the schema before works with more tables and columns, too."""
