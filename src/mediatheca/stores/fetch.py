"""The one client for every URL that somebody else gave us.

A host is resolved once, every address is checked (see `fetch_guard`), and the connection goes to a checked address
while TLS and the Host header keep the name: a name that changes its address in between (DNS rebinding) gains nothing.
Redirects start over. Size (after decompression), time, redirects and media type are bounded.
"""

from __future__ import annotations

import re
import ssl
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpcore
import httpx

from mediatheca.kernel.errors import BadRequestError, MediathecaError, ValidationError
from mediatheca.stores import fetch_body
from mediatheca.stores.fetch_guard import AllowList, Guard, Resolve, system_resolve

MAX_REDIRECTS = 5
MAX_URL_LENGTH = 8192
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TRANSIENT = frozenset({408, 425, 429})
_PORTS = {"http": 80, "https": 443}
_SAFE_ELSEWHERE = frozenset({"accept", "accept-language", "content-type"})
"""The headers that a redirect to another host keeps: any other may be a credential."""
_HOST = re.compile(r"[a-z0-9._:-]{1,253}")
_USER_AGENT = "mediatheca"


class FetchFailedError(BadRequestError):
    """The other side did not deliver; trying again later may help."""

    retryable = True


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file from a URL. `content_type` without parameters, sniffed where the server did not say."""

    data: bytes
    content_type: str
    final_url: str
    filename: str


@dataclass(frozen=True, slots=True)
class Answered:
    """Any answer, whatever its status. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    data: bytes
    content_type: str
    final_url: str


