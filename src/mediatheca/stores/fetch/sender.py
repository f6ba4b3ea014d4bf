"""The guarded client for many small messages to few hosts: connections are kept, redirects are not followed.

Guarded as `client`: a host's addresses are checked, and a connection goes to one of them. Names are resolved
again after half a minute; a kept connection to an address that is no longer among them is closed. One event loop each.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpcore
import httpx

from mediatheca.kernel.errors import BadRequestError
from mediatheca.stores.fetch.client import Answered, Fetcher, FetchFailedError, check_encrypted
from mediatheca.stores.fetch.url import Origin, check_url, origin_of

RESOLVED_S = 30.0
"""How long the addresses behind a name are believed."""
IDLE_S = 30.0
MAX_IDLE = 256
"""Connections kept open without work, over all hosts; the one that waits longest is closed first."""
MAX_NAMES = 4096
_RESOLVERS = 64
_BROKEN = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.ConnectionNotAvailable)


@dataclass(eq=False, slots=True)
class _Line:
    """A connection, and where it goes."""

    http: httpcore.AsyncHTTP11Connection
    origin: Origin
    address: str
    used: bool = False


class Sender:
    """Sends requests and keeps the connections. Not thread-safe: it belongs to the loop that uses it."""

    def __init__(self, fetcher: Fetcher, *, resolved_s: float = RESOLVED_S) -> None:
        self._fetcher = fetcher
        self._resolved_s = resolved_s
        self._idle: OrderedDict[_Line, None] = OrderedDict()
        self._names: OrderedDict[tuple[str, int], tuple[float, list[str]]] = OrderedDict()
        self._asking: dict[tuple[str, int], asyncio.Task[list[str]]] = {}
        # Many: a name that nobody answers for takes seconds, and others must not wait for it.
        self._threads = ThreadPoolExecutor(_RESOLVERS, "resolve")

    async def send(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes, timeout_s: float, max_bytes: int
    ) -> Answered:
        """One request; whatever status answers it. Of an answer longer than `max_bytes` the beginning is given.

        Raises:
            ValidationError: the URL, or where its name leads, is refused.
            FetchFailedError: no answer, or not in time.
            BadRequestError: the certificate is not valid.
        """
        target = check_url(url)
        check_encrypted(self._fetcher, target)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._send(method, target, headers, body, max_bytes)
        except TimeoutError as error:
            raise FetchFailedError(f"url: the receiver did not answer within {timeout_s:g} seconds") from error
        except ssl.SSLCertVerificationError as error:
            raise BadRequestError("url: the receiver's TLS certificate is not valid for this name") from error
        except _BROKEN as error:
            raise FetchFailedError("url: the receiver broke off, or does not speak HTTP") from error
        except OSError as error:
            raise FetchFailedError("url: the receiver cannot be reached; check the address and that it runs") from error

    async def close(self) -> None:
        """Close what is kept."""
        while self._idle:
            line, _ = self._idle.popitem()
            await line.http.aclose()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _send(
        self, method: str, target: httpx.URL, headers: Mapping[str, str], body: bytes, max_bytes: int
    ) -> Answered:
        origin = origin_of(target)
        addresses = await self._addresses(origin)
        request = _request(method, target, headers, body)
        kept = await self._kept(origin, addresses)
        if kept is not None:
            try:
                async with self._asked(kept, request) as response:
                    return await _answered(target, response, max_bytes)
            except _BROKEN:
                # The receiver closed it while it waited. The same message again is what receivers are prepared for.
                pass
        line = await self._connected(origin, addresses)
        async with self._asked(line, request) as response:
            return await _answered(target, response, max_bytes)

    @asynccontextmanager
    async def _asked(self, line: _Line, request: httpcore.Request) -> AsyncIterator[httpcore.Response]:
        """An exchange; the connection is kept where it may be used again."""
        try:
            response = await line.http.handle_async_request(request)
            try:
                yield response
            finally:
                await response.aclose()
        except BaseException:
            await line.http.aclose()
            raise
        if line.http.is_idle():
            line.used = True
            self._idle[line] = None
            if len(self._idle) > MAX_IDLE:
                oldest, _ = self._idle.popitem(last=False)
                await oldest.http.aclose()

    async def _kept(self, origin: Origin, addresses: list[str]) -> _Line | None:
        """A connection that waits, the one used last; those that may not be used any more are closed."""
        for line in [line for line in reversed(self._idle) if line.origin == origin]:
            del self._idle[line]
            if line.address in addresses and not line.http.has_expired():
                return line
            await line.http.aclose()
        return None

    async def _connected(self, origin: Origin, addresses: list[str]) -> _Line:
        scheme, host, port = origin
        tls: dict[str, Any] = {"ssl": self._fetcher.tls, "server_hostname": host} if scheme == "https" else {}
        failure: OSError | None = None
        for address in addresses:
            try:
                reader, writer = await asyncio.open_connection(address, port, **tls)
            except ssl.SSLCertVerificationError:
                raise
            except OSError as error:
                failure = error
                continue
            stream = _Stream(reader, writer)
            named = httpcore.Origin(scheme.encode(), host.encode(), port)
            return _Line(httpcore.AsyncHTTP11Connection(named, stream, IDLE_S), origin, address)
        raise failure or OSError("no address")

    async def _addresses(self, origin: Origin) -> list[str]:
        """Checked addresses of a host, from memory for a while. Who asks at the same time shares one look-up."""
        name = origin[1:]
        known = self._names.get(name)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        asking = self._asking.get(name)
        if asking is None:
            asking = self._asking[name] = asyncio.create_task(self._looked_up(name))
            asking.add_done_callback(lambda task: self._forget(name, task))
        return await asyncio.shield(asking)

    async def _looked_up(self, name: tuple[str, int]) -> list[str]:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, self._fetcher.addresses, *name)
        self._names[name] = (time.monotonic() + self._resolved_s, found)
        self._names.move_to_end(name)
        if len(self._names) > MAX_NAMES:
            self._names.popitem(last=False)
        return found

    def _forget(self, name: tuple[str, int], task: asyncio.Task[list[str]]) -> None:
        self._asking.pop(name, None)
        if not task.cancelled():
            task.exception()  # whoever waited may have gone; that is not worth a log line


def _request(method: str, target: httpx.URL, headers: Mapping[str, str], body: bytes) -> httpcore.Request:
    sent = {"host": target.netloc.decode("ascii"), "accept": "*/*", "accept-encoding": "identity"}
    sent |= {name.lower(): value for name, value in headers.items()}
    if body or method not in ("GET", "HEAD"):
        sent["content-length"] = str(len(body))
    url = httpcore.URL(scheme=target.raw_scheme, host=target.raw_host, port=target.port, target=target.raw_path)
    raw = [(name.encode(), value.encode("latin-1")) for name, value in sent.items()]
    return httpcore.Request(method, url, headers=raw, content=body)


async def _answered(target: httpx.URL, response: httpcore.Response, max_bytes: int) -> Answered:
    """The status counts; the body is for people and is cut."""
    data = bytearray()
    async for chunk in response.aiter_stream():
        data += chunk[: max_bytes - len(data)]
        if len(data) >= max_bytes:
            break
    got = httpx.Headers(response.headers)
    shown = {name: value for name, value in got.items() if name != "set-cookie"}
    kind = got.get("content-type", "").split(";")[0].strip().lower()
    return Answered(response.status, shown, bytes(data), kind, str(target))


class _Stream(httpcore.AsyncNetworkStream):
    """A connection of asyncio as httpcore wants it. Times are bounded by whoever awaits the whole exchange."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        try:
            return await self._reader.read(max_bytes)
        except OSError as error:
            raise httpcore.ReadError(str(error)) from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        try:
            self._writer.write(buffer)
            await self._writer.drain()
        except OSError as error:
            raise httpcore.WriteError(str(error)) from error

    async def aclose(self) -> None:
        # At once: nothing is left to send, and a farewell of TLS would wait for the other side's, up to half a minute.
        self._writer.transport.abort()

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":  # nothing may come while nothing was asked: the other side has closed
            return self._reader.at_eof()
        return self._writer.get_extra_info(info)
