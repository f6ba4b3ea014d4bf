"""A real server beside a real S3 server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sync_world import SyncWorld

from mediatheca.settings import Settings
from s3_server import s3_server
from server import Server


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("s3")) as url:
        yield url


@pytest.fixture(scope="session")
def syncing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """It may ask this machine, as a test's store is here."""
    folder = tmp_path_factory.mktemp("syncs")
    made = Server(Settings(data_dir=folder, workers=1, fetch_allow="127.0.0.1/32", log_level="error", max_upload_mb=1))
    yield made
    made.close()


@pytest.fixture
def world(syncing: Server, s3_endpoint: str) -> Iterator[SyncWorld]:
    """A new organization with a bucket, and an empty folder of its own at the store."""
    made = SyncWorld(syncing, s3_endpoint)
    yield made
    made.close()
