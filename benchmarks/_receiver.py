"""A receiver of webhooks in a process of its own: `python -m benchmarks._receiver SHARE` fails that share of requests.

It prints its port. `GET /` tells how many requests came, and the ids of messages that were answered with 200.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks._report import ROOT


class Receiver(asyncio.Protocol):
    """As little of HTTP/1.1 as a keep-alive client needs."""

    requests = 0
    ids: list[str]

    def __init__(self, share: float, ids: list[str], chance: random.Random) -> None:
        self._share, self._ids, self._chance = share, ids, chance
        self._held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._held += data
        while (end := self._held.find(b"\r\n\r\n")) >= 0:
            lines = self._held[:end].decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            length = end + 4 + int(headers.get("content-length", 0))
            if len(self._held) < length:
                return
            self._held = self._held[length:]
            self._answer(lines[0], headers)

    def _answer(self, first: str, headers: dict[str, str]) -> None:
        if first.startswith("GET"):
            body = json.dumps({"requests": Receiver.requests, "ids": self._ids}).encode()
            self._write(b"200 OK", body)
            return
        Receiver.requests += 1
        if self._chance.random() < self._share:
            self._write(b"503 Busy", b"later")
        else:
            self._ids.append(headers["webhook-id"])
            self._write(b"200 OK", b"ok")

    def _write(self, status: bytes, body: bytes) -> None:
        self._transport.write(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body))


async def _serve(share: float) -> None:
    ids: list[str] = []
    chance = random.Random(7)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Receiver(share, ids, chance), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


class Remote:
    """A receiver in its own process, from outside."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def told(self) -> dict[str, Any]:
        with urllib.request.urlopen(self.url, timeout=30) as answer:
            told: dict[str, Any] = json.loads(answer.read())
            return told


@contextmanager
def receiver(share: float = 0.0) -> Iterator[Remote]:
    """A receiver that fails this share of requests."""
    command = [sys.executable, "-m", "benchmarks._receiver", str(share)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Remote(int(process.stdout.readline()))
        finally:
            process.kill()


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1])))
