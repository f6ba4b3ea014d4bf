"""Reading a SQLite file: opened read-only, an authorizer that allows nothing but reading, time and size limits."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mediatheca.flows.outside.sql_rows import MAX_CELL, Rows, gather
from mediatheca.kernel.errors import (
    BadRequestError,
    MediathecaError,
    PayloadTooLargeError,
    UnavailableError,
    ValidationError,
)

FOLDER = "sql"
"""Below the data directory: the only place whose files can be looked at."""
_READING = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE})
_DENIED = frozenset({
    "load_extension", "readfile", "writefile", "edit", "fts3_tokenizer", "zeroblob", "randomblob", "sqlite_log",
})  # fmt: skip
_STEPS = 1_000
_MAGIC = b"SQLite format 3\0"


def database_file(folder: Path, name: str) -> Path:
    """The file of a connection.

    Raises:
        ValidationError: it is not a SQLite file in the folder; links out of it do not count.
    """
    root = folder.resolve()
    found = (root / name).resolve()
    if not found.is_relative_to(root) or not found.is_file() or not _is_sqlite(found):
        message = f"'{name[:100]}' is not a SQLite file in the folder '{FOLDER}' of the data directory; put it there"
        raise ValidationError.at("provider_config.database", message, "sqlite_file")
    return found


def _is_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def run_sqlite(
    path: Path, sql: str, parameters: Sequence[tuple[Any, ...]], timeout_s: float
) -> list[Rows | MediathecaError]:
    """Rows for every tuple of parameters.

    Raises:
        UnavailableError: the file cannot be opened.
    """
    found: list[Rows | MediathecaError] = []
    with closing(_opened(path)) as connection:
        for values in parameters:
            deadline = time.monotonic() + timeout_s
            connection.set_progress_handler(lambda deadline=deadline: time.monotonic() > deadline, _STEPS)  # type: ignore[misc]
            try:
                named = {f"p{number}": value for number, value in enumerate(values, 1)}
                found.append(gather(_rows(connection.execute(sql, named))))
            except sqlite3.OperationalError as error:
                late = "interrupted" in str(error)
                reason = f"it takes longer than {timeout_s:g} seconds" if late else str(error)[:300]
                found.append(BadRequestError(f"query: the database refuses it: {reason}"))
            except PayloadTooLargeError as error:
                found.append(error)
            except (sqlite3.Error, OverflowError, UnicodeError) as error:
                found.append(BadRequestError(f"query: the database refuses it: {str(error)[:300]}"))
    return found


def _rows(cursor: sqlite3.Cursor) -> Iterator[dict[str, Any]]:
    names = [column[0] for column in cursor.description]
    for row in cursor:
        yield dict(zip(names, row, strict=True))


def _opened(path: Path) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(
            f"file:{quote(str(path))}?mode=ro", uri=True, timeout=5, check_same_thread=False, isolation_level=None
        )
        connection.execute("PRAGMA query_only=ON")
        connection.execute("PRAGMA trusted_schema=OFF")
    except sqlite3.Error as error:
        raise UnavailableError(f"the SQLite file of the connection cannot be opened: {error}") from None
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_CELL)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    connection.set_authorizer(_authorize)
    return connection


def _authorize(action: int, first: str | None, second: str | None, database: str | None, source: str | None) -> int:
    if action in _READING:
        table = (first or "").lower()
        return sqlite3.SQLITE_DENY if table.startswith(("sqlite_", "pragma_")) else sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() not in _DENIED:
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY
