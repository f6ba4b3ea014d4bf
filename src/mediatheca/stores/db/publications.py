"""Look-ups that have no scope yet: a public name or a public key says whose retriever it is."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, and_, case, delete, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.listing import contains
from mediatheca.stores.db.tables import publications, request_windows, retriever_keys

Row = dict[str, Any]


def find_publication(database: Database, public_name: str) -> Row | None:
    """The publication of this name, or None; inactive ones, too."""
    statement = select(publications).where(publications.c.public_name == public_name)
    with database.translate(), database.engine.connect() as connection, connection.begin():
        row = connection.execute(statement).mappings().first()
    return None if row is None else dict(row)


def list_publications(database: Database, search: str, offset: int, limit: int) -> tuple[list[Row], int, int]:
    """Active publications of all organizations, newest first: (a page, how many, how many of them with a password)."""
    table = publications
    where: list[ColumnElement[bool]] = [table.c.is_active]
    if search:
        where.append(or_(contains(table.c.public_name, search), contains(table.c.body["title"].as_string(), search)))
    page = select(table).where(*where).order_by(table.c.created_at.desc(), table.c.public_name)
    total = select(func.count()).select_from(table).where(*where)
    locked = select(func.count()).select_from(table).where(and_(*where, table.c.password_hash != ""))
    with database.translate(), database.engine.connect() as connection, connection.begin():
        rows = [dict(row) for row in connection.execute(page.offset(offset).limit(limit)).mappings()]
        return rows, connection.execute(total).scalar_one(), connection.execute(locked).scalar_one()


def find_retriever_key(database: Database, key_hash: str) -> Row | None:
    """The key with this SHA-256, or None. Looking up a hash of random bits leaks nothing by its timing."""
    statement = select(retriever_keys).where(retriever_keys.c.key_hash == key_hash)
    with database.translate(), database.engine.connect() as connection, connection.begin():
        row = connection.execute(statement).mappings().first()
    return None if row is None else dict(row)


def count_request(database: Database, name: str, seconds: int, period: int, most: int, count: int) -> bool:
    """Count in a window of time that all processes share; False, without counting, where that would exceed `most`.

    `period` is Unix time / seconds. A process whose clock is behind counts in the newest period there is.
    """
    table = request_windows
    dialect: Any = postgresql if database.dialect == "postgresql" else sqlite
    row = dialect.insert(table).values(name=name, seconds=seconds, period=period, used=max(0, count))
    same = table.c.period >= row.excluded.period
    statement = row.on_conflict_do_update(
        index_elements=[table.c.name, table.c.seconds],
        set_={
            "used": case((same, table.c.used + count), else_=row.excluded.used),
            "period": case((same, table.c.period), else_=row.excluded.period),
        },
        where=or_(~same, table.c.used + count <= most),
    ).returning(table.c.used)
    with database.system() as connection:
        return connection.execute(statement).first() is not None


def forget_requests(database: Database, now: float) -> None:
    """Remove windows that are over."""
    with database.system() as connection:
        connection.execute(
            delete(request_windows).where((request_windows.c.period + 2) * request_windows.c.seconds < now)
        )