class Fetcher:
    """Fetches URLs; thread-safe. `allow` is the comma list of `MEDIATHECA_FETCH_ALLOW`.

    `resolve` and `tls` replace the system's resolver and the default certificate check (certifi, or the file that
    `SSL_CERT_FILE` names). Proxies of the environment are not used: they would resolve names by themselves.

    Raises:
        ValidationError: `allow` has an entry that is neither host, suffix, address nor CIDR.
    """

    def __init__(
        self, allow: str = "", *, resolve: Resolve = system_resolve, tls: ssl.SSLContext | None = None
    ) -> None:
        self._guard = Guard(AllowList.parse(allow), resolve)
        self._tls = tls or httpx.create_ssl_context()

    def fetch(self, url: str, *, max_bytes: int, timeout_s: float, accept: Collection[str] = ()) -> Fetched:
        """GET a file.

        `accept`: media types (`image/png`) and prefixes (`image/`); empty takes all. `timeout_s` is for everything
        together: names, connections, redirects, body.

        Raises:
            ValidationError: the URL, or where it leads, is refused; the message names the rule and the setting.
            PayloadTooLargeError: more than `max_bytes`, counted after decompression.
            FetchFailedError: no answer, not in time, or a temporary error of the server.
            BadRequestError: another status than 200, a wrong media type, a broken body, too many redirects.
        """
        return self._fetch(url, None, max_bytes, timeout_s, accept)

    def fetch_file(self, url: str, path: Path, *, max_bytes: int, timeout_s: float) -> Fetched:
        """`fetch` into a file, never whole in memory; the `data` of the answer is empty. Also raises OSError: the file
        cannot be written."""
        return self._fetch(url, path, max_bytes, timeout_s, ())

    def _fetch(self, url: str, into: Path | None, max_bytes: int, timeout_s: float, accept: Collection[str]) -> Fetched:
        deadline = time.monotonic() + timeout_s
        with _explained(timeout_s):
            for _ in range(MAX_REDIRECTS + 1):
                target = check_url(url)
                answer = self._get(target, deadline, max_bytes, accept, into)
                if isinstance(answer, Fetched):
                    return answer
                url = _joined(target, answer)
        raise BadRequestError(f"url: more than {MAX_REDIRECTS} redirects; give the address of the file itself")

    def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes,
        max_bytes: int,
        timeout_s: float,
        steer: Callable[[httpx.URL], httpx.URL] = lambda target: target,
    ) -> Answered:
        """Any request; whatever status answers it.

        `steer` sees every address before it is asked, redirects too: it gives the one to ask, or raises. A redirect to
        another origin loses the headers that may hold credentials; 301 to 303 become GET, as browsers do.

        Raises:
            ValidationError: the URL, or where it leads, is refused.
            PayloadTooLargeError: more than `max_bytes`, counted after decompression.
            FetchFailedError: no answer, or not in time.
            BadRequestError: a broken body, too many redirects.
        """
        deadline = time.monotonic() + timeout_s
        sent = {name.lower(): value for name, value in headers.items()}
        with _explained(timeout_s):
            target = steer(check_url(url))
            for _ in range(MAX_REDIRECTS + 1):
                raw = [(name.encode(), value.encode("latin-1")) for name, value in sent.items()]
                with self._exchange(method, target, raw, body, deadline) as response:
                    got = httpx.Headers(response.headers)
                    if response.status not in _REDIRECTS or "location" not in got:
                        return _answered(target, response, got, max_bytes)
                following = steer(check_url(_joined(target, got["location"])))
                if response.status not in (307, 308) and method not in ("GET", "HEAD"):
                    method, body = "GET", b""
                    sent.pop("content-type", None)
                if _origin(following) != _origin(target):
                    sent = {name: value for name, value in sent.items() if name in _SAFE_ELSEWHERE}
                target = following
        raise BadRequestError(f"url: more than {MAX_REDIRECTS} redirects; give the final address")

    @property
    def tls(self) -> ssl.SSLContext:
        """How certificates are checked."""
        return self._tls

    def named(self, url: httpx.URL) -> bool:
        """Whether the operator named this host, or its address, in the allow-list."""
        return self._guard.named(_host(url), _port(url))

    def encrypted(self, url: httpx.URL) -> httpx.URL:
        """The address with `https:` for `http:`, unless the operator named the host."""
        if url.scheme == "http" and not self.named(url):
            return url.copy_with(scheme="https", port=None if url.port in (None, 80) else url.port)
        return url

    def addresses(self, host: str, port: int, *, timeout_s: float = 5.0) -> list[str]:
        """The checked addresses behind a name, for a connection that speaks another protocol than HTTP.

        Raises:
            ValidationError: the port or an address is refused.
            FetchFailedError: the name does not resolve.
        """
        with _explained(timeout_s):
            return self._addresses(host, port, time.monotonic() + timeout_s)

    def check(self, url: str, *, timeout_s: float = 5.0) -> None:
        """Refuse now a URL that `fetch` would refuse later; does not connect.

        Raises:
            ValidationError: the URL, or where its name leads, is refused.
            FetchFailedError: the name does not resolve.
        """
        with _explained(timeout_s):
            target = check_url(url)
            self._addresses(_host(target), _port(target), time.monotonic() + timeout_s)

    def _get(
        self, target: httpx.URL, deadline: float, max_bytes: int, accept: Collection[str], into: Path | None
    ) -> Fetched | str:
        """One request: the file, or where a redirect leads."""
        wanted = (b"accept", (", ".join(_accept_header(accept)) or "*/*").encode())
        with self._exchange("GET", target, [wanted], b"", deadline) as response:
            headers = httpx.Headers(response.headers)
            if response.status in _REDIRECTS and "location" in headers:
                return headers["location"]
            _check_status(response.status)
            return _read(target, response, headers, max_bytes, accept, into)

    @contextmanager
    def _exchange(
        self, method: str, target: httpx.URL, headers: list[tuple[bytes, bytes]], body: bytes, deadline: float
    ) -> Iterator[httpcore.Response]:
        """One request to a checked address; the answer's body is still to be read."""
        host = _host(target)
        addresses = self._addresses(host, _port(target), deadline)
        own = [
            (b"host", target.netloc),
            (b"user-agent", _USER_AGENT.encode()),
            (b"accept-encoding", b"gzip, deflate"),
            (b"connection", b"close"),
        ]
        given = {name for name, _ in headers}
        with (
            httpcore.ConnectionPool(
                ssl_context=self._tls, max_connections=1, network_backend=_Pinned(addresses, deadline)
            ) as pool,
            pool.stream(
                method,
                httpcore.URL(scheme=target.raw_scheme, host=host.encode(), port=target.port, target=target.raw_path),
                headers=[*(pair for pair in own if pair[0] not in given), *headers],
                content=body or None,
            ) as response,
        ):
            yield response

    def _addresses(self, host: str, port: int, deadline: float) -> list[str]:
        """Resolve in a thread of its own: `getaddrinfo` knows no timeout."""
        outcome: list[list[str] | Exception] = []

        def resolve() -> None:
            try:
                outcome.append(self._guard.addresses(host, port))
            except Exception as error:
                outcome.append(error)

        thread = threading.Thread(target=resolve, name="fetch-resolve", daemon=True)
        thread.start()
        thread.join(max(deadline - time.monotonic(), 0))
        if not outcome:
            raise httpcore.ConnectTimeout
        answer = outcome[0]
        if isinstance(answer, MediathecaError):
            raise answer
        if isinstance(answer, Exception):
            raise FetchFailedError(f"url: the name '{host}' cannot be resolved; check its spelling") from answer
        return answer


def check_url(url: str) -> httpx.URL:
    """Parse a URL that may be fetched; its fragment is dropped.

    Raises:
        ValidationError: not http or https, no host, credentials inside, too long, or no URL at all.
    """
    if len(url) > MAX_URL_LENGTH:
        raise _bad_url(f"must have at most {MAX_URL_LENGTH} characters, got {len(url)}")
    try:
        parsed = httpx.URL(url).copy_with(fragment=None)
        host = _host(parsed)
        if not 0 <= _port(parsed) <= 65535:
            raise ValueError(f"there is no port {parsed.port}")
    except (httpx.InvalidURL, ValueError, TypeError) as error:
        raise _bad_url(f"'{url[:200]}' is not a URL: {error}") from error
    if parsed.scheme not in _PORTS:
        raise _bad_url(f"'{url[:200]}' must begin with http:// or https://")
    if not _HOST.fullmatch(host):
        raise _bad_url(f"'{url[:200]}' names no host that can be looked up")
    if parsed.userinfo:
        raise _bad_url("must not hold a user name or password; use a signed URL, or a connection with credentials")
    return parsed


