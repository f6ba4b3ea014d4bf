"""Reads of configuration over all tenants, for what the server does by itself; never for requests."""

from __future__ import annotations

from sqlalchemy import select

from mediatheca.kernel.scope import Scope
from mediatheca.stores.db import tables
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.tx import Record, record


def resources_of_all(database: Database, kind: str, parent: str = "") -> list[tuple[Scope, Record]]:
    """Every resource of a kind under a parent, with whose it is."""
    source = tables.resources
    statement = select(source).where(source.c.kind == kind, source.c.parent == parent).order_by(source.c.id)
    with database.translate(), database.engine.connect() as connection, connection.begin():
        rows = [dict(row) for row in connection.execute(statement).mappings()]
    return [(Scope(row["organization_id"], row["namespace_id"]), record(row)) for row in rows]
