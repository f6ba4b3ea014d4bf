"""Fixtures of the whole suite."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
import structlog
from sqlalchemy import text

from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.tables import metadata

# Examples are the same in every run, and none fails because the machine was busy while it was tried.
hypothesis.settings.register_profile(
    "steady", derandomize=True, database=None, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("steady")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes do not name a test: an archive holds the time it was made at, and processes must agree on the names."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session", autouse=True)
def _logs() -> None:
    """Without the locals of every frame, which structlog shows where nobody configured it: that can take a minute."""
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
    )


@pytest.fixture(scope="session", autouse=True)
def _patience() -> None:
    """Five seconds are what httpx waits where nobody says; a busy machine may need longer for an answer."""
    for phase in ("connect", "read", "write", "pool"):
        setattr(httpx._config.DEFAULT_TIMEOUT_CONFIG, phase, 120.0)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server of this test process; `MEDIATHECA_TEST_POSTGRES_URL` names another one instead."""
    given = os.environ.get("MEDIATHECA_TEST_POSTGRES_URL")
    if given:
        yield given
        return
    with warnings.catch_warnings():  # it would rather have a runtime directory of a logged-in user
        warnings.simplefilter("ignore")
        import pgserver

    folder = Path(tempfile.mkdtemp(prefix="mediatheca-pg-"))
    server = _started(pgserver, folder)
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def _started(pgserver: Any, folder: Path) -> Any:
    """It gives PostgreSQL ten seconds to start, which a busy machine may not have: what was begun goes on, and is found
    the next time."""
    for _ in range(20):
        try:
            return pgserver.get_server(str(folder), cleanup_mode="delete")
        except (subprocess.TimeoutExpired, AssertionError):
            pgserver.PostgresServer._instances.pop(folder.resolve(), None)
            time.sleep(3)
    raise AssertionError("PostgreSQL did not start within minutes")


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