def _joined(base: httpx.URL, location: str) -> str:
    try:
        return str(base.join(location))
    except (httpx.InvalidURL, ValueError) as error:
        raise _bad_url(f"it redirects to '{location[:200]}', which is not a URL") from error


def _bad_url(message: str) -> ValidationError:
    return ValidationError.at("url", message, "url")


def _host(url: httpx.URL) -> str:
    """The name in its ASCII form, without the dot that may end it."""
    return url.raw_host.decode("ascii").lower().rstrip(".")


def _port(url: httpx.URL) -> int:
    return url.port if url.port is not None else _PORTS.get(url.scheme, 0)


def _origin(url: httpx.URL) -> tuple[str, str, int]:
    return url.scheme, _host(url), _port(url)


def _accept_header(accept: Collection[str]) -> Iterator[str]:
    for kind in sorted(accept):
        yield f"{kind}*" if kind.endswith("/") else kind


def _check_status(status: int) -> None:
    if status == 200:
        return
    if status in _TRANSIENT or status >= 500:
        raise FetchFailedError(f"url: the server answered with status {status}; try again later")
    raise BadRequestError(
        f"url: the server answered with status {status}, not with a file; check that the URL opens without signing in"
    )


def _read(
    target: httpx.URL,
    response: httpcore.Response,
    headers: httpx.Headers,
    max_bytes: int,
    accept: Collection[str],
    into: Path | None,
) -> Fetched:
    told = fetch_body.told_type(headers.get("content-type", ""))
    if told is not None:
        fetch_body.check_type(told, accept)
    encoding = headers.get("content-encoding", "")
    length = headers.get("content-length", "")
    if not encoding and length.isascii() and length.isdigit() and len(length) < 19 and int(length) > max_bytes:
        raise fetch_body.too_large(max_bytes)
    pieces = fetch_body.decoded(response.iter_stream(), encoding)
    head = fetch_body.bounded(pieces, max_bytes) if into is None else fetch_body.written(pieces, into, max_bytes)
    kind = told or fetch_body.sniffed(head)
    fetch_body.check_type(kind, accept)
    name = fetch_body.filename(headers.get("content-disposition", ""), target.path)
    return Fetched(head if into is None else b"", kind, str(target), name)


def _answered(target: httpx.URL, response: httpcore.Response, headers: httpx.Headers, max_bytes: int) -> Answered:
    data = fetch_body.bounded(
        fetch_body.decoded(response.iter_stream(), headers.get("content-encoding", "")), max_bytes
    )
    kind = fetch_body.told_type(headers.get("content-type", "")) or ""
    shown = {name: value for name, value in headers.items() if name != "set-cookie"}
    return Answered(response.status, shown, data, kind, str(target))


@contextmanager
def _explained(timeout_s: float) -> Iterator[None]:
    """Turn what the network says into our errors, without what an inner server may have answered."""
    try:
        yield
    except httpcore.TimeoutException as error:
        raise FetchFailedError(f"url: not fetched within {timeout_s:g} seconds; try again or use an upload") from error
    except (httpcore.ConnectError, ssl.SSLError) as error:
        if "CERTIFICATE" in str(error).upper():
            raise BadRequestError("url: the server's TLS certificate is not valid for this name") from error
        raise FetchFailedError("url: the server cannot be reached; check the address, try again later") from error
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.ConnectionNotAvailable) as error:
        raise FetchFailedError("url: the server broke off or does not speak HTTP; try again later") from error


class _Pinned(httpcore.SyncBackend):
    """Connects to addresses that were checked, whatever the name resolves to now, and never beyond the deadline."""

    def __init__(self, addresses: list[str], deadline: float) -> None:
        self._addresses, self._deadline = addresses, deadline

    def connect_tcp(self, host: str, port: int, *args: object, **more: object) -> httpcore.NetworkStream:
        failure: Exception = httpcore.ConnectError("no address")
        for number, address in enumerate(self._addresses):
            # A dead address must not use up the time of the next one.
            share = _left(self._deadline) / (len(self._addresses) - number)
            try:
                return _Timed(super().connect_tcp(address, port, share), self._deadline)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


class _Timed(httpcore.NetworkStream):
    """A stream whose every step ends at one deadline, so that a server that drips bytes gains no time."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(self._deadline))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(self._deadline))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, _left(self._deadline))
        return _Timed(stream, self._deadline)

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("the time is up")
    return left
