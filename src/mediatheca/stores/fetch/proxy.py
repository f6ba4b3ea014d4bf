"""A proxy on this machine that a browser reaches the world through, with the guard of `client`.

Every name is resolved once and every address checked; the connection goes to a checked address. A plain `http:` request
is sent on to `https:`, but for hosts that the operator named. Bytes, connections and time are bounded for each visit.
It listens on loopback, and lets nobody through while no visit is under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx

from mediatheca.kernel.errors import MediathecaError, ValidationError
from mediatheca.stores.fetch.client import Fetcher
from mediatheca.stores.fetch.url import check_url, port_of

MAX_HEAD = 64 * 1024
MAX_CONNECTIONS = 400
"""Of one visit: a page of today asks a hundred times."""
MAX_AT_ONCE = 64
_STEP = 1 << 16
_CONNECT_S = 10.0
_IDLE_S = 2.0
_CLOSE_S = 1.0
"""What is written but not taken is given up after this long: a server that never reads must not hold a visit."""
_MAX_REFUSALS = 20
T = TypeVar("T")


@dataclass(slots=True)
class Visit:
    """What one visit to a page may use, and what came of it."""

    deadline: float
    """By the monotonic clock."""
    bytes_left: int
    connections_left: int = MAX_CONNECTIONS
    refusals: dict[str, str] = field(default_factory=dict)
    """Host → why it was not connected to."""

    def refuse(self, host: str, reason: str) -> None:
        if len(self.refusals) < _MAX_REFUSALS:
            self.refusals.setdefault(host, reason)


class FetchProxy:
    """Serves one visit at a time. `close` ends it and all its connections."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher
        self._visit: Visit | None = None
        self._gate = asyncio.Semaphore(MAX_AT_ONCE)
        self._open: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fetch-proxy", daemon=True)
        self._thread.start()
        self._server: asyncio.Server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0, limit=MAX_HEAD))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def begin(self, *, timeout_s: float, max_bytes: int) -> Visit:
        """Let a browser through, within these bounds."""
        self._visit = Visit(time.monotonic() + timeout_s, max_bytes)
        return self._visit

    def end(self) -> None:
        """Close what the visit still holds open."""
        self._visit = None
        self._run(self._hang_up())

    def close(self) -> None:
        self._visit = None
        self._run(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _shut(self) -> None:
        told: set[asyncio.Task[None]] = set()
        # Connections accepted a moment ago are let begin first: nobody would close them once the server is closed, or
        # if their tasks never ran.
        while held := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in self._open - told:
                task.cancel()
            told |= self._open
            await asyncio.wait(held, timeout=0.02, return_when=asyncio.FIRST_COMPLETED)
        self._server.close()
        await self._loop.shutdown_default_executor()

    async def _hang_up(self) -> None:
        held = list(self._open)
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            visit = self._visit
            if visit is None or visit.connections_left <= 0:
                async with asyncio.timeout(_IDLE_S):
                    await reader.read(MAX_HEAD)  # unread, it would reset the connection before the answer arrives
                writer.write(_answer(503, "nothing is visited now, or too much"))
                return
            visit.connections_left -= 1
            async with self._gate, asyncio.timeout_at(self._loop.time() + visit.deadline - time.monotonic()):
                await self._exchange(visit, reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            pass
        except asyncio.CancelledError:
            pass  # the visit is over; the task ends here either way
        finally:
            self._open.discard(task)
            await _closed(writer)

    async def _exchange(self, visit: Visit, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.split(b"\r\n", 1)[0].decode("ascii").split(" ")
        url = httpx.URL(f"https://{target}") if method == "CONNECT" else httpx.URL(target)
        host = url.raw_host.decode("ascii").lower()
        try:
            url = check_url(str(url))
            if (secure := self._fetcher.encrypted(url)) != url:
                writer.write(_answer(307, "encrypted only", f"location: {secure}\r\n"))
                return
            outward = await self._connected(host, port_of(url))
        except MediathecaError as error:
            visit.refuse(host, error.message)
            writer.write(_answer(403 if isinstance(error, ValidationError) else 502, error.message))
            return
        except OSError:
            visit.refuse(host, f"'{host}' cannot be reached")
            writer.write(_answer(502, "it cannot be reached"))
            return
        await _joined(visit, method, head, url, (reader, writer), outward)

    async def _connected(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to one of the checked addresses of a name."""
        failure: OSError = OSError("no address")
        for address in await asyncio.to_thread(self._fetcher.addresses, host, port, timeout_s=_CONNECT_S):
            try:
                async with asyncio.timeout(_CONNECT_S):
                    return await asyncio.open_connection(address, port)
            except (OSError, TimeoutError) as error:
                failure = OSError(str(error))
        raise failure


async def _joined(
    visit: Visit,
    method: str,
    head: bytes,
    url: httpx.URL,
    inward: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    outward: tuple[asyncio.StreamReader, asyncio.StreamWriter],
) -> None:
    """Both directions, until one side ends or the bytes are used up."""
    try:
        if method == "CONNECT":
            inward[1].write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            outward[1].write(_forwarded(method, head, url))
        async with asyncio.TaskGroup() as both:
            upward = both.create_task(_pipe(visit, inward[0], outward[1]))
            await _pipe(visit, outward[0], inward[1])
            upward.cancel()
    finally:
        await _closed(outward[1])


async def _pipe(visit: Visit, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while visit.bytes_left > 0 and (data := await source.read(_STEP)):
            visit.bytes_left -= len(data)
            sink.write(data)
            await sink.drain()


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, TimeoutError, asyncio.CancelledError):
        async with asyncio.timeout(_CLOSE_S):
            await writer.wait_closed()
    writer.transport.abort()


def _forwarded(method: str, head: bytes, url: httpx.URL) -> bytes:
    """A request to a proxy as one to the server itself; the connection serves nothing else."""
    lines = head.rstrip(b"\r\n").split(b"\r\n")[1:]
    kept = [line for line in lines if line.split(b":")[0].strip().lower() not in (b"proxy-connection", b"connection")]
    first = f"{method} {url.raw_path.decode('ascii')} HTTP/1.1".encode()
    return b"\r\n".join([first, *kept, b"connection: close", b"", b""])


def _answer(status: int, reason: str, headers: str = "") -> bytes:
    body = reason.encode("utf-8", "replace")[:500]
    start = f"HTTP/1.1 {status} -\r\n{headers}content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    return start.encode("latin-1", "replace") + body
