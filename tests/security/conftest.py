"""A real server for the tests of hostile requests."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from mediatheca.app import App
from mediatheca.settings import Settings
from server import Server, Tenant, new_tenant


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(Settings(data_dir=tmp_path_factory.mktemp("data"), workers=1, log_level="error"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def app(served: Server) -> App:
    return served.app


@pytest.fixture
def tenant(served: Server) -> Tenant:
    """A new organization."""
    return new_tenant(served)


@pytest.fixture
def key(tenant: Tenant) -> str:
    """Its admin key."""
    return tenant.key


@pytest.fixture
def client(tenant: Tenant) -> Iterator[httpx.Client]:
    """An admin in the namespace `main` of a new organization."""
    with tenant.client("main") as made:
        assert made.post("/v1/namespaces", json={"namespace_name": "main"}).status_code == 200
        yield made
