"""Connections of httpcore that go to checked addresses only and end by a deadline."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from typing import TypeAlias

import httpcore

Addresses: TypeAlias = Callable[[str, int], Sequence[str]]
"""(host, port) → the addresses that were checked."""
Left: TypeAlias = Callable[[float | None], float]
"""A wished limit in seconds → the seconds that a step may take. Raises httpcore.ReadTimeout when the time is up."""


class Pinned(httpcore.SyncBackend):
    """Connects to addresses that were checked, whatever the name resolves to now, and never beyond the deadline."""

    def __init__(self, addresses: Addresses, left: Left) -> None:
        self._addresses, self._left = addresses, left

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *args: object, **more: object
    ) -> httpcore.NetworkStream:
        failure: Exception = httpcore.ConnectError("no address")
        addresses = self._addresses(host, port)
        for number, address in enumerate(addresses):
            # A dead address must not use up the time of the next one.
            share = self._left(timeout) / (len(addresses) - number)
            try:
                return _Timed(super().connect_tcp(address, port, share), self._left)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


class _Timed(httpcore.NetworkStream):
    """A stream whose every step ends by one deadline, so that a server that drips bytes gains no time."""

    def __init__(self, stream: httpcore.NetworkStream, left: Left) -> None:
        self._stream, self._left = stream, left

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Timed(self._stream.start_tls(ssl_context, server_hostname, self._left(timeout)), self._left)

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)
