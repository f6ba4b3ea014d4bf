"""Reading a PostgreSQL database of somebody else's: read-only transaction, time, row and size limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mediatheca.flows.outside.sql_rows import Rows, gather
from mediatheca.kernel.errors import BadRequestError, MediathecaError, PayloadTooLargeError, UnavailableError
from mediatheca.kernel.extras import require

if TYPE_CHECKING:
    import psycopg

CONNECT_S = 5
_FETCHED = 100


@dataclass(frozen=True, slots=True)
class PostgresTarget:
    """Where to connect, with addresses that were checked."""

    host: str
    addresses: Sequence[str]
    port: int
    database: str
    user: str
    password: str = field(repr=False)
    schema: str = "public"
    ssl_mode: str = "prefer"


def run_postgres(
    target: PostgresTarget, sql: str, parameters: Sequence[tuple[Any, ...]], timeout_s: float
) -> list[Rows | MediathecaError]:
    """Rows for every tuple of parameters, in one read-only transaction each time it stands.

    Raises:
        UnavailableError: no connection.
    """
    require("sql_lookup on PostgreSQL", "postgres")
    import psycopg

    found: list[Rows | MediathecaError] = []
    with _connected(target, timeout_s) as connection:
        for values in parameters:
            try:
                found.append(_one(connection, sql, values))
            except psycopg.Error as error:
                if connection.closed:
                    raise UnavailableError(f"the database of the connection broke off: {_said(error)}") from None
                connection.rollback()
                found.append(BadRequestError(f"query: the database refuses it: {_said(error)}"))
            except PayloadTooLargeError as error:
                connection.rollback()
                found.append(error)
    return found


def _one(connection: psycopg.Connection[dict[str, Any]], sql: str, values: tuple[Any, ...]) -> Rows:
    import psycopg

    # A cursor of the server: rows come in pieces, and it can be made of nothing but a query.
    with psycopg.RawServerCursor(connection, "lookup", row_factory=psycopg.rows.dict_row) as cursor:
        cursor.execute(sql.encode(), values)

        def pieces() -> Iterator[dict[str, Any]]:
            while piece := cursor.fetchmany(_FETCHED):
                yield from piece

        return gather(pieces())


@contextmanager
def _connected(target: PostgresTarget, timeout_s: float) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    import psycopg

    milliseconds = int(timeout_s * 1000)
    options = {
        "statement_timeout": milliseconds,
        "lock_timeout": milliseconds,
        "idle_in_transaction_session_timeout": 60_000,
        "default_transaction_read_only": "on",
        "standard_conforming_strings": "on",
        "search_path": target.schema,
    }
    try:
        connection = psycopg.connect(
            host=target.host,
            hostaddr=",".join(target.addresses[:1]),
            port=target.port,
            dbname=target.database,
            user=target.user,
            password=target.password,
            sslmode=target.ssl_mode,
            connect_timeout=CONNECT_S,
            application_name="mediatheca",
            options=" ".join(f"-c {name}={_escaped(str(value))}" for name, value in options.items()),
            row_factory=psycopg.rows.dict_row,
        )
    except psycopg.Error as error:
        raise UnavailableError(f"the database of the connection cannot be reached: {_said(error)}") from None
    try:
        connection.read_only = True
        yield connection
    finally:
        connection.close()


def _escaped(value: str) -> str:
    """libpq splits `options` at blanks, unless a backslash stands before."""
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def _said(error: psycopg.Error) -> str:
    """The first line of what the server said; not the DETAIL, which repeats data."""
    return (error.diag.message_primary or str(error).split("\n")[0])[:300]
