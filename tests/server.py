"""A real server in a thread, and organizations in it."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from dataclasses import dataclass

import httpx
import uvicorn

from mediatheca.app import App, build
from mediatheca.flows.tenancy import create_organization
from mediatheca.settings import Settings

_numbers = itertools.count(1)


class Server:
    """A composed application behind uvicorn on a free port, in a thread."""

    def __init__(self, settings: Settings) -> None:
        self.app: App = build(settings)
        self.app.start()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(self.app.asgi, log_level="critical", lifespan="off", ws="none", access_log=False)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(60)
        self._socket.close()
        self.app.close()


@dataclass
class Tenant:
    """An organization with its admin key."""

    server: Server
    organization_id: str
    email: str
    key: str

    def client(self, namespace: str | None = None, key: str | None = None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {key or self.key}"}
        if namespace:
            headers["X-Namespace"] = namespace
        return httpx.Client(base_url=self.server.url, headers=headers, timeout=120)


def new_tenant(server: Server) -> Tenant:
    number = next(_numbers)
    email = f"admin{number}@example.org"
    ident, key = create_organization(server.app.services.db, f"organization {number}", email)
    return Tenant(server, ident, email, key)
