"""Objects tell why nothing came of them; how many documents came of one is counted where documents are recorded."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """The first migrations make today's tables: look before you change."""
    there = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("objects")}
    if "processing_error" not in there:
        op.add_column("objects", sa.Column("processing_error", sa.Text))
    if "document_count" in there:
        op.drop_column("objects", "document_count")


def downgrade() -> None:
    """The schema before works with one more column; the number was never kept."""
    op.add_column("objects", sa.Column("document_count", sa.Integer, nullable=False, server_default="0"))
