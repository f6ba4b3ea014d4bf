"""The lease of a table counts its commits, and machines whose clocks differ agree on who holds it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from mediatheca.flows.tables import TableLeases
from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.tables import metadata
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


# ---- several machines

MACHINE = """
import datetime, os, sys, time
from mediatheca.kernel import clock
url, shift, lease_s = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
right, real = clock.now, time.time
clock.now = lambda: right() + datetime.timedelta(seconds=shift)
time.time = lambda: real() + shift
from mediatheca.flows.tables import TableLeases
from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database
try:
    with TableLeases(Database(url), lease_s).acquire(Scope("org", "ns"), "col", wait_s=0):
        print("taken", flush=True)
        os._exit(0)  # it dies with the lease
except UnavailableError:
    print("refused", flush=True)
"""
HOUR = 3600.0


@pytest.fixture
def shared(postgres_url: str) -> Iterator[Database]:
    """A database that several machines use."""
    made = Database(postgres_url)
    made.migrate()
    with made.system() as connection:
        connection.execute(text(f"TRUNCATE {', '.join(metadata.tables)}"))
    with made.begin(SCOPE) as tx:
        tx.insert("document_tables", [{"collection_id": "col"}])
    yield made
    made.close()


def _machine(url: str, clock_ahead_s: float, lease_s: float = 30) -> str:
    """Another machine, with a clock that is wrong, tries to take the lease."""
    command = [sys.executable, "-c", MACHINE, url, str(clock_ahead_s), str(lease_s)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def _abandoned(database: Database) -> bool:
    with database.read(SCOPE) as tx:
        row = tx.row("document_tables", {"collection_id": "col"})
    assert row is not None
    return TableLeases(database).abandoned(row)


@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
def test_a_machine_with_a_wrong_clock_takes_no_lease_that_is_held(
    shared: Database, postgres_url: str, ahead: float
) -> None:
    leases = TableLeases(shared, lease_s=600)  # the other machine takes its time to start
    with leases.acquire(SCOPE, "col") as lease:
        assert _machine(postgres_url, ahead) == "refused"
        leases.check(lease)
        leases.commit(lease)
    assert _machine(postgres_url, ahead) == "taken"


@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
def test_a_lease_of_a_machine_with_a_wrong_clock_lasts_as_long_as_any(
    shared: Database, postgres_url: str, ahead: float
) -> None:
    assert _machine(postgres_url, ahead, lease_s=300) == "taken"
    assert not _abandoned(shared)
    with pytest.raises(UnavailableError), TableLeases(shared).acquire(SCOPE, "col", wait_s=0):
        pass


@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
def test_a_machine_with_a_wrong_clock_that_died_is_replaced_when_its_lease_is_over(
    shared: Database, postgres_url: str, ahead: float
) -> None:
    assert _machine(postgres_url, ahead, lease_s=0.2) == "taken"
    deadline = time.monotonic() + 120
    while not _abandoned(shared):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with TableLeases(shared).acquire(SCOPE, "col", wait_s=0) as lease:
        assert lease.inherited
