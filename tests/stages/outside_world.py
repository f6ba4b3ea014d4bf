"""Everything an execution may reach, put together as the application does it, with an organization to use it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mediatheca.backends import make_vault
from mediatheca.flows.outside.connections import checked_config, new_connection_id, stored_body
from mediatheca.flows.outside.language import LanguageProviders
from mediatheca.flows.outside.reach import Reach
from mediatheca.flows.retrieve import ExecutionContext
from mediatheca.flows.vault import CONNECTION
from mediatheca.kernel.scope import Scope
from mediatheca.settings import Settings
from mediatheca.stores.db.engine import Database
from mediatheca.stores.fetch import Fetcher
from mediatheca.testing.stages import StageSuite

SCOPE = Scope("org_a", "ns_a")


class Surroundings:
    """One process's means to reach out; `context()` is what an execution of `org_a` is given."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.settings = Settings(data_dir=folder, **settings)
        self.database = Database(self.settings.database)
        self.database.migrate()
        self.vault = make_vault(self.settings, self.database)
        self.fetcher = Fetcher(allow=self.settings.fetch_allow)
        self.language = LanguageProviders(self.settings)
        self.reach = Reach(self.settings, self.database, self.vault, self.fetcher)

    def context(self, scope: Scope = SCOPE, secrets: Mapping[str, str] | None = None) -> ExecutionContext:
        outside = self.reach.outside(scope, self.language.bound(namespace_id=scope.namespace_id))
        return ExecutionContext(
            namespace_id=scope.namespace_id,
            internal_id=scope.organization_id,
            outside=outside,
            secrets=self.vault.read(scope, secrets) if isinstance(secrets, list) else secrets or {},
            seed=1,
        )

    def secret(self, name: str, value: str, scope: Scope = SCOPE) -> None:
        with self.database.begin(Scope(scope.organization_id)) as tx:
            self.vault.create(tx, name, value)

    def connection(self, name: str, provider: str, config: dict[str, Any], scope: Scope = SCOPE) -> str:
        """Store a connection without trying it."""
        shown, credentials = checked_config(provider, config)
        ident, organization = new_connection_id(), Scope(scope.organization_id)
        body = {
            **stored_body(self.vault, organization, ident, shown, credentials),
            "provider_type": provider,
            "is_active": True,
            "created_by": "usr_1",
        }
        with self.database.begin(organization) as tx:
            tx.put(CONNECTION, "conn", name, body, ident=ident)
        return ident

    def shop(self, file: str = "shop.db") -> str:
        """A SQLite connection `shop` to a file with products."""
        folder = self.settings.data_dir / "sql"
        folder.mkdir(exist_ok=True)
        with closing(sqlite3.connect(folder / file)) as connection:
            connection.execute("CREATE TABLE products (sku TEXT, price REAL, name TEXT)")
            rows = [("x1", 1.5, "spade"), ("x2", 20, "fork"), ("x2", 21, "other fork"), ("x3", None, None)]
            connection.executemany("INSERT INTO products VALUES (?, ?, ?)", rows)
            connection.commit()
        return self.connection("shop", "sqlite", {"database": file})

    def close(self) -> None:
        self.reach.close()
        self.database.close()


@contextmanager
def surroundings(folder: Path, **settings: Any) -> Iterator[Surroundings]:
    made = Surroundings(folder, **settings)
    try:
        yield made
    finally:
        made.close()


class ReachingStageSuite(StageSuite):
    """The contract of a stage that reaches out, run in the `world` of its module."""

    world: ClassVar[Surroundings]

    @pytest.fixture(autouse=True)
    def _reachable(self, world: Surroundings) -> None:
        type(self).world = world

    def context(self) -> ExecutionContext:
        return self.world.context()
