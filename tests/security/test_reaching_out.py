"""What makes a server fetch for an attacker: private addresses in every spelling, redirects, names that move."""

from __future__ import annotations

import asyncio
import http.server
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mediatheca.flows.outside.domains import permitted
from mediatheca.flows.outside.http import GuardedHttp
from mediatheca.flows.outside.rates import Rates
from mediatheca.kernel.errors import MediathecaError, TooManyRequestsError, ValidationError
from mediatheca.kernel.outside import HttpAnswer, HttpRequest
from mediatheca.stores.fetch import Fetcher


class Target:
    """A server on loopback that remembers what it was asked, and redirects where a test says."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.redirects: dict[str, tuple[int, str]] = {}
        target = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                target.seen.append((self.command, self.path, headers, body))
                status, location = target.redirects.get(self.path, (200, ""))
                self.close_connection = True
                self.send_response(status)
                if location:
                    self.send_header("location", location)
                self.send_header("set-cookie", "session=1")
                self.end_headers()
                self.wfile.write(b"reached")

            do_GET = do_POST = do_PUT = serve

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def target() -> Iterator[Target]:
    made = Target()
    yield made
    made.close()


@pytest.fixture(scope="module")
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def send(threads: ThreadPoolExecutor, fetcher: Fetcher, url: str, **more: Any) -> HttpAnswer:
    http = GuardedHttp(fetcher, Rates(), threads, "org_a")
    return asyncio.run(http.send(HttpRequest(url, **{"timeout_s": 60.0, **more})))


PRIVATE = [
    "http://127.0.0.1/",
    "http://localhost/",
    "http://127.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0177.0.0.1/",
    "http://0/",
    "http://0.0.0.0/",
    "http://[::1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::]/",
    "http://169.254.169.254/latest/meta-data/",
    "http://[fd00:ec2::254]/",
    "http://[::ffff:a9fe:a9fe]/",
    "http://10.0.0.1/",
    "http://192.168.1.1/",
    "http://172.16.0.1/",
    "http://100.64.0.1/",
    "http://198.18.0.1/",
    "http://[fe80::1]/",
    "http://[fc00::1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "https://127.0.0.1:22/",
    "http://127.0.0.1:6379/",
    "http://１２７.0.0.1/",
    "http://127.0.0.1./",
    "gopher://127.0.0.1/",
    "file:///etc/passwd",
    "http://user:pw@example.com/",
    "http://",
    "http://exa mple.com/",
    "//x",
    "http://example.com:99999/",
    "http://a\r\nb.example/",
    "http://example.com:25/",
]


@pytest.mark.parametrize("url", PRIVATE)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_spelling_of_a_private_address_is_asked(threads: ThreadPoolExecutor, url: str, method: str) -> None:
    with pytest.raises(MediathecaError):
        send(threads, Fetcher(), url, method=method, body=b"x" if method == "POST" else b"")


def test_a_redirect_is_checked_like_the_first_address(threads: ThreadPoolExecutor, target: Target) -> None:
    fetcher = Fetcher(allow=f"127.0.0.1:{target.port}")
    for place in (
        "http://169.254.169.254/",
        "http://10.0.0.1/",
        "file:///etc/passwd",
        "http://[::1]/",
        "http://127.0.0.1:22/",
    ):
        target.redirects["/start"] = (302, place)
        with pytest.raises(ValidationError):
            send(threads, fetcher, f"{target.url}/start")


def test_a_redirect_may_not_leave_the_allowed_domains(threads: ThreadPoolExecutor, target: Target) -> None:
    names = {"first.example": ["127.0.0.1"], "second.example": ["127.0.0.1"]}
    fetcher = Fetcher(allow=f"*.example:{target.port}", resolve=lambda host, port: names[host])
    start = f"http://first.example:{target.port}/start"
    target.redirects["/start"] = (307, f"http://second.example:{target.port}/end")
    with pytest.raises(ValidationError, match="allowed_domains"):
        send(threads, fetcher, start, allowed_domains=["first.example"])
    assert [seen[1] for seen in target.seen] == ["/start"]
    assert send(threads, fetcher, start, allowed_domains=["*.example"]).data == b"reached"


def test_a_redirect_to_another_host_gets_no_credentials(threads: ThreadPoolExecutor, target: Target) -> None:
    names = {"first.example": ["127.0.0.1"], "second.example": ["127.0.0.1"]}
    fetcher = Fetcher(allow=f"*.example:{target.port}", resolve=lambda host, port: names[host])
    target.redirects["/start"] = (307, f"http://second.example:{target.port}/end")
    headers = {"Authorization": "Bearer s", "X-Api-Key": "s", "Accept": "a/b", "Content-Type": "text/plain"}
    send(threads, fetcher, f"http://first.example:{target.port}/start", headers=headers, method="POST", body=b"data")
    first, second = target.seen
    assert {first[2][name] for name in ("authorization", "x-api-key")} == {"Bearer s", "s"}
    assert not {"authorization", "x-api-key"} & set(second[2])
    assert (second[0], second[2]["accept"], second[3]) == ("POST", "a/b", b"data")


@pytest.mark.parametrize(("status", "method", "body"), [(301, "GET", b""), (303, "GET", b""), (308, "POST", b"data")])
def test_a_redirected_post_becomes_a_get_as_in_browsers(
    threads: ThreadPoolExecutor, target: Target, status: int, method: str, body: bytes
) -> None:
    fetcher = Fetcher(allow=f"127.0.0.1:{target.port}")
    target.redirects["/start"] = (status, "/end")
    answer = send(threads, fetcher, f"{target.url}/start", method="POST", body=b"data", headers={"X-Key": "k"})
    assert (target.seen[1][0], target.seen[1][3], target.seen[1][2]["x-key"]) == (method, body, "k")
    assert "set-cookie" not in answer.headers
    assert answer.final_url == f"{target.url}/end"


def test_a_name_that_moves_after_it_was_checked_gains_nothing(threads: ThreadPoolExecutor, target: Target) -> None:
    """DNS rebinding: the name is looked up once, and the connection goes to the address that was checked."""
    asked: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["93.184.216.34"] if len(asked) == 1 else ["127.0.0.1"]

    with pytest.raises(MediathecaError):
        send(threads, Fetcher(resolve=resolve), "https://rebind.example/", timeout_s=4.0)
    assert asked == ["rebind.example"]
    assert target.seen == []


def test_one_private_address_among_public_ones_is_enough_to_refuse(threads: ThreadPoolExecutor) -> None:
    fetcher = Fetcher(resolve=lambda host, port: ["93.184.216.34", "127.0.0.1"])
    with pytest.raises(ValidationError, match="loopback"):
        send(threads, fetcher, "https://mixed.example/")


def test_http_becomes_https_unless_the_operator_named_the_host(threads: ThreadPoolExecutor, target: Target) -> None:
    ports: list[int] = []

    def resolve(host: str, port: int) -> list[str]:
        ports.append(port)
        return ["10.0.0.1"]

    with pytest.raises(ValidationError):
        send(threads, Fetcher(resolve=resolve), "http://plain.example/x")
    assert ports == [443]
    assert send(threads, Fetcher(allow=f"127.0.0.1:{target.port}"), f"{target.url}/x").status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "inner"},
        {"Transfer-Encoding": "chunked"},
        {"Content-Length": "5"},
        {"A b": "c"},
        {"": "x"},
        {"X": "a\r\nY: b"},
        {"X": "ключ"},
        {"X\n": "a"},
        {"Connection": "upgrade"},
        {f"x{n}": "1" for n in range(60)},
        {"X": "y" * 9000},
    ],
    ids=lambda headers: str(headers)[:30],
)
def test_headers_that_change_the_request_itself_are_refused(
    threads: ThreadPoolExecutor, target: Target, headers: dict[str, str]
) -> None:
    with pytest.raises(ValidationError, match="header"):
        send(threads, Fetcher(allow=f"127.0.0.1:{target.port}"), target.url, headers=headers)
    assert target.seen == []


def test_methods_and_bodies_have_limits(threads: ThreadPoolExecutor, target: Target) -> None:
    fetcher = Fetcher(allow=f"127.0.0.1:{target.port}")
    for wrong in ({"method": "CONNECT"}, {"method": "G ET"}, {"method": "POST", "body": b"x" * (11 << 20)}):
        with pytest.raises(ValidationError):
            send(threads, fetcher, target.url, **wrong)


@pytest.mark.parametrize(
    ("host", "allowed", "result"),
    [
        ("a.example", [], True),
        ("a.example", ["a.example"], True),
        ("a.example", ["A.Example."], True),
        ("b.a.example", ["a.example"], False),
        ("b.a.example", ["*.a.example"], True),
        ("a.example", ["*.a.example"], False),
        ("evila.example", ["*.a.example"], False),
        ("a.example.evil", ["a.example"], False),
        ("a.example", ["*"], False),
        ("a.example", ["*.*"], False),
        ("a.example", ["*."], False),
        ("a.example", ["."], False),
        ("a.example", [""], False),
    ],
)
def test_which_hosts_a_list_of_domains_allows(host: str, allowed: list[str], result: bool) -> None:
    assert permitted(host, allowed) is result


def test_rates_are_counted_by_tenant_and_host() -> None:
    now = [0.0]
    rates = Rates(lambda: now[0])
    assert [rates.take("org_a", "h", 2, 0) for _ in range(3)] == [0.0, 0.0, 60.0]
    assert rates.take("org_b", "h", 2, 0) == rates.take("org_a", "other", 2, 0) == 0.0
    now[0] = 59.0
    assert rates.take("org_a", "h", 2, 0) == 1.0
    now[0] = 60.0
    assert rates.take("org_a", "h", 2, 3) == 0.0
    assert rates.take("org_a", "h", 0, 3) == 3540.0
    assert isinstance(rates.refuse("h", 5), TooManyRequestsError)
