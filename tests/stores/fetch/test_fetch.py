"""The fetch client against real servers on this machine: pinning, redirects, and every way an answer can be bad."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mediatheca.kernel.errors import BadRequestError, PayloadTooLargeError, ValidationError
from mediatheca.stores.fetch import Fetcher, FetchFailedError, check_url

CERTIFICATE = Path(__file__).with_name("tls_example.pem")
"""A self-signed certificate for `tls.example` and its key, made for these tests."""
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 100
Handler = http.server.BaseHTTPRequestHandler


class Site:
    """A server whose routes are functions of the request handler."""

    def __init__(self, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self.routes: dict[str, Callable[[Handler], None]] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        site = self

        class Route(Handler):
            def do_GET(self) -> None:
                site.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                self.close_connection = True
                site.routes[self.path.split("?")[0]](self)

            def log_message(self, *args: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

            def handle_error(self, *args: object) -> None:
                pass

        self.server = Server((host, 0), Route)
        if tls:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_port
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def answer(self, path: str, body: bytes = b"", status: int = 200, **headers: str) -> None:
        def send(handler: Handler) -> None:
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.end_headers()
            handler.wfile.write(body)

        self.routes[path] = send

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.stop()


class Names:
    """A resolver that answers from a table and counts; a list of lists answers differently each time."""

    def __init__(self, **table: list[str]) -> None:
        self.table = {name.replace("_", "."): answers for name, answers in table.items()}
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        answers = self.table.get(host)
        if answers is None:
            raise socket.gaierror(-2, "Name or service not known")
        return [answers.pop(0) if len(answers) > 1 else answers[0]]


def fetch(url: str, fetcher: Fetcher | None = None, **options: object):
    fetcher = fetcher or Fetcher("127.0.0.0/8")
    return fetcher.fetch(url, **{"max_bytes": 1_000_000, "timeout_s": 60.0, **options})


# What works


def test_a_file_comes_with_its_type_address_and_name(site: Site) -> None:
    site.answer("/dir/photo.png", PNG, content_type="image/PNG; charset=binary")
    url = f"http://127.0.0.1:{site.port}/dir/photo.png?size=2#part"
    got = fetch(url, accept=["image/"])
    assert (got.data, got.content_type, got.filename) == (PNG, "image/png", "photo.png")
    assert got.final_url == url.removesuffix("#part")
    assert site.requests[0][0] == "/dir/photo.png?size=2"


def test_many_threads_share_one_fetcher(site: Site) -> None:
    site.answer("/a", b"x" * 1000, content_type="text/plain")
    fetcher, results = Fetcher("127.0.0.1"), []
    threads = [
        threading.Thread(target=lambda: results.append(fetch(f"http://127.0.0.1:{site.port}/a", fetcher).data))
        for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [b"x" * 1000] * 12


def test_ipv6_works_where_it_is_allowed() -> None:
    site = Site("::1")
    try:
        site.answer("/a", b"six", content_type="text/plain")
        url = f"http://[::1]:{site.port}/a"
        assert fetch(url, Fetcher("::1")).data == b"six"
        with pytest.raises(ValidationError, match=r"loopback|port"):
            fetch(url, Fetcher())
        with pytest.raises(ValidationError, match=r"\[::1\]:"):
            fetch(url, Fetcher())
    finally:
        site.stop()


def test_an_ipv4_mapped_address_reaches_only_what_is_allowed(site: Site) -> None:
    site.answer("/a", b"x", content_type="text/plain")
    url = f"http://[::ffff:127.0.0.1]:{site.port}/a"
    with pytest.raises(ValidationError, match="refused"):
        fetch(url, Fetcher("10.0.0.0/8"))
    assert fetch(url).data == b"x"


def test_the_next_address_is_tried_when_one_is_dead(site: Site) -> None:
    site.answer("/a", b"x", content_type="text/plain")
    fetcher = Fetcher("127.0.0.0/8", resolve=lambda host, port: ["127.0.0.2", "127.0.0.1"])
    assert fetch(f"http://two.example:{site.port}/a", fetcher).data == b"x"


def test_proxies_of_the_environment_are_not_used(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    site.answer("/a", b"x", content_type="text/plain")
    assert fetch(f"http://127.0.0.1:{site.port}/a").data == b"x"


# Pinning


def test_the_connection_goes_to_the_checked_address_and_keeps_the_name(site: Site) -> None:
    site.answer("/a", b"x", content_type="text/plain")
    names = Names(name_example=["127.0.0.1"])
    fetch(f"http://name.example:{site.port}/a", Fetcher("name.example", resolve=names))
    assert site.requests[0][1]["host"] == f"name.example:{site.port}"
    assert names.asked == ["name.example"]


def test_a_name_that_changes_its_address_is_connected_where_it_was_checked() -> None:
    good, bad = Site(), Site("127.0.0.2")
    try:
        good.answer("/a", b"good", content_type="text/plain")
        bad.answer("/a", b"secret", content_type="text/plain")
        names = Names(rebind_example=["127.0.0.1", "127.0.0.2"])
        fetcher = Fetcher("127.0.0.1", resolve=names)
        assert fetch(f"http://rebind.example:{good.port}/a", fetcher).data == b"good"
        assert len(names.asked) == 1
        with pytest.raises(ValidationError, match="refused"):
            fetch(f"http://rebind.example:{bad.port}/a", fetcher)
        assert bad.requests == []
    finally:
        good.stop()
        bad.stop()


def test_tls_checks_the_name_and_sends_it() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    seen: list[str | None] = []
    context.sni_callback = lambda sock, name, ctx: seen.append(name)
    site = Site(tls=context)
    try:
        site.answer("/a", b"safe", content_type="text/plain")
        trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
        fetcher = Fetcher("127.0.0.0/8", resolve=lambda host, port: ["127.0.0.1"], tls=trusting)
        assert fetch(f"https://tls.example.:{site.port}/a", fetcher).data == b"safe"
        assert seen == ["tls.example"]
        with pytest.raises(BadRequestError, match="certificate is not valid"):
            fetch(f"https://other.example:{site.port}/a", fetcher)
        strict = Fetcher("127.0.0.0/8", resolve=lambda host, port: ["127.0.0.1"])
        with pytest.raises(BadRequestError, match="certificate is not valid"):
            fetch(f"https://tls.example:{site.port}/a", strict)
    finally:
        site.stop()


# Redirects


def test_redirects_are_followed_and_the_last_address_is_told(site: Site) -> None:
    site.answer("/1", status=302, location="/2?x=1")
    site.answer("/2", status=308, location=f"http://127.0.0.1:{site.port}/3.txt")
    site.answer("/3.txt", b"end", content_type="text/plain")
    got = fetch(f"http://127.0.0.1:{site.port}/1")
    assert (got.data, got.final_url) == (b"end", f"http://127.0.0.1:{site.port}/3.txt")


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]/",
        "//10.0.0.1/x",
        "http://0x7f.1/",
        "http://inner.example/",
    ],
)
def test_a_redirect_to_an_inner_address_is_refused(site: Site, target: str) -> None:
    site.answer("/go", status=302, location=target)
    table = {"open.example": "127.0.0.1", "inner.example": "192.168.0.1"}
    inner = {"0x7f.1": "127.0.0.1"}
    fetcher = Fetcher("open.example", resolve=lambda host, port: [table.get(host) or inner.get(host, host)])
    with pytest.raises(ValidationError, match="refused"):
        fetch(f"http://open.example:{site.port}/go", fetcher)


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://x/", "gopher://x/", "http://u:p@127.0.0.1/", "http://[x"]
)
def test_a_redirect_to_something_else_than_http_is_refused(site: Site, target: str) -> None:
    site.answer("/go", status=302, location=target)
    with pytest.raises(ValidationError, match="url"):
        fetch(f"http://127.0.0.1:{site.port}/go")


def test_endless_redirects_end(site: Site) -> None:
    site.answer("/loop", status=301, location="/loop")
    with pytest.raises(BadRequestError, match="more than 5 redirects"):
        fetch(f"http://127.0.0.1:{site.port}/loop")
    assert len(site.requests) == 6


# URLs


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "http://"),
        ("nonsense", "http://"),
        ("/path", "http://"),
        ("//host/x", "http://"),
        ("file:///etc/passwd", "http://"),
        ("ftp://host/x", "http://"),
        ("data:text/plain,x", "http://"),
        ("http://", "no host"),
        ("http:///x", "no host"),
        ("http://ex ample.com/", "no host"),
        ("http://%31%32%37.0.0.1/", "no host"),
        ("http://[fe80::1%25eth0]/", "no host"),
        ("http://user@host/", "user name or password"),
        ("http://user:secret@host/", "user name or password"),
        ("http://a\\@host/", "user name or password"),
        ("http://host:99999999/", "not a URL"),
        ("http://host:65536/", "not a URL"),
        ("http://host:x/", "not a URL"),
        ("http://host/\r\nX: 1", "not a URL"),
        ("http://[::1/", "not a URL"),
        ("http://①②⑦.0.0.1/", "not a URL"),
        ("http://" + "x" * 300 + "/", "no host"),
        ("http://host/" + "x" * 9000, "8192 characters"),
    ],
)
def test_what_is_not_a_plain_http_url_is_refused(url: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        check_url(url)
    assert caught.value.errors[0].loc == ("url",)
    assert "secret" not in caught.value.message


def test_a_url_can_be_checked_before_it_is_kept() -> None:
    fetcher = Fetcher(resolve=Names(good_example=["8.8.8.8"], bad_example=["10.0.0.1"]))
    fetcher.check("https://good.example/x")
    with pytest.raises(ValidationError, match="private"):
        fetcher.check("https://bad.example/x")
    with pytest.raises(FetchFailedError, match="cannot be resolved"):
        fetcher.check("https://unknown.example/x")


# Answers


def test_too_much_is_refused_by_its_announced_length(site: Site) -> None:
    site.answer("/big", b"", content_type="text/plain", content_length="5000000000")
    with pytest.raises(PayloadTooLargeError, match="1000 bytes"):
        fetch(f"http://127.0.0.1:{site.port}/big", max_bytes=1000)


def test_too_much_is_refused_while_it_streams(site: Site) -> None:
    sent = []

    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b"x" * 65536)
            sent.append(65536)

    site.routes["/endless"] = endless
    with pytest.raises(PayloadTooLargeError, match="500000 bytes"):
        fetch(f"http://127.0.0.1:{site.port}/endless", max_bytes=500_000)
    assert sum(sent) < 20_000_000


def test_exactly_the_limit_is_accepted(site: Site) -> None:
    site.answer("/a", b"x" * 1000, content_type="text/plain")
    assert len(fetch(f"http://127.0.0.1:{site.port}/a", max_bytes=1000).data) == 1000


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "raw deflate", "identity"])
def test_compressed_answers_are_undone(site: Site, encoding: str) -> None:
    text = bytes(range(256)) * 3000
    raw = zlib.compressobj(wbits=-15)
    body = {
        "gzip": gzip.compress(text),
        "deflate": zlib.compress(text),
        "raw deflate": raw.compress(text) + raw.flush(),
        "identity": text,
    }[encoding]
    site.answer("/a", body, content_type="text/plain", content_encoding=encoding.split()[-1])
    assert fetch(f"http://127.0.0.1:{site.port}/a").data == text


def test_a_decompression_bomb_is_met_step_by_step(site: Site) -> None:
    import tracemalloc

    bomb = gzip.compress(b"\0" * 200_000_000, compresslevel=9)
    site.answer("/bomb", bomb, content_type="text/plain", content_encoding="gzip")
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooLargeError):
            fetch(f"http://127.0.0.1:{site.port}/bomb", max_bytes=2_000_000)
        assert tracemalloc.get_traced_memory()[1] < 12_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (b"not gzip at all", "gzip"),
        (gzip.compress(b"x" * 10_000, mtime=0)[:-12], "gzip"),
        (b"\x0b\x02", "br"),
        (b"x", "gzip, br"),
    ],
)
def test_a_broken_or_unknown_encoding_is_an_error(site: Site, body: bytes, encoding: str) -> None:
    site.answer("/a", body, content_type="text/plain", content_encoding=encoding)
    with pytest.raises(BadRequestError, match=r"decompressed|understood"):
        fetch(f"http://127.0.0.1:{site.port}/a")


def test_a_wrong_media_type_is_refused_before_the_body(site: Site) -> None:
    site.answer("/a", b"<p>", content_type="text/html")
    with pytest.raises(BadRequestError, match="'text/html'; accepted here: application/pdf, image/"):
        fetch(f"http://127.0.0.1:{site.port}/a", accept=["image/", "application/pdf"])
    assert fetch(f"http://127.0.0.1:{site.port}/a", accept=["text/*"]).content_type == "text/html"
    assert fetch(f"http://127.0.0.1:{site.port}/a").content_type == "text/html"


@pytest.mark.parametrize("told", ["", "application/octet-stream", "binary/octet-stream"])
def test_a_type_that_is_not_told_is_looked_for_in_the_bytes(site: Site, told: str) -> None:
    headers = {"content_type": told} if told else {}
    site.answer("/png", PNG, **headers)
    site.answer("/text", "grüße".encode() * 2000, **headers)
    site.answer("/junk", b"\x00\xff\xfe\x01" * 10, **headers)
    base = f"http://127.0.0.1:{site.port}"
    assert fetch(f"{base}/png", accept=["image/"]).content_type == "image/png"
    assert fetch(f"{base}/text").content_type == "text/plain"
    assert fetch(f"{base}/junk").content_type == "application/octet-stream"
    with pytest.raises(BadRequestError, match="text/plain"):
        fetch(f"{base}/text", accept=["image/"])


@pytest.mark.parametrize(
    ("disposition", "path", "name"),
    [
        ("", "/a/b%20c.jpg", "b c.jpg"),
        ("", "/", ""),
        ('attachment; filename="x.pdf"', "/y", "x.pdf"),
        ("attachment; filename*=UTF-8''gr%C3%BC%C3%9Fe.txt", "/y", "grüße.txt"),
        ('attachment; filename="../../etc/passwd"', "/y", "passwd"),
        ('attachment; filename="..\\\\..\\\\boot.ini"', "/y", "boot.ini"),
        ("", "/%2e%2e%2f%2e%2e%2fetc", "etc"),
        ("", "/..", ""),
        ('attachment; filename="a:b?c.txt"', "/y", "a_b_c.txt"),
        ("", "/" + "x" * 300 + ".jpeg", "x" * 145 + ".jpeg"),
    ],
)
def test_the_file_name_is_safe(site: Site, disposition: str, path: str, name: str) -> None:
    from urllib.parse import unquote

    from mediatheca.stores.fetch.body import filename

    assert filename(disposition, unquote(path) if "%20" in path else path) == name


@pytest.mark.parametrize("status", [401, 403, 404, 410, 204, 206, 304])
def test_an_answer_that_is_no_file_is_final(site: Site, status: int) -> None:
    site.answer("/a", status=status)
    with pytest.raises(BadRequestError, match=f"status {status}") as caught:
        fetch(f"http://127.0.0.1:{site.port}/a")
    assert not caught.value.retryable


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_server_in_trouble_may_be_asked_again(site: Site, status: int) -> None:
    site.answer("/a", b"inner secret", status=status)
    with pytest.raises(FetchFailedError, match=f"status {status}") as caught:
        fetch(f"http://127.0.0.1:{site.port}/a")
    assert caught.value.retryable
    assert "secret" not in caught.value.message


# Time and broken servers


def raw_server(behave: Callable[[socket.socket, threading.Event], None]) -> tuple[int, Callable[[], None]]:
    """A server that speaks no HTTP but what `behave` writes."""
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def serve() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                behave(connection, stop)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()

    def end() -> None:
        stop.set()
        listener.shutdown(socket.SHUT_RDWR)  # nobody may have come: closing alone does not end the waiting for them
        thread.join()
        listener.close()

    return listener.getsockname()[1], end


def drip(text: bytes) -> Callable[[socket.socket, threading.Event], None]:
    def behave(connection: socket.socket, stop: threading.Event) -> None:
        for number in range(10_000):
            connection.sendall(text[number : number + 1] or b"x")
            if stop.wait(0.02):
                return

    return behave


@pytest.mark.parametrize(
    "behave",
    [
        drip(b"HTTP/1.1 200 OK\r\nx-slow: "),
        drip(b"HTTP/1.1 200 OK\r\n\r\n"),
        drip(b"HTTP/1.1 100 Continue\r\n\r\n" * 400),
        lambda connection, stop: stop.wait(120),
    ],
    ids=["headers", "body", "interim answers", "silence"],
)
def test_a_server_that_drips_gains_no_time(behave: Callable[[socket.socket, threading.Event], None]) -> None:
    port, end = raw_server(behave)
    started = time.monotonic()
    try:
        with pytest.raises(FetchFailedError, match=r"not fetched within 0\.4 seconds"):
            fetch(f"http://127.0.0.1:{port}/", timeout_s=0.4)
    finally:
        end()
    assert time.monotonic() - started < 60, "it drips for minutes"


def test_a_tls_handshake_that_never_ends_is_left() -> None:
    port, end = raw_server(lambda connection, stop: stop.wait(120))
    try:
        with pytest.raises(FetchFailedError, match=r"not fetched within 0\.3 seconds"):
            fetch(f"https://127.0.0.1:{port}/", timeout_s=0.3)
    finally:
        end()


def test_a_resolver_that_hangs_is_left() -> None:
    release = threading.Event()

    def hang(host: str, port: int) -> list[str]:
        release.wait(120)
        return ["8.8.8.8"]

    try:
        with pytest.raises(FetchFailedError, match=r"not fetched within 0\.2 seconds"):
            fetch("http://slow.example/", Fetcher(resolve=hang), timeout_s=0.2)
    finally:
        release.set()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 300_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
    ],
)
def test_a_broken_server_is_a_clear_error(answer: bytes) -> None:
    def behave(connection: socket.socket, stop: threading.Event) -> None:
        connection.recv(65536)
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_WR)
        stop.wait(1)

    port, end = raw_server(behave)
    try:
        with pytest.raises(FetchFailedError, match="broke off or does not speak HTTP"):
            fetch(f"http://127.0.0.1:{port}/")
    finally:
        end()


def test_a_closed_port_is_a_clear_error() -> None:
    with socket.socket() as held:  # ours, so that nobody else takes it, but nobody listens
        held.bind(("127.0.0.1", 0))
        with pytest.raises(FetchFailedError, match="cannot be reached"):
            fetch(f"http://127.0.0.1:{held.getsockname()[1]}/")


# Into a file


def test_a_file_goes_to_the_disk_piece_by_piece(site: Site, tmp_path: Path) -> None:
    body = PNG + bytes(3_000_000)
    site.answer("/a", body, content_type="application/octet-stream")
    site.answer("/zipped", gzip.compress(body), content_encoding="gzip")
    site.answer("/away", status=302, location="/a")
    for path in ("/a", "/zipped", "/away"):
        url = f"http://127.0.0.1:{site.port}{path}"
        got = Fetcher("127.0.0.1").fetch_file(url, tmp_path / "f", max_bytes=4_000_000, timeout_s=60)
        assert (got.data, got.content_type) == (b"", "image/png")
        assert (tmp_path / "f").read_bytes() == body


def test_a_file_that_is_too_large_or_not_there_is_the_same_error_as_in_memory(site: Site, tmp_path: Path) -> None:
    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(1000):
                handler.wfile.write(b"x" * 10_000)

    site.routes["/endless"] = endless
    site.answer("/bomb", gzip.compress(bytes(5_000_000)), content_encoding="gzip")
    site.answer("/gone", status=404)
    fetcher, url = Fetcher("127.0.0.1"), f"http://127.0.0.1:{site.port}"
    for path in ("/endless", "/bomb"):
        with pytest.raises(PayloadTooLargeError):
            fetcher.fetch_file(url + path, tmp_path / "f", max_bytes=100_000, timeout_s=60)
        assert (tmp_path / "f").stat().st_size <= 100_000
    with pytest.raises(BadRequestError, match="404"):
        fetcher.fetch_file(f"{url}/gone", tmp_path / "f", max_bytes=1000, timeout_s=60)
    site.answer("/a", b"x")
    with pytest.raises(FileNotFoundError):
        fetcher.fetch_file(f"{url}/a", tmp_path / "no" / "f", max_bytes=1000, timeout_s=60)
