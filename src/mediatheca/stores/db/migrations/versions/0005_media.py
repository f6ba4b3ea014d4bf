"""Tiers: parts and counters of chunks, the state of the source that documents were made from, and the list of items
that gave none, which had one row an object before."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from mediatheca.kernel.ids import new_uuid
from mediatheca.stores.db.tables import Json, UtcTime, metadata

revision = "0005"
down_revision = "0004"

_COUNTS = ("part", "units", "advanced", "processed", "retried", "missing_inputs", "dropped")
_KEPT = (
    "organization_id", "namespace_id", "batch_id", "collection_id", "object_id", "phase", "reason", "error_type",
    "extractor", "attempt", "created_at",
)  # fmt: skip
_CUT = 1_000


def upgrade() -> None:
    """The first migrations make today's tables: look before you add."""
    connection = op.get_bind()
    fresh = [_add("chunks", sa.Column(name, sa.Integer, nullable=False, server_default="0")) for name in _COUNTS]
    for column in (
        sa.Column("document_ids", Json), sa.Column("job_id", sa.String(64)), sa.Column("error", sa.Text),
        sa.Column("started_at", UtcTime()),
    ):  # fmt: skip
        _add("chunks", column)
    _add("derivations", sa.Column("source_state", sa.String(96), nullable=False, server_default=""))
    _add("tasks", sa.Column("progress", Json))
    if any(fresh):
        chunks = metadata.tables["chunks"]
        count = sa.func.jsonb_array_length if connection.dialect.name == "postgresql" else sa.func.json_array_length
        processed = chunks.c.fetched - chunks.c.filtered - chunks.c.failed
        connection.execute(sa.update(chunks).values(units=count(chunks.c.object_ids), processed=processed))
    if connection.dialect.name == "postgresql":  # SQLite does not look at lengths
        for table in ("batch_objects", "derivations"):
            op.alter_column(table, "object_id", type_=sa.String(512))
    metadata.tables["failed_items"].create(connection, checkfirst=True)
    if "failures" in sa.inspect(connection).get_table_names():
        _move(connection)
        op.drop_table("failures")


def _add(table: str, column: sa.Column[Any]) -> bool:
    """Whether it was not there."""
    if column.name in {held["name"] for held in sa.inspect(op.get_bind()).get_columns(table)}:
        return False
    op.add_column(table, column)
    return True


def _move(connection: sa.Connection) -> None:
    """The objects that had failed."""
    old = sa.Table("failures", sa.MetaData(), autoload_with=connection)
    new = sa.Table("failed_items", sa.MetaData(), autoload_with=connection)
    found = connection.execute(sa.select(*(old.c[name] for name in _KEPT))).mappings().all()
    for start in range(0, len(found), _CUT):
        rows = [{**row, "item_id": new_uuid()} for row in found[start : start + _CUT]]
        connection.execute(sa.insert(new), rows)


def downgrade() -> None:
    """Nothing to undo: the schema before works with more tables and columns, too."""
