"""Schema versions, applied in order by alembic. `versions/` holds one file each; see CONTRIBUTING for adding one.

Importing alembic costs 0.2 s of a start. So it is not needed for the two usual cases: a schema that is current, and an
empty database, which gets the tables of today at once.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Column, Connection, Engine, MetaData, String, Table, insert, inspect, select, text

from mediatheca.stores.db.tables import metadata

HEAD = "0008"
_LOCK = 0x6D656469
_version = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))


def migrate(engine: Engine) -> None:
    """Bring the schema to `HEAD`; safe when several processes start at once."""
    with engine.connect().execution_options(sqlite_begin="IMMEDIATE") as connection, connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        there = inspect(connection).get_table_names()
        if _version.name not in there:
            _create(connection)
        elif connection.execute(select(_version.c.version_num)).scalar_one_or_none() != HEAD:
            _upgrade(connection)


def _create(connection: Connection) -> None:
    metadata.create_all(connection)
    _version.create(connection)
    connection.execute(insert(_version).values(version_num=HEAD))


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
