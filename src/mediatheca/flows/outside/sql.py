"""Stored connections to other databases, and reading them: `Sql` for the organization of one execution."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import orjson

from mediatheca.flows.outside.connections import SQL_PROVIDERS, Connection, load_connection
from mediatheca.flows.outside.sql_guard import Dialect, check_query
from mediatheca.flows.outside.sql_postgres import PostgresTarget, run_postgres
from mediatheca.flows.outside.sql_rows import Rows
from mediatheca.flows.outside.sql_sqlite import database_file, run_sqlite
from mediatheca.flows.vault import Vault
from mediatheca.kernel.errors import MediathecaError, NotEnabledError, ValidationError
from mediatheca.kernel.hits import value_key
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database
from mediatheca.stores.fetch import Fetcher

MAX_SETS = 1_000
MAX_ROWS = 10_000
MAX_TIMEOUT_S = 300.0
SLICES = 4
"""Connections one call opens at most, when it has many sets of parameters."""
_SLICE = 8

Run: TypeAlias = Callable[[str, Sequence[tuple[Any, ...]], float], list[Rows | MediathecaError]]


class SqlConnections:
    """All organizations' connections. `folder`: where SQLite files may lie."""

    def __init__(self, database: Database, vault: Vault, fetcher: Fetcher, folder: Path, threads: ThreadPoolExecutor):
        self._db, self._vault, self._fetcher, self._folder = database, vault, fetcher, folder
        self._threads = threads

    def for_scope(self, scope: Scope) -> BoundSql:
        return BoundSql(self, Scope(scope.organization_id))

    def check(self, connection: Connection) -> None:
        """Connect and ask for one row.

        Raises:
            MediathecaError: it does not work; the message says why, and repeats no credentials.
        """
        dialect, run = self.opened(connection)
        outcome = run(check_query("SELECT 1 AS one", dialect, 1).sql, [()], 10.0)[0]
        if isinstance(outcome, MediathecaError):
            raise outcome

    def load(self, scope: Scope, identifier: str) -> Connection:
        with self._db.read(scope) as tx:
            return load_connection(tx, self._vault, identifier)

    def opened(self, connection: Connection) -> tuple[Dialect, Run]:
        """The dialect of a connection, and what runs a checked query on it.

        Raises:
            ValidationError: its host may not be reached from here, or its file is not there.
            NotEnabledError: it is not a database.
        """
        config = connection.config
        if connection.provider_type == "sqlite":
            return "sqlite", partial(run_sqlite, database_file(self._folder, str(config["database"])))
        if connection.provider_type != "postgresql":
            known = ", ".join(SQL_PROVIDERS)
            raise NotEnabledError(
                f"the connection '{connection.name}' is a {connection.provider_type}; SQL is read from: {known}"
            )
        host, port = str(config["host"]), int(config["port"])
        target = PostgresTarget(
            host=host,
            addresses=self._fetcher.addresses(host, port),
            port=port,
            database=str(config["database"]),
            user=connection.credential("username", self._secrets(connection)),
            password=connection.credential("password", self._secrets(connection)),
            schema=str(config["schema"]),
            ssl_mode=str(config["ssl_mode"]),
        )
        return "postgres", partial(run_postgres, target)

    def _secrets(self, connection: Connection) -> Mapping[str, str]:
        return self._vault.read(Scope(connection.organization_id), connection.secrets)

    def prepare(
        self, scope: Scope, identifier: str, query: str, parameters: Sequence[Mapping[str, Any]], max_rows: int
    ) -> tuple[Run, str, list[tuple[Any, ...]]]:
        """Everything up to the query itself: the connection, the checked text, the values of every set."""
        if len(parameters) > MAX_SETS:
            raise ValidationError.at(
                "parameters", f"at most {MAX_SETS} look-ups at once, got {len(parameters)}", "too_long"
            )
        dialect, run = self.opened(self.load(scope, identifier))
        checked = check_query(query, dialect, max(1, min(max_rows, MAX_ROWS)))
        return run, checked.sql, [checked.bind(values) for values in parameters]

    @property
    def threads(self) -> ThreadPoolExecutor:
        return self._threads


class BoundSql:
    """`Sql` for one organization."""

    def __init__(self, connections: SqlConnections, scope: Scope) -> None:
        self._all, self._scope = connections, scope

    async def select(
        self,
        connection: str,
        query: str,
        parameters: Sequence[Mapping[str, Any]],
        *,
        timeout_s: float,
        max_rows: int,
    ) -> list[Rows | MediathecaError]:
        """See `mediatheca.kernel.outside.Sql`."""
        if not parameters:
            return []
        loop, threads = asyncio.get_running_loop(), self._all.threads
        timeout_s = min(timeout_s, MAX_TIMEOUT_S)
        prepared = partial(self._all.prepare, self._scope, connection, query, parameters, max_rows)
        run, sql, sets = await loop.run_in_executor(threads, prepared)
        keys = [value_key(values) for values in sets]
        unique = dict(zip(keys, sets, strict=True))
        pieces = _sliced(list(unique.values()))
        outcomes = await asyncio.gather(
            *(loop.run_in_executor(threads, run, sql, piece, timeout_s) for piece in pieces)
        )
        answers = dict(zip(unique, (outcome for piece in outcomes for outcome in piece), strict=True))
        return [_copied(answers[key]) for key in keys]


def _copied(outcome: Rows | MediathecaError) -> Rows | MediathecaError:
    """Documents that share an answer must not share its objects."""
    copy: Rows | MediathecaError = orjson.loads(orjson.dumps(outcome)) if isinstance(outcome, list) else outcome
    return copy


def _sliced(sets: list[tuple[Any, ...]]) -> list[list[tuple[Any, ...]]]:
    count = max(1, min(SLICES, -(-len(sets) // _SLICE)))
    size = -(-len(sets) // count)
    return [sets[start : start + size] for start in range(0, len(sets), size)]
