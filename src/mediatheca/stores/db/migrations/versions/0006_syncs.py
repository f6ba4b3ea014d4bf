"""Syncs of buckets with stores of others."""

from alembic import op

from mediatheca.stores.db.tables import metadata

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """The first migrations make today's tables: look before you add."""
    for name in ("sync_jobs", "sync_items", "sync_failures"):
        metadata.tables[name].create(op.get_bind(), checkfirst=True)


def downgrade() -> None:
    """Nothing to undo: the schema before works with more tables."""
