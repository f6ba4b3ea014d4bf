"""The proxy of the browser: the guard of the fetcher on every connection, within bytes and time."""

from __future__ import annotations

import contextlib
import gc
import socket
import threading
from collections.abc import Iterator

import pytest

from mediatheca.stores.fetch import Fetcher
from mediatheca.stores.fetch.proxy import FetchProxy
from outside_site import Asked, Reply, Site, a_site


@pytest.fixture
def site() -> Iterator[Site]:
    with a_site() as made:
        yield made


@pytest.fixture
def proxy(site: Site) -> Iterator[FetchProxy]:
    made = FetchProxy(Fetcher(allow=site.host))
    yield made
    made.close()


def say(proxy: FetchProxy, text: str, then: bytes = b"") -> bytes:
    """What the proxy answers to a request, and to what follows it once it is connected."""
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=60) as line:
        line.sendall(text.replace("\n", "\r\n").encode() + b"\r\n\r\n")
        got = b""
        if then:
            got = line.recv(4096)
            line.sendall(then)
        while data := line.recv(65536):
            got += data
        return got


def test_a_named_host_is_reached_by_both_ways(proxy: FetchProxy, site: Site) -> None:
    site.html("/x", "hello")
    proxy.begin(timeout_s=60, max_bytes=1 << 20)
    plain = say(proxy, f"GET {site.url}/x?y=1 HTTP/1.1\nHost: {site.host}\nProxy-Connection: keep-alive")
    assert plain.endswith(b"hello")
    tunnel = say(proxy, f"CONNECT {site.host} HTTP/1.1\nHost: {site.host}", b"GET /x HTTP/1.0\r\n\r\n")
    assert tunnel.startswith(b"HTTP/1.1 200")
    assert tunnel.endswith(b"hello")
    assert site.paths() == ["/x?y=1", "/x"]
    assert "proxy-connection" not in site.asked[0].headers


@pytest.mark.parametrize(
    "target",
    ["127.0.0.1:1", "169.254.169.254:80", "[::1]:443", "10.0.0.1:443", "0.0.0.0:80", "localhost:22"],
)
def test_no_tunnel_leads_inside(proxy: FetchProxy, target: str) -> None:
    visit = proxy.begin(timeout_s=60, max_bytes=1 << 20)
    assert say(proxy, f"CONNECT {target} HTTP/1.1").startswith(b"HTTP/1.1 403")
    assert "refused" in next(iter(visit.refusals.values()))


def test_an_unnamed_host_is_asked_for_encryption(proxy: FetchProxy) -> None:
    proxy.begin(timeout_s=60, max_bytes=1 << 20)
    answer = say(proxy, "GET http://example.org/a?b HTTP/1.1\nHost: example.org")
    assert answer.startswith(b"HTTP/1.1 307")
    assert b"location: https://example.org/a?b\r\n" in answer


def test_nobody_is_let_through_between_visits(proxy: FetchProxy, site: Site) -> None:
    request = f"GET {site.url}/x HTTP/1.1"
    assert say(proxy, request).startswith(b"HTTP/1.1 503")
    proxy.begin(timeout_s=60, max_bytes=1 << 20)
    proxy.end()
    assert say(proxy, request).startswith(b"HTTP/1.1 503")
    assert site.asked == []


def test_bytes_are_bounded_over_all_connections(proxy: FetchProxy, site: Site) -> None:
    site.routes["*"] = Reply(b"x" * 300_000)
    visit = proxy.begin(timeout_s=60, max_bytes=400_000)
    request = f"GET {site.url}/x HTTP/1.1"
    sizes = [len(say(proxy, request)) for _ in range(3)]
    assert sizes[0] > 300_000
    assert sum(sizes) < 400_000 + 2 * 65_536 + 1_000
    assert visit.bytes_left <= 0


def test_the_end_of_a_visit_cuts_what_is_open(proxy: FetchProxy, site: Site) -> None:
    asked, over = threading.Event(), threading.Event()

    def late(_: Asked) -> Reply:
        asked.set()
        over.wait(120)
        return Reply(b"late")

    site.routes["*"] = late
    proxy.begin(timeout_s=120, max_bytes=1 << 20)

    def end() -> None:
        asked.wait(120)
        proxy.end()

    ending = threading.Thread(target=end)
    ending.start()
    try:
        assert say(proxy, f"GET {site.url}/x HTTP/1.1") == b"", "the server has not answered"
    finally:
        over.set()
        ending.join()


def test_a_server_that_never_reads_does_not_hold_the_end_of_a_visit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        host = f"127.0.0.1:{deaf.getsockname()[1]}"
        proxy = FetchProxy(Fetcher(allow=host))
        proxy.begin(timeout_s=60, max_bytes=64 << 20)
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=60) as line:
            line.sendall(f"CONNECT {host} HTTP/1.1\r\n\r\n".encode())
            assert b" 200 " in line.recv(4096)
            line.settimeout(0.5)
            with contextlib.suppress(TimeoutError):
                line.sendall(bytes(32 << 20))
            end = threading.Thread(target=proxy.end, daemon=True)
            end.start()
            end.join(60)
            assert not end.is_alive()
        proxy.close()


def test_whoever_connects_in_the_moment_of_the_end_leaves_nothing_behind(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(20):
        proxy = FetchProxy(Fetcher())
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=60):
            proxy.close()
    gc.collect()  # what is open would be warned of here
    assert "Task was destroyed" not in caplog.text


@pytest.mark.parametrize(
    "junk", ["", "hello", "GET / HTTP/1.1", "GET x:y:z HTTP/1.1", "CONNECT ä:1 HTTP/1.1", "A" * 100_000]
)
def test_junk_is_answered_with_nothing_worse_than_an_end(proxy: FetchProxy, site: Site, junk: str) -> None:
    proxy.begin(timeout_s=60, max_bytes=1 << 20)
    try:
        answer = say(proxy, junk)
    except ConnectionError:
        answer = b""
    assert not answer.startswith(b"HTTP/1.1 200")
    site.html("/x", "still there")
    assert say(proxy, f"GET {site.url}/x HTTP/1.1").endswith(b"still there")
