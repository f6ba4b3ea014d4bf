"""A world over each kind of database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from trigger_world import World

from mediatheca.stores.db.engine import Database


@pytest.fixture
def url(db: Database, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    if db.dialect == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path / 'm.db'}"


@pytest.fixture
def world(url: str, tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "data", url)
    yield made
    made.close()
