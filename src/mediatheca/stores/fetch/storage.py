"""The guarded client for stores that are read by the thousand: connections are kept, bodies go into files.

Guarded as `client`: whenever a connection is opened, the name is resolved, every address is checked, and the
connection goes to one that was checked. Redirects are not followed. Every request has one deadline for all of it.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpcore

from mediatheca.connectors import Reply
from mediatheca.kernel.errors import BadRequestError, PayloadTooLargeError
from mediatheca.stores.fetch.body import told_size
from mediatheca.stores.fetch.client import Fetcher, FetchFailedError, check_encrypted
from mediatheca.stores.fetch.pinned import Pinned
from mediatheca.stores.fetch.url import check_url, host_of

ANSWER_S = 60.0
"""For a request with a small answer."""
MAX_ANSWER = 16 << 20
SLOWEST = 64 << 10
"""Bytes a second: a download that is slower on the whole is given up."""
_STEP_S = 30.0
_RESOLVE_S = 5.0
_IDLE_S = 20.0
_BROKEN = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.ConnectionNotAvailable)


class StorageHttp:
    """What connectors reach the world with; see `mediatheca.connectors.Http`. Thread-safe.

    `stop`: when it is set, downloads end with an error.
    """

    def __init__(self, fetcher: Fetcher, *, connections: int = 32, stop: threading.Event | None = None) -> None:
        self._fetcher = fetcher
        self._stop = stop or threading.Event()
        self._clock = _Clock()
        self._pool = httpcore.ConnectionPool(
            ssl_context=fetcher.tls,
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=_IDLE_S,
            network_backend=Pinned(self._addresses, self._clock.left),
        )

    def __enter__(self) -> StorageHttp:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.close()

    def _addresses(self, host: str, port: int) -> list[str]:
        return self._fetcher.addresses(host, port, timeout_s=self._clock.left(_RESOLVE_S))

    def send(self, method: str, url: str, *, headers: Mapping[str, str], body: bytes = b"") -> Reply:
        with self._asked(method, url, headers, body, ANSWER_S) as response:
            return _small(response)

    def download(self, url: str, *, headers: Mapping[str, str], target: Path, max_bytes: int) -> Reply:
        with self._asked("GET", url, headers, b"", ANSWER_S + max_bytes / SLOWEST) as response:
            if response.status != 200:
                return _small(response)
            got = _headers(response)
            if told_size(got.get("content-length", "")) > max_bytes:
                raise _too_large(max_bytes)
            written = 0
            with target.open("wb") as file:
                for piece in response.iter_stream():
                    written += len(piece)
                    if written > max_bytes:
                        raise _too_large(max_bytes)
                    if self._stop.is_set():
                        raise FetchFailedError("the server is being stopped; the file is read again later")
                    file.write(piece)
            return Reply(response.status, got)

    @contextmanager
    def _asked(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, timeout_s: float
    ) -> Iterator[httpcore.Response]:
        target = check_url(url)
        check_encrypted(self._fetcher, target)
        parts = urlsplit(url)  # not what httpx makes of it: a signature covers every byte
        address = httpcore.URL(
            scheme=target.raw_scheme,
            host=host_of(target).encode(),
            port=target.port,
            target=((parts.path or "/") + (f"?{parts.query}" if parts.query else "")).encode("ascii"),
        )
        sent = {"host": parts.netloc, "user-agent": "mediatheca", "accept-encoding": "identity", **headers}
        if body or method not in ("GET", "HEAD"):
            sent["content-length"] = str(len(body))
        raw = [(name.encode("ascii"), value.encode("latin-1")) for name, value in sent.items()]
        limits = {"connect": _STEP_S, "read": _STEP_S, "write": _STEP_S, "pool": timeout_s}
        self._clock.start(timeout_s)
        with (
            _explained(timeout_s),
            self._pool.stream(method, address, headers=raw, content=body or None, extensions={"timeout": limits})
            as response,
        ):  # fmt: skip
            yield response


def _headers(response: httpcore.Response) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("utf-8", "replace") for name, value in response.headers}


def _small(response: httpcore.Response) -> Reply:
    data = bytearray()
    for piece in response.iter_stream():
        data += piece
        if len(data) > MAX_ANSWER:
            raise PayloadTooLargeError(f"the store's answer is longer than {MAX_ANSWER >> 20} MiB; it is no listing")
    return Reply(response.status, _headers(response), bytes(data))


def _too_large(max_bytes: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(f"the file is larger than the {max_bytes:,} bytes that this server takes of one file")


@contextmanager
def _explained(timeout_s: float) -> Iterator[None]:
    """Turn what the network says into our errors, without what an inner server may have answered."""
    try:
        yield
    except httpcore.TimeoutException as error:
        raise FetchFailedError(f"the store did not answer within {timeout_s:,.0f} seconds; try again later") from error
    except (httpcore.ConnectError, ssl.SSLError) as error:
        if "CERTIFICATE" in str(error).upper():
            raise BadRequestError(
                "the store's TLS certificate is not valid for its name; check endpoint_url"
            ) from error
        raise FetchFailedError("the store cannot be reached; check endpoint_url and region, try again later") from error
    except _BROKEN as error:
        raise FetchFailedError("the store broke off or does not speak HTTP; try again later") from error


class _Clock:
    """The deadline of the request that this thread makes: a server that drips bytes gains no time by it."""

    def __init__(self) -> None:
        self._own = threading.local()

    def start(self, timeout_s: float) -> None:
        self._own.deadline = time.monotonic() + timeout_s

    def left(self, timeout_s: float | None) -> float:
        rest: float = getattr(self._own, "deadline", time.monotonic() + _STEP_S) - time.monotonic()
        if rest <= 0:
            raise httpcore.ReadTimeout("the time is up")
        return rest if timeout_s is None else min(rest, timeout_s)
