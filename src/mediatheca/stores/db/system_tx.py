"""One transaction over several tenants: for what reads the events of all of them, never for requests."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection

from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.tx import Tx


class SystemTx:
    """Hands out a scoped `Tx` for each tenant; they commit together. `Database.across` opens it."""

    def __init__(self, connection: Callable[[], Connection], actor: str) -> None:
        self._open = connection
        self._actor = actor
        self.topics: set[str] = set()
        self.later: list[Callable[[], None]] = []

    @property
    def connection(self) -> Connection:
        """For statements without a tenant: cursors of consumers."""
        return self._open()

    def for_scope(self, scope: Scope) -> Tx:
        """The same transaction within one scope."""
        tx = Tx(self._open, scope, self._actor)
        tx.topics, tx.later = self.topics, self.later
        return tx
