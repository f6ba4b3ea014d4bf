"""A real server for the tests of hostile requests."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from automation_world import Automated

from mediatheca.app import App
from mediatheca.settings import Settings
from outside_site import Reply, Site, a_site
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


@pytest.fixture(scope="session")
def receiver() -> Iterator[Site]:
    """A site on this machine that takes messages at `/hook`."""
    with a_site() as made:
        made.routes["/hook"] = Reply({"ok": True})
        yield made


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory, receiver: Site) -> Iterator[Server]:
    """A server that may ask the receiver, and nothing else on this machine."""
    folder = tmp_path_factory.mktemp("guarded")
    made = Server(Settings(data_dir=folder, workers=1, log_level="error", fetch_allow=receiver.host))
    yield made
    made.close()


@pytest.fixture(scope="session")
def home(guarded: Server) -> Iterator[Automated]:
    """An organization with one of everything that works by itself."""
    made = Automated(guarded)
    yield made
    made.close()


@pytest.fixture(scope="session")
def abroad(guarded: Server) -> Iterator[Automated]:
    """Another one that has the very same."""
    made = Automated(guarded)
    yield made
    made.close()
