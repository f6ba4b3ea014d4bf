"""The one look-up that has no scope yet: a key's hash says whose request it is."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import select, update

from mediatheca.kernel import clock
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.tables import api_keys, resources


def find_key(database: Database, key_hash: str) -> dict[str, Any] | None:
    """The key with this SHA-256, or None. Looking up a hash of 256 random bits leaks nothing by its timing."""
    with database.translate(), database.engine.connect() as connection, connection.begin():
        row = connection.execute(select(api_keys).where(api_keys.c.key_hash == key_hash)).mappings().first()
    return None if row is None else dict(row)


def touch_keys(database: Database, key_ids: Collection[str]) -> None:
    """Set `last_used_at` to now."""
    with database.system() as connection:
        connection.execute(update(api_keys).where(api_keys.c.key_id.in_(key_ids)).values(last_used_at=clock.now()))


def any_admin(database: Database) -> tuple[str, str] | None:
    """(organization, user) of the oldest usable admin key; None on an empty database."""
    statement = select(api_keys).where(api_keys.c.status == "active").order_by(api_keys.c.created_at, api_keys.c.key_id)
    with database.translate(), database.engine.connect() as connection, connection.begin():
        for row in connection.execute(statement).mappings():
            if "admin" in row["permissions"]:
                return row["organization_id"], row["user_id"]
    return None


def first_organization(database: Database) -> str | None:
    """The organization that the first start made: its admins run the installation. None on an empty database."""
    statement = select(resources.c.id).where(resources.c.kind == "organization")
    with database.translate(), database.engine.connect() as connection, connection.begin():
        found = connection.execute(statement.order_by(resources.c.created_at, resources.c.id).limit(1)).scalar()
    return None if found is None else str(found)
