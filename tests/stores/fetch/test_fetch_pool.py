"""The client that keeps connections is guarded as the other one, at every request."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from mediatheca.kernel.errors import BadRequestError, ValidationError
from mediatheca.stores.fetch import Answered, Fetcher, FetchFailedError
from mediatheca.stores.fetch.sender import MAX_IDLE, Sender
from webhook_receiver import Receiver, Reply, a_receiver

CERTIFICATE = Path(__file__).parent / "tls_example.pem"
T = TypeVar("T")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with a_receiver() as made:
        yield made


def using(fetcher: Fetcher, work: Callable[[Sender], Awaitable[T]], **options: Any) -> T:
    async def run() -> T:
        sender = Sender(fetcher, **options)
        try:
            return await work(sender)
        finally:
            await sender.close()
            await nothing_open()

    return asyncio.run(run())


async def nothing_open() -> None:
    """Transports close in the loop, each in its time; one that is left would be warned of in another test."""
    loop: Any = asyncio.get_running_loop()
    async with asyncio.timeout(60):
        while len(loop._selector.get_map()) > 1:  # noqa: ASYNC110  its own is left, by which other threads wake it
            await asyncio.sleep(0.01)
    for _ in range(3):
        await asyncio.sleep(0)


async def post(sender: Sender, url: str, body: bytes = b"{}", **options: Any) -> Answered:
    given: dict[str, Any] = {"headers": {"X-A": "b"}, "timeout_s": 60, "max_bytes": 1000, **options}
    return await sender.send("POST", url, body=body, **given)


def test_one_connection_serves_many_requests(receiver: Receiver) -> None:
    async def work(sender: Sender) -> list[int]:
        return [(await post(sender, f"{receiver.url}/{number}")).status for number in range(5)]

    assert using(Fetcher("127.0.0.1"), work) == [200] * 5
    assert receiver.connections == 1
    assert [got.path for got in receiver.got] == [f"/{number}" for number in range(5)]
    assert receiver.got[0].headers["host"] == f"127.0.0.1:{receiver.port}"
    assert receiver.got[0].headers["x-a"] == "b"


def test_a_name_is_asked_again_and_a_kept_connection_to_its_old_address_is_not_used(receiver: Receiver) -> None:
    table = {"name.example": ["127.0.0.1"]}
    fetcher = Fetcher("name.example", resolve=lambda host, port: table[host])
    url = f"http://name.example:{receiver.port}/"

    async def work(sender: Sender) -> None:
        assert (await post(sender, url)).status == 200
        table["name.example"] = ["127.0.0.2"]  # nobody listens there
        with pytest.raises(FetchFailedError, match="cannot be reached"):
            await post(sender, url)
        table["name.example"] = ["169.254.169.254"]
        with pytest.raises(ValidationError, match="metadata"):
            await post(sender, url)

    using(fetcher, work, resolved_s=0)
    assert len(receiver.got) == 1


def test_a_name_is_believed_for_a_while(receiver: Receiver) -> None:
    asked: list[str] = []
    fetcher = Fetcher("name.example", resolve=lambda host, port: asked.append(host) or ["127.0.0.1"])  # type: ignore[func-returns-value]

    async def work(sender: Sender) -> None:
        for _ in range(3):
            await post(sender, f"http://name.example:{receiver.port}/")

    using(fetcher, work)
    assert asked == ["name.example"]


def test_names_that_nobody_answers_for_hold_up_no_others(receiver: Receiver) -> None:
    free, asked = threading.Event(), []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        if host.startswith("dead"):
            free.wait(120)
        return ["127.0.0.1"]

    async def work(sender: Sender) -> None:
        dead = [f"http://dead{number % 20}.example:{receiver.port}/" for number in range(40)]
        waiting = [asyncio.create_task(post(sender, url)) for url in dead]
        await asyncio.sleep(0.05)
        assert (await post(sender, f"http://good.example:{receiver.port}/", timeout_s=60)).status == 200
        free.set()
        assert {answer.status for answer in await asyncio.gather(*waiting)} == {200}

    using(Fetcher("*.example", resolve=resolve), work)
    assert len(asked) == 21


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://example.com/", "https://"),
        ("https://10.0.0.1/", "private"),
        ("https://[::ffff:127.0.0.1]/", "loopback"),
        ("https://169.254.169.254/", "metadata"),
        ("https://2130706433/", "loopback"),
        ("https://example.com:22/", "ports 80 and 443"),
        ("ftp://example.com/", "http:// or https://"),
        ("https://a:b@example.com/", "user name or password"),
    ],
)
def test_refused_addresses_are_not_asked(url: str, why: str) -> None:
    numbers = {"2130706433": "127.0.0.1", "example.com": "93.184.215.14"}
    fetcher = Fetcher(resolve=lambda host, port: [numbers.get(host, host)])
    with pytest.raises(ValidationError, match=why):
        using(fetcher, lambda sender: post(sender, url))


def test_tls_checks_the_name(receiver: Receiver) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
    with a_receiver(tls=context) as secure:
        fetcher = Fetcher("127.0.0.0/8", resolve=lambda host, port: ["127.0.0.1"], tls=trusting)

        async def work(sender: Sender) -> None:
            for _ in range(2):
                assert (await post(sender, f"https://tls.example:{secure.port}/")).data == b"ok"
            with pytest.raises(BadRequestError, match="certificate is not valid"):
                await post(sender, f"https://other.example:{secure.port}/")

        using(fetcher, work)
        assert len(secure.got) == 2


def test_a_receiver_that_does_not_say_goodbye_is_not_waited_for() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    over = threading.Event()

    def serve(listener: socket.socket) -> None:
        line, _ = listener.accept()
        with context.wrap_socket(line, server_side=True) as secure:
            secure.recv(65_536)
            secure.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            over.wait(120)

    async def exchange(port: int) -> int:
        trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
        sender = Sender(Fetcher("127.0.0.0/8", resolve=lambda host, port: ["127.0.0.1"], tls=trusting))
        assert (await post(sender, f"https://tls.example:{port}/")).data == b"ok"
        await sender.close()
        for _ in range(5):
            await asyncio.sleep(0)
        loop: Any = asyncio.get_running_loop()
        return len(loop._selector.get_map())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            assert asyncio.run(exchange(listener.getsockname()[1])) == 1, "only the loop's own"
        finally:
            over.set()
            thread.join()


def test_answers_are_cut_redirects_stay_and_time_is_bounded(receiver: Receiver) -> None:
    answers = {
        "/large": Reply(body=b"A" * 100_000),
        "/moved": Reply(307, headers={"location": "http://127.0.0.1:1/"}),
        "/slow": Reply(body=b"x" * 50, drip_s=0.1),
        "/cookie": Reply(headers={"set-cookie": "a=b"}),
    }
    receiver.answer = lambda got: answers[got.path]

    async def work(sender: Sender) -> None:
        assert (await post(sender, f"{receiver.url}/large")).data == b"A" * 1000
        moved = await post(sender, f"{receiver.url}/moved")
        assert (moved.status, moved.headers["location"]) == (307, "http://127.0.0.1:1/")
        assert "set-cookie" not in (await post(sender, f"{receiver.url}/cookie")).headers
        with pytest.raises(FetchFailedError, match=r"within 0\.3 seconds"):
            await post(sender, f"{receiver.url}/slow", timeout_s=0.3)
        assert (await post(sender, f"{receiver.url}/cookie")).status == 200

    using(Fetcher("127.0.0.1"), work)


def test_what_is_no_http_is_no_trouble() -> None:
    async def work(sender: Sender) -> None:
        async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(10)
            writer.write(b"\x00\xffnonsense\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(babble, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(FetchFailedError, match="does not speak HTTP"):
            await post(sender, f"http://127.0.0.1:{port}/")
        server.close()

    using(Fetcher("127.0.0.1"), work)


def test_idle_connections_are_counted(receiver: Receiver) -> None:
    async def work(sender: Sender) -> int:
        await asyncio.gather(*(post(sender, receiver.url) for _ in range(20)))
        return len(sender._idle)

    assert 1 <= using(Fetcher("127.0.0.1"), work) <= min(20, MAX_IDLE)
