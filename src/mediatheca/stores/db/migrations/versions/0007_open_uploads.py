"""How many uploads of an organization are open, and which have expired, is found by an index."""

from alembic import op
from sqlalchemy import inspect

from mediatheca.stores.db.tables import metadata

revision = "0007"
down_revision = "0006"

_NAME = "ix_uploads_open"


def upgrade() -> None:
    """The first migrations make today's tables: look before you add."""
    there = {index["name"] for index in inspect(op.get_bind()).get_indexes("uploads")}
    if _NAME not in there:
        (index,) = (index for index in metadata.tables["uploads"].indexes if index.name == _NAME)
        index.create(op.get_bind())


def downgrade() -> None:
    """Nothing to undo: the schema before works with one more index."""
