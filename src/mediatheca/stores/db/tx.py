"""Transactions. A `Tx` is bound to one scope: every statement it makes carries organization and namespace.

There is no way to reach the connection from here: a query without its scope cannot be written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Result, Table, and_, delete, func, insert, select, text, update
from sqlalchemy.exc import DataError, IntegrityError, StatementError

from mediatheca.kernel import clock
from mediatheca.kernel.errors import ConflictError, NotFoundError, ValidationError
from mediatheca.kernel.ids import new_id, new_uuid
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db import tables
from mediatheca.stores.db.listing import LISTINGS, ListQuery, Page, fetch_page
from mediatheca.stores.db.own_values import keepable

Row = dict[str, Any]
Where = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Cmp:
    """A comparison in a `where`: `Cmp("<", 5)`. Operators: < <= > >= !=."""

    op: str
    value: Any


@dataclass(slots=True)
class Record:
    """A configuration resource: one row of `resources`."""

    kind: str
    id: str
    name: str
    body: dict[str, Any]
    parent: str = ""
    version: int = 1
    created_at: datetime | None = None
    updated_at: datetime | None = None
    namespace_id: str = ""


_OPS: dict[str, Any] = {
    "<": lambda column, value: column < value,
    "<=": lambda column, value: column <= value,
    ">": lambda column, value: column > value,
    ">=": lambda column, value: column >= value,
    "!=": lambda column, value: column != value,
}


def _condition(column: ColumnElement[Any], value: Any) -> ColumnElement[bool]:
    if isinstance(value, Cmp):
        result: ColumnElement[bool] = _OPS[value.op](column, value.value)
        return result
    if isinstance(value, list | tuple | set | frozenset):
        return column.in_(list(value))
    return column.is_(None) if value is None else column == value


class LeaseLostError(Exception):
    """The work belongs to somebody else by now; nothing of it may be written."""


class ReadTx:
    """Reads within one scope. `connection` gives the open transaction; it may begin it at the first statement."""

    def __init__(self, connection: Callable[[], Connection], scope: Scope) -> None:
        self._open = connection
        self.scope = scope

    @property
    def _connection(self) -> Connection:
        return self._open()

    def within(self, namespace_id: str) -> ReadTx:
        """The same transaction, in a namespace of the same organization."""
        return ReadTx(self._open, Scope(self.scope.organization_id, namespace_id))

    def _where(self, table: Table, where: Where) -> list[ColumnElement[bool]]:
        return [
            table.c.organization_id == self.scope.organization_id,
            table.c.namespace_id == self.scope.namespace_id,
            *(_condition(table.c[name], value) for name, value in where.items()),
        ]

    def rows(
        self,
        table: str,
        where: Where,
        *,
        columns: Sequence[str] = (),
        order: Sequence[str] = (),
        limit: int | None = None,
        hold: Literal["", "share", "update"] = "",
    ) -> list[Row]:
        """Rows of a table. `order`: column names, `-name` for descending.

        `hold`: until the end of the transaction nobody else may change (`update`) or remove (`share`) these rows.
        Take objects before blobs, each in the order of their ids, so that two transactions never wait for each other.
        """
        source = tables.metadata.tables[table]
        statement = select(*(source.c[name] for name in columns) if columns else (source,))
        statement = statement.where(*self._where(source, where)).limit(limit)
        for name in order:
            statement = statement.order_by(source.c[name[1:]].desc() if name.startswith("-") else source.c[name])
        if hold:
            statement = statement.with_for_update(read=hold == "share")  # nothing on SQLite: writers are alone there
        return _as_dicts(self._connection.execute(statement))

    def column(self, table: str, name: str, where: Where, *, order: Sequence[str] = ()) -> list[Any]:
        """One column of the rows: for thousands of ids, which need no dict each."""
        source = tables.metadata.tables[table]
        statement = select(source.c[name]).where(*self._where(source, where))
        return list(self._connection.execute(statement.order_by(*(source.c[key] for key in order))).scalars())

    def row(self, table: str, where: Where) -> Row | None:
        """The one row, or None."""
        found = self.rows(table, where, limit=1)
        return found[0] if found else None

    def count(self, table: str, where: Where) -> int:
        source = tables.metadata.tables[table]
        statement = select(func.count()).select_from(source).where(*self._where(source, where))
        return int(self._connection.execute(statement).scalar_one())

    def count_in_organization(self, table: str, where: Where) -> int:
        """The same over all namespaces of the organization: for limits that are the organization's."""
        source = tables.metadata.tables[table]
        conditions = [_condition(source.c[name], value) for name, value in where.items()]
        own = source.c.organization_id == self.scope.organization_id
        return int(
            self._connection.execute(select(func.count()).select_from(source).where(own, *conditions)).scalar_one()
        )

    def sums(self, table: str, where: Where, sums: Sequence[str], by: Sequence[str] = ()) -> list[Row]:
        """`COUNT(*) AS count` and the sum of each column in `sums`, grouped by the columns in `by`."""
        source = tables.metadata.tables[table]
        keys = [source.c[name] for name in by]
        values = [func.coalesce(func.sum(source.c[name]), 0).label(name) for name in sums]
        statement = select(*keys, func.count().label("count"), *values).where(*self._where(source, where))
        return _as_dicts(self._connection.execute(statement.group_by(*keys)))

    def page(self, table: str, where: Where, query: ListQuery, aliases: Mapping[str, str] | None = None) -> Page:
        """One page of a list. `aliases`: wire names of columns, e.g. `{"bucket_name": "name"}`."""
        listing = LISTINGS[table]
        if aliases:
            listing = replace(listing, aliases={**listing.aliases, **aliases})
        return fetch_page(self._connection, listing, self._where(listing.table, where), query)

    def find(self, kind: str, ident: str, parent: str | None = None) -> Record | None:
        """A resource by id or name, or None."""
        where: dict[str, Any] = {"kind": kind} | ({} if parent is None else {"parent": parent})
        row = self.row("resources", where | {"id": ident}) or self.row("resources", where | {"name": ident})
        return None if row is None else record(row)

    def time_us(self) -> int:
        """The database's time, in microseconds since 1970: for whatever processes on several machines compare."""
        connection = self._connection
        return int(connection.execute(text(f"SELECT {tables.NOW_US[connection.dialect.name]}")).scalar_one())

    def get(self, kind: str, ident: str, parent: str | None = None) -> Record:
        """A resource by id or name.

        Raises:
            NotFoundError: there is none in this scope.
        """
        found = self.find(kind, ident, parent)
        if found is None:
            raise NotFoundError(kind, ident)
        return found

    def resources(self, kind: str, where: Where | None = None) -> list[Record]:
        """Every resource of a kind in this scope, oldest first."""
        return [record(row) for row in self.rows("resources", {"kind": kind, **(where or {})}, order=("id",))]


