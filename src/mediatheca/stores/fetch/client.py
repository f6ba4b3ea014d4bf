"""The client for single files and requests.

A host is resolved once, every address is checked (see `guard`), and the connection goes to a checked address
while TLS and the Host header keep the name: a name that changes its address in between (DNS rebinding) gains nothing.
Redirects start over. Size (after decompression), time, redirects and media type are bounded.
"""

from __future__ import annotations

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
from mediatheca.stores.fetch import body as bodies
from mediatheca.stores.fetch.guard import SETTING, AllowList, Guard, Resolve, system_resolve
from mediatheca.stores.fetch.pinned import Pinned
from mediatheca.stores.fetch.url import check_url, host_of, origin_of, port_of, redirected

MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TRANSIENT = frozenset({408, 425, 429})
_SAFE_ELSEWHERE = frozenset({"accept", "accept-language", "content-type"})
"""The headers that a redirect to another host keeps: any other may be a credential."""
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
                url = redirected(target, answer)
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
                following = steer(check_url(redirected(target, got["location"])))
                if response.status not in (307, 308) and method not in ("GET", "HEAD"):
                    method, body = "GET", b""
                    sent.pop("content-type", None)
                if origin_of(following) != origin_of(target):
                    sent = {name: value for name, value in sent.items() if name in _SAFE_ELSEWHERE}
                target = following
        raise BadRequestError(f"url: more than {MAX_REDIRECTS} redirects; give the final address")

    @property
    def tls(self) -> ssl.SSLContext:
        """How certificates are checked."""
        return self._tls

    def named(self, url: httpx.URL) -> bool:
        """Whether the operator named this host, or its address, in the allow-list."""
        return self._guard.named(host_of(url), port_of(url))

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
            self._addresses(host_of(target), port_of(target), time.monotonic() + timeout_s)

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
        host = host_of(target)
        addresses = self._addresses(host, port_of(target), deadline)
        own = [
            (b"host", target.netloc),
            (b"user-agent", _USER_AGENT.encode()),
            (b"accept-encoding", b"gzip, deflate"),
            (b"connection", b"close"),
        ]
        given = {name for name, _ in headers}
        with (
            httpcore.ConnectionPool(
                ssl_context=self._tls,
                max_connections=1,
                network_backend=Pinned(lambda *_: addresses, lambda _: _left(deadline)),
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


def check_encrypted(fetcher: Fetcher, target: httpx.URL) -> None:
    """Messages go over TLS, except to hosts that the operator named.

    Raises:
        ValidationError: this one would not.
    """
    if target.scheme == "http" and not fetcher.named(target):
        host = target.raw_host.decode("ascii")
        message = f"must begin with https://; the operator can allow http to '{host}' in {SETTING}"
        raise ValidationError.at("url", message, "url_refused")


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
    told = bodies.told_type(headers.get("content-type", ""))
    if told is not None:
        bodies.check_type(told, accept)
    encoding = headers.get("content-encoding", "")
    if not encoding and bodies.told_size(headers.get("content-length", "")) > max_bytes:
        raise bodies.too_large(max_bytes)
    pieces = bodies.decoded(response.iter_stream(), encoding)
    head = bodies.bounded(pieces, max_bytes) if into is None else bodies.written(pieces, into, max_bytes)
    kind = told or bodies.sniffed(head)
    bodies.check_type(kind, accept)
    name = bodies.filename(headers.get("content-disposition", ""), target.path)
    return Fetched(head if into is None else b"", kind, str(target), name)


def _answered(target: httpx.URL, response: httpcore.Response, headers: httpx.Headers, max_bytes: int) -> Answered:
    data = bodies.bounded(bodies.decoded(response.iter_stream(), headers.get("content-encoding", "")), max_bytes)
    kind = bodies.told_type(headers.get("content-type", "")) or ""
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


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("the time is up")
    return left
