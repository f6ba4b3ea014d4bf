from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.tables import metadata


@pytest.fixture(params=["sqlite", "postgresql"])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty database of each kind."""
    url = f"sqlite:///{tmp_path / 'm.db'}" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    database = Database(url)
    database.migrate()
    if database.dialect == "postgresql":
        with database.system() as connection:
            connection.execute(text(f"TRUNCATE {', '.join(metadata.tables)}"))
    yield database
    database.close()