def _as_dicts(result: Result[Any]) -> list[Row]:
    """`dict(row)` of SQLAlchemy's mappings asks for the keys again in every row: several times slower."""
    names = tuple(result.keys())
    return [dict(zip(names, row, strict=True)) for row in result]


def record(row: Row) -> Record:
    """A row of `resources` as a Record."""
    return Record(
        row["kind"], row["id"], row["name"], row["body"], row["parent"], row["version"],
        row["created_at"], row["updated_at"], row["namespace_id"],
    )  # fmt: skip


@contextmanager
def _storable(table: str) -> Iterator[None]:
    """What the caller sent and the database refuses is the caller's error."""
    try:
        yield
    except IntegrityError as error:
        raise ConflictError(f"{table}: an entry with this key exists already") from error
    except (StatementError, UnicodeError, TypeError) as error:
        cause = error.orig if isinstance(error, StatementError) else error
        if isinstance(error, DataError) or isinstance(cause, TypeError | UnicodeError):
            message = "holds a value that cannot be stored: a lone surrogate, a NUL, or a number beyond 64 bits"
            raise ValidationError.at(("body",), message, "unstorable") from error
        raise


class Tx(ReadTx):
    """Reads and writes within one scope. Nothing is visible to others before the commit."""

    def __init__(self, connection: Callable[[], Connection], scope: Scope, actor: str = "system") -> None:
        super().__init__(connection, scope)
        self.actor = actor
        self.topics: set[str] = set()
        self.later: list[Callable[[], None]] = []

    def within(self, namespace_id: str) -> Tx:
        inner = Tx(self._open, Scope(self.scope.organization_id, namespace_id), self.actor)
        inner.topics, inner.later = self.topics, self.later
        return inner

    def after(self, act: Callable[[], None]) -> None:
        """Do this once the transaction is committed, before the caller gets its answer: for what follows from the rows
        and could be done again (files, the index). Trouble in it is logged; the commit stands."""
        self.later.append(act)

    def insert(self, table: str, rows: Sequence[Row]) -> None:
        """Insert rows; the scope's columns are set here.

        Raises:
            ConflictError: a unique rule is broken; the message names no other tenant's data.
        """
        if not rows:
            return
        target = tables.metadata.tables[table]
        scope = {"organization_id": self.scope.organization_id, "namespace_id": self.scope.namespace_id}
        with _storable(table), self._connection.begin_nested():
            self._connection.execute(
                insert(target), [{**row, **scope} for row in keepable(self._connection, table, rows)]
            )
        self.topics.add(table)

    def update(self, table: str, where: Where, values: Row) -> int:
        """Rows changed."""
        target = tables.metadata.tables[table]
        self.topics.add(table)
        (kept,) = keepable(self._connection, table, [values])
        with _storable(table):
            found = self._connection.execute(update(target).where(and_(*self._where(target, where))).values(kept))
        return found.rowcount

    def delete(self, table: str, where: Where) -> int:
        """Rows removed."""
        target = tables.metadata.tables[table]
        self.topics.add(table)
        return self._connection.execute(delete(target).where(and_(*self._where(target, where)))).rowcount

    def put(
        self, kind: str, prefix: str, name: str, body: dict[str, Any], *, parent: str = "", ident: str = ""
    ) -> Record:
        """Create a resource.

        Raises:
            ConflictError: the name is taken; `details.existing_id` says by which.
        """
        taken = self.row("resources", {"kind": kind, "parent": parent, "name": name})
        if taken is not None:
            raise ConflictError(f"{kind} '{name}' exists already", details={"existing_id": taken["id"]})
        moment = clock.now()
        made = Record(kind, ident or new_id(prefix), name, body, parent, 1, moment, moment, self.scope.namespace_id)
        self.insert(
            "resources",
            [
                {"kind": kind, "id": made.id, "parent": parent, "name": name, "body": body, "version": 1}
                | {"created_at": moment, "updated_at": moment}
            ],
        )
        self.topics.add(f"resource:{kind}")
        return made

    def change(self, current: Record, body: dict[str, Any], name: str | None = None) -> Record:
        """Replace a resource's body (and name); version + 1.

        Raises:
            ConflictError: it was changed by another request since it was read, or the new name is taken.
        """
        name = name or current.name
        if name != current.name:
            taken = self.row("resources", {"kind": current.kind, "parent": current.parent, "name": name})
            if taken is not None:
                raise ConflictError(f"{current.kind} '{name}' exists already", details={"existing_id": taken["id"]})
        moment = clock.now()
        if current.updated_at is not None:  # strictly rising, also on coarse clocks
            moment = max(moment, current.updated_at + timedelta(microseconds=1))
        where = {"kind": current.kind, "id": current.id, "version": current.version}
        values = {"body": body, "name": name, "version": current.version + 1, "updated_at": moment}
        if not self.update("resources", where, values):
            raise ConflictError(f"{current.kind} '{current.id}' was changed by another request; read it again")
        self.topics.add(f"resource:{current.kind}")
        return Record(
            current.kind, current.id, name, body, current.parent, current.version + 1, current.created_at, moment,
            current.namespace_id,
        )  # fmt: skip

    def remove(self, current: Record) -> None:
        """Delete a resource."""
        self.delete("resources", {"kind": current.kind, "id": current.id})
        self.topics.add(f"resource:{current.kind}")

    def emit(self, type: str, resource_id: str, payload: Row | None = None) -> None:
        """Record an event in the same transaction: audit, webhooks and triggers read it from there."""
        self.emit_many(type, [(resource_id, payload or {})])

    def emit_many(self, type: str, events: Sequence[tuple[str, Row]]) -> None:
        """`emit` for many (resource id, payload) in one statement."""
        common = {"type": type, "actor": self.actor, "created_at": clock.now()}
        self.insert(
            "events",
            [
                {"event_id": new_id("evt"), "resource_id": ident, "payload": payload, **common}
                for ident, payload in events
            ],
        )

    def enqueue(
        self,
        kind: str,
        payload: Row,
        *,
        lock: str | None = None,
        group: str | None = None,
        priority: int = 0,
        delay_s: float = 0,
        max_attempts: int = 5,
    ) -> str:
        """Enqueue a durable job in this transaction: it runs if, and only if, the transaction commits.

        `lock`: at most one job with this key runs at a time. `group`: for cancelling and waiting together.
        """
        return self.enqueue_many(
            kind, [payload], lock=lock, group=group, priority=priority, delay_s=delay_s, max_attempts=max_attempts
        )[0]

    def enqueue_many(
        self,
        kind: str,
        payloads: Sequence[Row],
        *,
        lock: str | None = None,
        group: str | None = None,
        priority: int = 0,
        delay_s: float = 0,
        max_attempts: int = 5,
    ) -> list[str]:
        """`enqueue` for many payloads in one statement."""
        created = int(clock.now().timestamp() * 1e6)
        # 0: at once; ids keep the order.
        run_at = self.time_us() + int(delay_s * 1e6) if delay_s else 0
        common = {"kind": kind, "status": "ready", "priority": priority, "lock_key": lock, "group_key": group}
        common |= {"max_attempts": max_attempts, "run_at": run_at, "created_at": created, "attempts": 0}
        ids = [new_uuid() for _ in payloads]
        self.insert("jobs", [{"job_id": i, "payload": p, **common} for i, p in zip(ids, payloads, strict=True)])
        return ids

    def finish_job(self, job_id: str, token: str) -> None:
        """End a leased job in this transaction, so that its results and its end are one.

        Raises:
            LeaseLostError: the lease ran out, or the job was cancelled; the transaction must not commit.
        """
        done = {"status": "done", "lease_token": None, "finished_at": int(clock.now().timestamp() * 1e6)}
        if not self.update("jobs", {"job_id": job_id, "lease_token": token, "status": "running"}, done):
            raise LeaseLostError(job_id)

    def cancel_jobs(self, group: str) -> int:
        """Cancel the waiting jobs of a group and tell the running ones to stop. Returns how many."""
        done = {"status": "cancelled", "finished_at": int(clock.now().timestamp() * 1e6), "lease_token": None}
        return self.update("jobs", {"group_key": group, "status": ["ready", "running"]}, done)

    def next_seq(self, collection_id: str) -> int:
        """The next write sequence number of a collection's documents; gaps are harmless, order is not."""
        table = tables.document_tables
        statement = (
            update(table)
            .where(*self._where(table, {"collection_id": collection_id}))
            .values(write_seq=table.c.write_seq + 1)
            .returning(table.c.write_seq)
        )
        found = self._connection.execute(statement).scalar_one_or_none()
        if found is None:
            raise NotFoundError("collection", collection_id)
        return int(found)
