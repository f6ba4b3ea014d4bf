from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from delivery_world import World

from mediatheca.stores.db.engine import Database
from webhook_receiver import Receiver, a_receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with a_receiver() as made:
        yield made


@pytest.fixture
def lone_db(tmp_path: Path) -> Iterator[Database]:
    """SQLite, for what does not depend on the database."""
    database = Database(f"sqlite:///{tmp_path / 'm.db'}")
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def world(lone_db: Database) -> Iterator[World]:
    made = World(lone_db)
    yield made
    made.close()


@pytest.fixture
def each_world(db: Database) -> Iterator[World]:
    """On both databases."""
    made = World(db)
    yield made
    made.close()
