"""A real server for the tests of hostile requests."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
import uvicorn

from mediatheca.app import App, build
from mediatheca.flows.tenancy import create_organization
from mediatheca.settings import Settings

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    made = build(Settings(data_dir=tmp_path_factory.mktemp("data"), workers=1, log_level="error"))
    made.start()
    yield made
    made.close()


@pytest.fixture(scope="session")
def url(app: App) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app.asgi, log_level="critical", lifespan="off", ws="none", access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(20)
    listener.close()


@pytest.fixture
def key(app: App) -> str:
    """The admin key of a new organization."""
    number = next(_numbers)
    return create_organization(app.services.db, f"organization {number}", f"admin{number}@example.org")[1]


@pytest.fixture
def client(url: str, key: str) -> Iterator[httpx.Client]:
    """An admin in the namespace `main` of a new organization."""
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}", "X-Namespace": "main"}) as made:
        made.timeout = httpx.Timeout(30)
        assert made.post("/v1/namespaces", json={"namespace_name": "main"}).status_code == 200
        yield made
