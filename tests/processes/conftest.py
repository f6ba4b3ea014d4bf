"""Servers and workers as processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from datapath_process import ServerProcess
from datapath_shop import Shop
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A started server with chunks of ten."""
    with ServerProcess(tmp_path / "data", chunk_size=10) as made:
        yield made


@pytest.fixture
def shop(server: ServerProcess) -> Shop:
    return Shop.make(server.client())


@pytest.fixture
def database(postgres_url: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty PostgreSQL database of this test."""
    name = f"datapath_{abs(hash(request.node.nodeid)) % 10**8}"
    url = make_url(postgres_url).set(drivername="postgresql+psycopg")
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE IF EXISTS {name}"))
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield url.set(drivername="postgresql", database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()
