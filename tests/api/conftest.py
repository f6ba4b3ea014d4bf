"""One real server for all API tests: every backend embedded, one extraction process. Tests own an organization each."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from documents_world import Tenant as Home
from documents_world import World
from learning_shop import Shop

from helpers import ok
from mediatheca.settings import Settings
from server import Server, Tenant, new_tenant


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("data")
    # The link-local test address is allowed so that references can point at a server of the test itself.
    made = Server(Settings(data_dir=folder, workers=1, fetch_allow="127.0.0.1/32", log_level="error"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def learning_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the model of `documents_plugins`, which embeds a text by its letters."""
    folder: Path = tmp_path_factory.mktemp("learning")
    made = Server(Settings(data_dir=folder, workers=0, plugins="documents_plugins", log_level="error"))
    yield made
    made.close()


@pytest.fixture
def shop(learning_server: Server) -> Iterator[Shop]:
    made = Shop(learning_server)
    yield made
    made.close()


@pytest.fixture
def foreign(learning_server: Server) -> Iterator[Shop]:
    """The shop of another organization."""
    made = Shop(learning_server)
    yield made
    made.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The same without a network between: the application is called directly."""
    made = World(tmp_path_factory.mktemp("documents"))
    yield made
    made.close()


@pytest.fixture
def home(world: World) -> Home:
    return world.tenant()


@pytest.fixture
def path(home: Home) -> str:
    """The documents of a new collection."""
    return f"/collections/{home.collection()}/documents"


@pytest.fixture
def tenant(server: Server) -> Tenant:
    return new_tenant(server)


@pytest.fixture
def stranger(server: Server) -> Tenant:
    """Another organization, with full rights in its own."""
    return new_tenant(server)


@pytest.fixture
def admin(tenant: Tenant) -> Iterator[httpx.Client]:
    """A client without a namespace."""
    with tenant.client() as client:
        yield client


@pytest.fixture
def namespace(admin: httpx.Client) -> str:
    return str(ok(admin.post("/v1/namespaces", json={"namespace_name": "main"}))["namespace_id"])


@pytest.fixture
def client(tenant: Tenant, namespace: str) -> Iterator[httpx.Client]:
    """A client in the namespace `main`."""
    with tenant.client(namespace) as made:
        yield made


@pytest.fixture
def bucket(client: httpx.Client) -> str:
    """A bucket with a text, an image, a price and tags; returns its id."""
    schema = {
        "properties": {
            "title": {"type": "string"},
            "text": {"type": "text"},
            "photo": {"type": "image"},
            "price": {"type": "float"},
            "tags": {"type": "array", "items": {"type": "string"}},
        }
    }
    return str(ok(client.post("/v1/buckets", json={"bucket_name": "things", "bucket_schema": schema}))["bucket_id"])


class Web:
    """A little web server on this machine: `files` maps paths to (bytes, content type)."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[bytes, str]] = {}
        self.asked: list[str] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web.asked.append(self.path)
                data, kind = web.files.get(self.path, (b"", ""))
                self.send_response(200 if kind else 404)
                self.send_header("Content-Type", kind or "text/plain")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}{path}"


@pytest.fixture
def web() -> Iterator[Web]:
    made = Web()
    yield made
    made.http.shutdown()
    made.http.server_close()
