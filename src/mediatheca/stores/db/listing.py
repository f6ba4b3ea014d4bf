"""Pages of a table: filter, search, sort, and paging by cursor or offset, the same for every list of the API."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, Select, Table, func, or_, select

from mediatheca.kernel.clock import wire_time
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.filters import Filter
from mediatheca.stores.db.filters import compile_sql

RECHECK_ROWS = 100_000
"""Most rows looked at when a filter cannot be fully expressed in SQL."""


@dataclass(frozen=True, slots=True)
class ListQuery:
    """What a caller asked of a list. `sort`: (field, descending) pairs; empty: newest first."""

    limit: int = 20
    offset: int = 0
    cursor: str | None = None
    search: str | None = None
    filter: Filter | None = None
    sort: tuple[tuple[str, bool], ...] = ()
    include_total: bool = True


@dataclass(frozen=True, slots=True)
class Listing:
    """How a table is listed: its id column, the JSON column of free fields, and what `search` looks at."""

    table: Table
    id: str
    json: str
    search: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of one page. `total` is None when it was not asked for."""

    rows: list[dict[str, Any]]
    total: int | None
    offset: int
    limit: int
    next_cursor: str | None


def encode_cursor(state: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(state)).decode().rstrip("=")


def decode_cursor(cursor: str) -> dict[str, Any]:
    try:
        state = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError) as error:
        raise ValidationError.at("cursor", "is not a cursor of this list") from error
    if not isinstance(state, dict):
        raise ValidationError.at("cursor", "is not a cursor of this list")
    return state


def _offset(state: dict[str, Any]) -> int:
    """The offset of a cursor, which may have been written by anybody."""
    offset = state.get("o", 0)
    if type(offset) is not int or not 0 <= offset < 2**53:
        raise ValidationError.at("cursor", "is not a cursor of this list")
    return offset


def fetch_page(connection: Connection, listing: Listing, where: list[ColumnElement[bool]], query: ListQuery) -> Page:
    """One page of `listing` under `where`."""
    table, id_column = listing.table, listing.table.c[listing.id]
    conditions = list(where)
    if query.search:
        pattern = "%" + query.search.lower().replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        conditions.append(or_(*(func.lower(table.c[name]).like(pattern, escape="\\") for name in listing.search)))
    exact = True
    if query.filter is not None:
        columns = {column.name: column for column in table.c} | {k: table.c[v] for k, v in listing.aliases.items()}
        native, exact = compile_sql(query.filter, columns, table.c[listing.json], connection.dialect.name)
        if native is not None:
            conditions.append(native)
    statement = _ordered(select(table).where(*conditions), listing, query.sort)
    if not exact:
        return _rechecked(connection, statement, listing, query)
    offset = query.offset
    if query.cursor:
        state = decode_cursor(query.cursor)
        offset = _offset(state)
        if "k" in state and not query.sort:
            statement, offset = statement.where(id_column < str(state["k"])), 0
    rows = [dict(row) for row in connection.execute(statement.offset(offset).limit(query.limit + 1)).mappings()]
    total = None
    if query.include_total:
        total = connection.execute(select(func.count()).select_from(table).where(*conditions)).scalar_one()
    return _page(rows, total, offset, query, listing)


def _page(rows: list[dict[str, Any]], total: int | None, offset: int, query: ListQuery, listing: Listing) -> Page:
    more, rows = len(rows) > query.limit, rows[: query.limit]
    cursor = None
    if more:
        state = {"o": offset + query.limit} if query.sort else {"k": rows[-1][listing.id]}
        cursor = encode_cursor(state)
    return Page(rows, total, offset, query.limit, cursor)


def _rechecked(connection: Connection, statement: Select[Any], listing: Listing, query: ListQuery) -> Page:
    offset = _offset(decode_cursor(query.cursor)) if query.cursor else query.offset
    found = []
    for row in connection.execute(statement.limit(RECHECK_ROWS)).mappings():
        plain = {key: _plain(value) for key, value in row.items() if key != listing.json}
        view = {**(row[listing.json] or {}), **plain}
        view |= {alias: _plain(row[column]) for alias, column in listing.aliases.items()}
        if query.filter is not None and query.filter.matches(view):
            found.append(dict(row))
    more = len(found) > offset + query.limit
    cursor = encode_cursor({"o": offset + query.limit}) if more else None
    return Page(found[offset : offset + query.limit], len(found), offset, query.limit, cursor)


def _plain(value: Any) -> Any:
    """A column as filters see it: times are ISO strings."""
    return wire_time(value) if isinstance(value, datetime) else value


def _ordered(statement: Select[Any], listing: Listing, sort: tuple[tuple[str, bool], ...]) -> Select[Any]:
    table = listing.table
    for name, descending in sort:
        column: Any = table.c.get(listing.aliases.get(name, name))
        if column is None:
            column = table.c[listing.json]
            for part in name.split("."):
                column = column[part]
            column = column.as_string()
        statement = statement.order_by(column.desc().nulls_last() if descending else column.asc().nulls_last())
    return statement.order_by(table.c[listing.id].desc())
