"""The lease of a table counts its commits, and starts anew when the table was put in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mediatheca.flows.tables import TableLeases
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.tx import Tx

SCOPE = Scope("org", "ns")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'leases.db'}")
    made.migrate()
    with made.begin(SCOPE) as tx:
        tx.insert("document_tables", [{"collection_id": "col"}])
    yield made
    made.close()


def _commit(leases: TableLeases, *, maintained: bool = False) -> None:
    def record(tx: Tx) -> None:
        tx.emit("collection.documents.written", "col")

    with leases.acquire(SCOPE, "col") as lease:
        leases.commit(lease, record, maintained=maintained)


def _commits(database: Database) -> int:
    with database.read(SCOPE) as tx:
        row = tx.row("document_tables", {"collection_id": "col"})
    assert row is not None
    return int(row["commits"])


def test_every_commit_is_counted_until_the_table_was_put_in_order(database: Database) -> None:
    leases = TableLeases(database)
    for _ in range(3):
        _commit(leases)
    assert _commits(database) == 3
    _commit(leases, maintained=True)
    assert _commits(database) == 0
    _commit(leases)
    assert _commits(database) == 1
