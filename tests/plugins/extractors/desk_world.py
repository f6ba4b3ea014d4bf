"""A real desk for extractors under test: the guarded client, the language models and the browser of a process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mediatheca.backends import make_vault
from mediatheca.flows.ingest.desk import Desks
from mediatheca.kernel.desk import Desk
from mediatheca.kernel.scope import Scope
from mediatheca.settings import Settings
from mediatheca.stores.db.engine import Database
from mediatheca.stores.fetch import Fetcher

SCOPE = Scope("org_a", "ns_a")


class Steps:
    """Remembers steps as long as a test."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}
        self.computed = 0
        """How many were not there yet."""

    def recall(self, key: str) -> bytes | None:
        return self.held.get(key)

    def remember(self, key: str, data: bytes) -> None:
        self.computed += 1
        self.held[key] = data


@contextmanager
def a_desk(
    folder: Path,
    parameters: Mapping[str, Any] | None = None,
    steps: Steps | None = None,
    **settings: Any,
) -> Iterator[Desk]:
    """The desk of one namespace; `settings` are the server's."""
    made = Settings(data_dir=folder, **settings)
    database = Database(made.database)
    database.migrate()
    vault = make_vault(made, database)
    with database.begin(Scope(SCOPE.organization_id)) as tx:
        vault.create(tx, "token", "hush-hush")
    desks = Desks(made, database, vault, Fetcher(allow=made.fetch_allow))
    try:
        yield desks.of(SCOPE, parameters or {}, steps or Steps())
    finally:
        desks.close()
        database.close()
