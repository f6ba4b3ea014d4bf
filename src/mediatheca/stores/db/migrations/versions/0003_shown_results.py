"""What was shown to whom, and requests of visitors counted by all processes together: tables that are new."""

from alembic import op

from mediatheca.stores.db.tables import request_windows, shown_results

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    for table in (shown_results, request_windows):
        table.create(op.get_bind(), checkfirst=True)


def downgrade() -> None:
    """Nothing to undo: the schema before works with more tables, too."""
