"""Loops in threads of their own end whole: nobody waits for ever for what they were given."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

from mediatheca.flows.own_loop import run_until_stopped
from mediatheca.flows.replay import Replayer
from mediatheca.kernel.errors import UnavailableError


class Loop:
    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=run_until_stopped, args=(self.loop,))
        self.thread.start()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)


@pytest.fixture
def own() -> Iterator[Loop]:
    made = Loop()
    yield made
    if made.thread.is_alive():
        made.stop()
    made.thread.join()
    assert made.loop.is_closed()


def test_whoever_waits_when_it_stops_is_told(own: Loop) -> None:
    waiting = asyncio.run_coroutine_threadsafe(asyncio.sleep(600), own.loop)
    own.stop()
    with pytest.raises(CancelledError):
        waiting.result(60)


def test_what_is_handed_over_in_the_last_moment_is_not_left_waiting(own: Loop) -> None:
    busy = threading.Event()
    own.loop.call_soon_threadsafe(busy.wait)
    own.stop()
    waiting = asyncio.run_coroutine_threadsafe(asyncio.sleep(600), own.loop)  # behind the end
    busy.set()
    with pytest.raises(CancelledError):
        waiting.result(60)


def test_work_that_cleans_up_after_itself_is_waited_for(own: Loop) -> None:
    tidied = threading.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(600)
        finally:
            await asyncio.sleep(0.01)
            tidied.set()

    asyncio.run_coroutine_threadsafe(work(), own.loop)
    own.loop.call_soon_threadsafe(own.loop.call_soon, own.loop.stop)  # one turn later: it has begun
    own.thread.join(60)
    assert tidied.is_set()


# ---- the loop of those that measure


def replayer() -> Replayer:
    nothing: Any = None  # what runs here asks neither an engine nor what is around
    return Replayer(nothing, nothing)


async def for_ever(*_: Any) -> None:
    await asyncio.sleep(600)


def test_a_measurement_under_way_ends_with_the_server() -> None:
    made, begun, told = replayer(), threading.Event(), list[Exception]()

    async def work(*_: Any) -> None:
        begun.set()
        await asyncio.sleep(600)

    def measure() -> None:
        try:
            made.call(work, 600)
        except Exception as error:
            told.append(error)

    thread = threading.Thread(target=measure)
    thread.start()
    assert begun.wait(60)
    made.close()
    thread.join(60)
    assert [type(error) for error in told] == [UnavailableError]


def test_nothing_is_measured_after_the_end_of_the_server() -> None:
    made = replayer()
    made.close()
    with pytest.raises(UnavailableError, match="the server stops"):
        made.call(for_ever, 600)
    assert made._thread is None, "no loop is begun for it"
    made.close()


def test_a_measurement_has_its_time() -> None:
    made = replayer()
    with pytest.raises(UnavailableError, match=r"no answer within 0\.05 s"):
        made.call(for_ever, 0.05)
    made.close()
