"""A real HTTP/1.1 server that keeps connections open; a test decides what it answers, attempt by attempt."""

from __future__ import annotations

import http.server
import json
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Got:
    """A request that arrived; `attempt` counts those with the same message id from 1."""

    path: str
    headers: dict[str, str]
    body: bytes
    attempt: int

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message_id(self) -> str:
        return self.headers.get("webhook-id", "")


@dataclass(frozen=True)
class Reply:
    status: int = 200
    body: bytes = b"ok"
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    drip_s: float = 0.0
    """Pause between the bytes of the body."""
    close: bool = False
    """Hang up without an answer."""


class Receiver:
    def __init__(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.answer: Callable[[Got], Reply] = lambda got: Reply()
        self.got: list[Got] = []
        self.connections = 0
        self.busy = self.busiest = 0
        self._attempts: Counter[str] = Counter()
        self._lines: list[socket.socket] = []
        self._lock = threading.Lock()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                receiver.connections += 1
                receiver._lines.append(self.connection)

            def do_POST(self) -> None:
                receiver.serve(self)

            do_GET = do_PUT = do_POST

            def log_message(self, *args: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *args: object) -> None:
                pass

        self._server = Server(("127.0.0.1", port), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def serve(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        with self._lock:
            self.busy += 1
            self.busiest = max(self.busiest, self.busy)
        try:
            length = int(handler.headers.get("content-length", 0))
            body = handler.rfile.read(length)
            if len(body) < length:  # whoever sent it was killed in the middle
                handler.close_connection = True
                return
            headers = {name.lower(): value for name, value in handler.headers.items()}
            with self._lock:
                self._attempts[headers.get("webhook-id", "")] += 1
                got = Got(handler.path, headers, body, self._attempts[headers.get("webhook-id", "")])
                self.got.append(got)
            self._send(handler, self.answer(got))
        finally:
            with self._lock:
                self.busy -= 1

    def _send(self, handler: http.server.BaseHTTPRequestHandler, reply: Reply) -> None:
        time.sleep(reply.delay_s)
        if reply.close:
            handler.close_connection = True
            return
        handler.send_response(reply.status)
        for name, value in {"content-length": str(len(reply.body)), **reply.headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if not reply.drip_s:
            handler.wfile.write(reply.body)
            return
        for byte in reply.body:
            handler.wfile.write(bytes([byte]))
            time.sleep(reply.drip_s)

    @property
    def ids(self) -> list[str]:
        return [got.message_id for got in self.got]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        for line in self._lines:
            with suppress(OSError):  # the other side was faster
                line.shutdown(socket.SHUT_RDWR)


@contextmanager
def a_receiver(port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    receiver = Receiver(port, tls)
    try:
        yield receiver
    finally:
        receiver.close()
