"""A real HTTP server on this machine whose answers a test decides, and which remembers what it was asked."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Asked:
    """A request that arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0


Route = Reply | Callable[[Asked], Reply]


class Site:
    """Routes by path without its query; `*` for every other."""

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}
        self.asked: list[Asked] = []
        self.busy = self.busiest = 0
        self._lock = threading.Lock()
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def serve(self) -> None:
                site.serve(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = serve

            def log_message(self, *args: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, *args: object) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.host}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def serve(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        with self._lock:
            self.busy += 1
            self.busiest = max(self.busiest, self.busy)
        try:
            length = int(handler.headers.get("content-length", 0))
            headers = {name.lower(): value for name, value in handler.headers.items()}
            asked = Asked(handler.command, handler.path, headers, handler.rfile.read(length))
            with self._lock:
                self.asked.append(asked)
            route = self.routes.get(handler.path.split("?")[0], self.routes.get("*", Reply(status=404)))
            self.send(handler, route(asked) if callable(route) else route)
        finally:
            with self._lock:
                self.busy -= 1

    def send(self, handler: http.server.BaseHTTPRequestHandler, reply: Reply) -> None:
        time.sleep(reply.delay_s)
        plain = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        kind = "application/octet-stream" if isinstance(reply.body, bytes) else "application/json"
        handler.close_connection = True
        handler.send_response(reply.status)
        for name, value in {"content-type": kind, **reply.headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(plain)

    def html(self, path: str, text: str, **headers: str) -> None:
        self.routes[path] = Reply(text.encode(), headers={"content-type": "text/html; charset=utf-8", **headers})

    def paths(self) -> list[str]:
        return [asked.path for asked in self.asked]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def a_site() -> Iterator[Site]:
    site = Site()
    try:
        yield site
    finally:
        site.close()
