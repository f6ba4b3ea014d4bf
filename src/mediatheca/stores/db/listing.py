"""Pages of a table: filter, search, sort, and paging by cursor or offset, the same for every list of the API."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, Select, Table, func, or_, select

from mediatheca.kernel.clock import wire_time
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.filters import Filter
from mediatheca.stores.db import tables
from mediatheca.stores.db.filters import compile_sql

STREAMED_ROWS = 1000
"""Rows read at a time when a filter cannot be fully expressed in SQL."""


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
    """How a table is listed: its id column, the JSON column of free fields if any, and what `search` looks at."""

    table: Table
    id: str
    json: str | None
    search: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)


LISTINGS = {
    "resources": Listing(tables.resources, "id", "body", ("name",)),
    "objects": Listing(tables.objects, "object_id", "fields", ("object_id", "key_prefix"), {"key": "key_prefix"}),
    "uploads": Listing(tables.uploads, "upload_id", "body", ("upload_id",)),
    "batches": Listing(tables.batches, "batch_id", "body", ("batch_id",)),
    "tasks": Listing(tables.tasks, "task_id", "additional_data", ("task_id", "task_type")),
    "api_keys": Listing(tables.api_keys, "key_id", None, ("name",)),
    "executions": Listing(tables.executions, "execution_id", "body", ("execution_id",)),
    "interactions": Listing(
        tables.interactions, "interaction_id", "body", ("interaction_id", "feature_id", "user_id", "session_id")
    ),
    "annotations": Listing(tables.annotation_rows, "annotation_id", "body", ("annotation_id", "document_id", "label")),
    "deliveries": Listing(
        tables.deliveries, "delivery_id", None, ("delivery_id", "target_id", "event_type", "message_id")
    ),
    "taxonomy_runs": Listing(tables.taxonomy_runs, "run_id", "body", ("run_id",)),
    "cluster_runs": Listing(tables.cluster_runs, "run_id", "body", ("run_id",)),
    "trigger_runs": Listing(tables.trigger_runs, "run_id", "body", ("run_id", "task_id")),
    "alert_runs": Listing(tables.alert_runs, "execution_id", "body", ("execution_id",)),
    "sync_jobs": Listing(tables.sync_jobs, "sync_job_id", "body", ("sync_job_id", "task_id")),
    "sync_failures": Listing(tables.sync_failures, "dlq_id", None, ("source_key", "error_message")),
    "failed_items": Listing(tables.failed_items, "item_id", None, ("object_id", "reason", "source_document_id")),
}


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
    """Raises ValidationError for what no list of ours has given out."""
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
        conditions.append(or_(*(contains(table.c[name], query.search) for name in listing.search)))
    exact = True
    if query.filter is not None:
        columns = {column.name: column for column in table.c} | {k: table.c[v] for k, v in listing.aliases.items()}
        free = None if listing.json is None else table.c[listing.json]
        native, exact = compile_sql(query.filter, columns, free, connection.dialect.name)
        if native is not None:
            conditions.append(native)
    statement = _ordered(select(table).where(*conditions), listing, query.sort)
    everything, offset = statement, query.offset
    if query.cursor:
        state = decode_cursor(query.cursor)
        offset = _offset(state)
        if "k" in state and not query.sort:
            statement, offset = statement.where(id_column < str(state["k"])), 0
    if not exact:
        return _rechecked(connection, statement, everything, offset, listing, query)
    rows = [dict(row) for row in connection.execute(statement.offset(offset).limit(query.limit + 1)).mappings()]
    total = None
    if query.include_total:
        total = connection.execute(select(func.count()).select_from(table).where(*conditions)).scalar_one()
    return _page(rows, total, offset, query, listing)


def contains(column: ColumnElement[Any], text: str) -> ColumnElement[bool]:
    """Whether a column holds this text, whatever its case."""
    pattern = "%" + text.lower().replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
    return func.lower(column).like(pattern, escape="\\")


def _page(rows: list[dict[str, Any]], total: int | None, offset: int, query: ListQuery, listing: Listing) -> Page:
    more, rows = len(rows) > query.limit, rows[: query.limit]
    cursor = None
    if more:
        state = {"o": offset + query.limit} if query.sort else {"k": rows[-1][listing.id]}
        cursor = encode_cursor(state)
    return Page(rows, total, offset, query.limit, cursor)


def _rechecked(
    connection: Connection,
    statement: Select[Any],
    everything: Select[Any],
    offset: int,
    listing: Listing,
    query: ListQuery,
) -> Page:
    """A page of the rows that pass the whole filter. Rows stream by; the total, if asked for, costs a look at all.

    `everything`: the statement without the cursor, which the total counts.
    """
    with closing(_matching(connection, statement, listing, query.filter)) as matching:
        rows = list(islice(matching, offset, offset + query.limit + 1))
        total = None
        if query.include_total and statement is everything and rows:
            total = offset + len(rows) + sum(1 for _ in matching)
    if query.include_total and total is None:
        with closing(_matching(connection, everything, listing, query.filter)) as matching:
            total = sum(1 for _ in matching)
    return _page(rows, total, offset, query, listing)


def _matching(
    connection: Connection, statement: Select[Any], listing: Listing, filter: Filter | None
) -> Generator[dict[str, Any], None, None]:
    with connection.execute(statement.execution_options(yield_per=STREAMED_ROWS)) as result:
        for row in result.mappings():
            plain = {key: _plain(value) for key, value in row.items() if key != listing.json}
            free = row[listing.json] if listing.json else None
            view = {**(free or {}), **plain}
            view |= {alias: _plain(row[column]) for alias, column in listing.aliases.items()}
            if filter is None or filter.matches(view):
                yield dict(row)


def _plain(value: Any) -> Any:
    """A column as filters see it: times are ISO strings."""
    return wire_time(value) if isinstance(value, datetime) else value


def _ordered(statement: Select[Any], listing: Listing, sort: tuple[tuple[str, bool], ...]) -> Select[Any]:
    table = listing.table
    for name, descending in sort:
        column: Any = table.c.get(listing.aliases.get(name, name))
        if column is None:
            if listing.json is None:
                raise ValidationError.at("sort", f"'{name}' is no field of this list", "sort")
            column = table.c[listing.json]
            for part in name.split("."):
                column = column[part]
            column = column.as_string()
        statement = statement.order_by(column.desc().nulls_last() if descending else column.asc().nulls_last())
    return statement.order_by(table.c[listing.id].desc())
