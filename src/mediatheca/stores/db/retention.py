"""Forgetting old rows of a table that only grows: in small transactions, so that writers between them hardly wait."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Delete, Select, delete, func, select, tuple_

from mediatheca.stores.db import tables
from mediatheca.stores.db.engine import Database

_CUT = 2_000
"""Rows a transaction removes; measured on SQLite: 20 ms of the one writer's time."""
_MOST = 200_000
_ALL: Mapping[str, Collection[str]] = {}


def prune_rows(database: Database, name: str, before: datetime | None, count: int | None) -> int:
    """Remove the rows of every namespace that are older than `before`, and all but its newest `count`.

    The table has a single-column primary key and `created_at`. Returns how many rows are gone.
    """
    table = tables.metadata.tables[name]
    scopes = select(table.c.organization_id, table.c.namespace_id, func.count().label("rows"))
    with database.translate(), database.engine.connect() as connection, connection.begin():
        found = connection.execute(scopes.group_by(table.c.organization_id, table.c.namespace_id)).all()
    gone = 0
    for organization_id, namespace_id, rows in found:
        within = [table.c.organization_id == organization_id, table.c.namespace_id == namespace_id]
        if before is not None:
            gone += (removed := _remove(database, name, [*within, table.c.created_at < before], rows))
            rows -= removed
        if count is not None and rows > count:
            gone += _remove(database, name, within, rows - count)
    return gone


def _remove(database: Database, name: str, where: list[ColumnElement[bool]], most: int) -> int:
    """Remove the oldest rows under `where`, at most so many."""
    table = tables.metadata.tables[name]
    (key,) = table.primary_key
    gone = 0
    while gone < most:
        oldest = select(key).where(*where).order_by(table.c.created_at, key).limit(min(_CUT, most - gone))
        removed = _cut(database, delete(table).where(key.in_(oldest)))
        gone += removed
        if removed < _CUT:
            break
    return gone


def prune_old(
    database: Database, name: str, column: str, before: datetime, only: Mapping[str, Collection[str]] = _ALL
) -> int:
    """Remove the rows whose time in `column` is before `before`, whatever the table's key; how many. `only` those that
    have one of these values in these columns."""
    table = tables.metadata.tables[name]
    old = select(*table.primary_key).where(table.c[column] < before)
    return _remove_found(database, name, old.where(*(table.c[each].in_(values) for each, values in only.items())))


def prune_each(database: Database, name: str, each: Sequence[str], count: int, before: datetime) -> int:
    """Of every group of rows that agree in the columns `each` and have ended (`completed_at`), keep the newest `count`
    and what ended after `before`; how many rows are gone."""
    table = tables.metadata.tables[name]
    group = [table.c.organization_id, table.c.namespace_id, *(table.c[column] for column in each)]
    newest = (table.c.created_at.desc(), *(key.desc() for key in table.primary_key))
    rank = func.row_number().over(partition_by=group, order_by=newest).label("rank")
    ended = select(*table.primary_key, table.c.completed_at, rank).where(table.c.completed_at.is_not(None)).subquery()
    old = select(*(ended.c[key.name] for key in table.primary_key))
    return _remove_found(database, name, old.where(ended.c.rank > count, ended.c.completed_at < before))


def _remove_found(database: Database, name: str, keys: Select[Any]) -> int:
    """What is to go is looked for outside the transactions that remove it; at most so many at a time."""
    table = tables.metadata.tables[name]
    with database.translate(), database.engine.connect() as connection, connection.begin():
        found = [tuple(row) for row in connection.execute(keys.limit(_MOST))]
    gone = 0
    for at in range(0, len(found), _CUT):
        gone += _cut(database, delete(table).where(tuple_(*table.primary_key).in_(found[at : at + _CUT])))
    return gone


def _cut(database: Database, statement: Delete) -> int:
    """One small transaction; how many rows it removed."""

    def cut() -> int:
        with database.system() as connection:
            return int(connection.execute(statement).rowcount)

    return database.again(cut)
