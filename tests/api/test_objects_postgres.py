"""The same behaviour on PostgreSQL, where writers do not queue: objects, keys and their races."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sqlalchemy import create_engine, text
from test_objects import *  # noqa: F403
from test_objects_bulk import *  # noqa: F403
from test_organizations import *  # noqa: F403

from mediatheca.settings import Settings
from server import Server


@pytest.fixture(scope="module")
def server(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on a database of its own."""
    engine = create_engine(
        postgres_url.replace("postgresql://", "postgresql+psycopg://", 1), isolation_level="AUTOCOMMIT"
    )
    name = f"api_{uuid.uuid4().hex}"  # the module may be begun twice
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    url = urlsplit(postgres_url)._replace(path=f"/{name}").geturl()
    folder: Path = tmp_path_factory.mktemp("postgres-data")
    settings = Settings(data_dir=folder, database_url=url, workers=1, fetch_allow="127.0.0.1/32", log_level="error")
    made = Server(settings)
    yield made
    made.close()
