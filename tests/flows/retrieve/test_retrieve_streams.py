"""Streams that break and go on: who may read them, what is kept, and when an execution is given up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mediatheca.flows.retrieve import streaming
from mediatheca.flows.retrieve.streaming import Stream, Streams
from mediatheca.kernel.errors import NotFoundError

OWNER = ("org_a", "ns_a", "key_1")


def number(line: bytes) -> int:
    return int(line.split(b"\n", 1)[0].rpartition(b":")[2])


def slow(gate: asyncio.Event, stream: list[Stream]) -> Callable[[Any], Awaitable[dict[str, Any]]]:
    """An execution that tells two things, waits, and tells a third before it answers."""

    async def answering(tell: Any) -> dict[str, Any]:
        for n in (1, 2):
            stream[0].put("token", {"text": str(n)})
        await gate.wait()
        stream[0].put("token", {"text": "3"})
        return {"documents": []}

    return answering


def begin(streams: Streams, gate: asyncio.Event) -> Stream:
    made: list[Stream] = []
    made.append(streams.start("exec_1", OWNER, slow(gate, made)))
    return made[0]


def test_a_reader_that_comes_back_gets_what_it_missed_and_what_follows():
    async def go() -> tuple[list[int], list[int]]:
        streams, gate = Streams(), asyncio.Event()
        reading = begin(streams, gate).read()
        first = [number(await anext(reading))]
        await reading.aclose()
        again = streams.resume("exec_1:1", OWNER)
        gate.set()
        return first, [number(line) async for line in again]

    assert asyncio.run(go()) == ([1], [2, 3, 4])


def test_what_ended_meanwhile_can_still_be_read():
    async def go() -> list[bytes]:
        streams, gate = Streams(), asyncio.Event()
        gate.set()
        [_ async for _ in begin(streams, gate).read()]
        return [line async for line in streams.resume("exec_1:3", OWNER)]

    (last,) = asyncio.run(go())
    assert b"event: execution_complete" in last


@pytest.mark.parametrize(
    ("event", "owner"),
    [
        ("exec_1:1", ("org_a", "ns_a", "key_2")),
        ("exec_1:1", ("org_b", "ns_a", "key_1")),
        ("exec_2:1", OWNER),
        ("exec_1:99", OWNER),
        ("exec_1:-1", OWNER),
        ("exec_1:", OWNER),
        ("1", OWNER),
        ("exec_1:" + "9" * 5000, OWNER),
    ],
)
def test_another_key_tenant_or_event_is_not_found(event: str, owner: Any):
    async def go() -> None:
        streams, gate = Streams(), asyncio.Event()
        gate.set()
        [_ async for _ in begin(streams, gate).read()]
        streams.resume(event, owner)

    with pytest.raises(NotFoundError, match="Last-Event-ID"):
        asyncio.run(go())


def test_an_execution_without_a_reader_is_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(streaming, "GRACE_S", 0.01)

    async def go() -> bool:
        streams, gate = Streams(), asyncio.Event()
        made = begin(streams, gate)
        reading = made.read()
        await anext(reading)
        await reading.aclose()
        async with asyncio.timeout(120):
            while made.ended is None:  # noqa: ASYNC110 - a stream tells its readers, and there is none
                await asyncio.sleep(0.01)
        return gate.is_set()

    assert asyncio.run(go()) is False


def test_a_reader_keeps_the_execution_alive_beyond_the_grace(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(streaming, "GRACE_S", 0.01)

    async def go() -> int:
        streams, gate = Streams(), asyncio.Event()
        reading = begin(streams, gate).read()
        await anext(reading)
        await asyncio.sleep(0.05)
        gate.set()
        return len([line async for line in reading])

    assert asyncio.run(go()) == 3


def test_two_readers_get_the_same():
    async def go() -> list[list[bytes]]:
        streams, gate = Streams(), asyncio.Event()
        made = begin(streams, gate)

        async def all_of(after: int) -> list[bytes]:
            return [line async for line in made.read(after)]

        both = asyncio.gather(all_of(0), all_of(0))
        await asyncio.sleep(0)
        gate.set()
        return await both

    one, other = asyncio.run(go())
    assert one == other
    assert [number(line) for line in one] == [1, 2, 3, 4]


def test_what_was_read_is_dropped_when_it_grows_and_cannot_be_asked_for_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(streaming, "MAX_BYTES", 300)

    async def go() -> list[int]:
        streams = Streams()
        made: list[Stream] = []

        async def answering(tell: Any) -> dict[str, Any]:
            for n in range(20):
                made[0].put("token", {"text": str(n)})
                await asyncio.sleep(0.001)
            return {}

        made.append(streams.start("exec_1", OWNER, answering))
        found = [number(line) async for line in made[0].read()]
        assert made[0].size < 600
        with pytest.raises(NotFoundError):
            streams.resume("exec_1:2", OWNER)
        return found

    assert asyncio.run(go()) == list(range(1, 22))


def test_ended_streams_are_forgotten_after_a_while_and_beyond_their_share(monkeypatch: pytest.MonkeyPatch):
    async def go() -> None:
        streams, gate = Streams(), asyncio.Event()
        gate.set()
        [_ async for _ in begin(streams, gate).read()]
        monkeypatch.setattr(streaming, "KEPT_S", -1.0)
        streams.resume("exec_1:1", OWNER)

    with pytest.raises(NotFoundError):
        asyncio.run(go())


def test_a_fault_of_ours_ends_the_stream_without_its_text():
    async def go() -> list[bytes]:
        async def answering(tell: Any) -> dict[str, Any]:
            raise RuntimeError("the password is sesame")

        return [line async for line in Streams().start("exec_1", OWNER, answering).read()]

    (line,) = asyncio.run(go())
    assert b"execution_error" in line
    assert b"sesame" not in line
