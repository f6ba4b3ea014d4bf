"""Clients in a process of their own: keep-alive connections, one request at a time each, every latency kept.

Started by `measure`; raw sockets under asyncio, so that the client costs as little of the machine as it can.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from benchmarks._report import ROOT
from benchmarks._server import KEY, NAMESPACE


@dataclass
class Load:
    """What clients saw."""

    latencies_ms: list[float]
    errors: int
    wall_s: float
    answers: list[Any]
    """`[query number, [result number, …]]` of the first answer to each query, where asked for."""


class Clients:
    """A running client process. `result` waits for its end; with `until` given it ends when that file appears."""

    def __init__(self, spec: dict[str, Any], bodies: list[bytes]) -> None:
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        (folder / "bodies").write_bytes(orjson.dumps([body.decode() for body in bodies]))
        (folder / "spec").write_bytes(orjson.dumps(spec))
        self._process = subprocess.Popen([sys.executable, "-m", "benchmarks._load", str(folder)], cwd=ROOT)

    def stop(self) -> None:
        (Path(self._folder.name) / "stop").touch()

    def result(self) -> Load:
        with self._folder:
            if self._process.wait() != 0:
                raise RuntimeError("the clients failed; their message is above")
            return Load(**json.loads((Path(self._folder.name) / "result").read_text()))


def start(url: str, path: str, bodies: list[bytes], *, clients: int, requests: int = 0, keep: bool = False) -> Clients:
    """Clients that send `bodies` in turn until `requests` are answered, or until `stop`."""
    spec = {"url": url, "path": path, "clients": clients, "requests": requests, "keep": keep}
    return Clients(spec, bodies)


def measure(url: str, path: str, bodies: list[bytes], *, clients: int, requests: int = 0, keep: bool = False) -> Load:
    """The same, waited for."""
    return start(url, path, bodies, clients=clients, requests=requests, keep=keep).result()


class _Run:
    """The other side: runs inside the client process."""

    def __init__(self, folder: Path) -> None:
        spec = orjson.loads((folder / "spec").read_bytes())
        self.folder, self.where, self.path = folder, urlsplit(spec["url"]), spec["path"]
        self.clients, self.requests, self.keep = spec["clients"], spec["requests"], spec["keep"]
        self.bodies = [body.encode() for body in orjson.loads((folder / "bodies").read_bytes())]
        self.latencies: list[float] = []
        self.answers: dict[int, list[int]] = {}
        self.errors = 0
        self.sent = 0
        self.stopped = False

    async def run(self) -> None:
        watch = asyncio.create_task(self._watch())
        began = time.perf_counter()
        await asyncio.gather(*(self._client() for _ in range(self.clients)))
        wall = time.perf_counter() - began
        watch.cancel()
        result = {"latencies_ms": self.latencies, "errors": self.errors, "wall_s": wall}
        result["answers"] = sorted(self.answers.items())
        (self.folder / "result").write_text(json.dumps(result))

    async def _watch(self) -> None:
        while not (self.folder / "stop").exists():  # noqa: ASYNC110 (another process makes the file)
            await asyncio.sleep(0.02)
        self.stopped = True

    def _next(self) -> int | None:
        if self.stopped or (self.requests and self.sent >= self.requests):
            return None
        self.sent += 1
        return (self.sent - 1) % len(self.bodies)

    async def _client(self) -> None:
        reader, writer = await asyncio.open_connection(self.where.hostname, self.where.port)
        while (number := self._next()) is not None:
            began = time.perf_counter()
            writer.write(self._request(self.bodies[number]))
            status, body = await _response(reader)
            self.latencies.append((time.perf_counter() - began) * 1e3)
            if status != 200:
                self.errors += 1
            elif self.keep and number not in self.answers:
                self.answers[number] = [row["number"] for row in orjson.loads(body)["documents"]]
        writer.close()

    def _request(self, body: bytes) -> bytes:
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: {self.where.netloc}\r\nAuthorization: Bearer {KEY}\r\n"
            f"X-Namespace: {NAMESPACE}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


async def _response(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head[9:12])
    at = head.lower().index(b"content-length:")
    length = int(head[at + 15 : head.index(b"\r\n", at)])
    return status, await reader.readexactly(length)


if __name__ == "__main__":
    import uvloop

    uvloop.run(_Run(Path(sys.argv[1])).run())
