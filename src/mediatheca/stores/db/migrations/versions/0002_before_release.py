"""The tables and indexes that came after the first schema and before the first release."""

from alembic import op

from mediatheca.stores.db.tables import metadata

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    connection = op.get_bind()
    metadata.create_all(connection)  # those that are missing
    for table in metadata.sorted_tables:
        for index in table.indexes:
            index.create(connection, checkfirst=True)


def downgrade() -> None:
    """Nothing to undo: the first schema works with more tables and indexes, too."""
