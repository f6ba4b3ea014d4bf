"""The live feed over both databases: who sleeps is woken by the next commit, also by one of another process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from mediatheca.flows.events.feed import Wanted
from mediatheca.flows.events.live import LiveFeed
from mediatheca.kernel.errors import TooManyRequestsError, UnauthorizedError
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.event_feed import EventFeed

IN_A, IN_B = Scope("org_a", "ns_1"), Scope("org_b", "ns_1")
A = Wanted("org_a")
MADE: list[LiveFeed] = []


def emit(db: Database, *types: str, scope: Scope = IN_A) -> None:
    with db.begin(scope) as tx:
        for type in types:
            tx.emit(type, "res")


@pytest.fixture(autouse=True)
def _ended(db: Database) -> Iterator[None]:
    """Whoever looks at the database ends before the database does."""
    yield
    while MADE:
        MADE.pop().close()


def a_feed(db: Database) -> LiveFeed:
    MADE.append(LiveFeed(db, EventFeed(db)))
    return MADE[-1]


def fine() -> None:
    """The key is good."""


class Reading:
    """Collects what a stream sends."""

    def __init__(self, live: LiveFeed, asked: Wanted = A, after: int = 0, allowed: Callable[[], None] = fine) -> None:
        self.text = ""
        self.ended = False
        self._task = asyncio.create_task(self._read(live.read(asked, after, allowed)))

    async def _read(self, lines: AsyncIterator[bytes]) -> None:
        async for line in lines:
            self.text += line.decode()
        self.ended = True

    @property
    def types(self) -> list[str]:
        rows = [json.loads(line[6:]) for line in self.text.splitlines() if line.startswith("data: ")]
        return [row["event_type"] for row in rows]

    async def until(self, wanted: Callable[[Reading], Any]) -> None:
        async with asyncio.timeout(120):
            while not wanted(self):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def leave(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def test_a_sleeping_reader_is_woken_by_its_own_organization_only(db: Database) -> None:
    async def scene() -> None:
        live = a_feed(db)
        ours, theirs = Reading(live), Reading(live, Wanted("org_b"))
        await ours.until(lambda reading: "id: " in reading.text)
        await asyncio.to_thread(emit, db, "object.one")
        await ours.until(lambda reading: reading.types == ["object.one"])
        await asyncio.to_thread(emit, db, "object.two", scope=IN_B)
        await theirs.until(lambda reading: reading.types == ["object.two"])
        assert ours.types == ["object.one"]
        assert live.readers == 2
        await ours.leave()
        await theirs.leave()
        assert live.readers == 0

    asyncio.run(scene())


def test_commits_of_another_process_are_told_too(db: Database) -> None:
    if db.dialect != "postgresql":
        return  # SQLite belongs to one process

    async def scene() -> None:
        elsewhere = Database(db.engine.url.render_as_string(hide_password=False))
        reading = Reading(a_feed(db))
        await reading.until(lambda reading: "id: " in reading.text)
        await asyncio.to_thread(emit, elsewhere, "object.far")
        await reading.until(lambda reading: reading.types == ["object.far"])
        await reading.leave()
        elsewhere.close()

    asyncio.run(scene())


def test_a_stream_begins_again_after_everybody_had_left(db: Database) -> None:
    async def scene() -> None:
        live = a_feed(db)
        for round in range(3):
            reading = Reading(live, after=EventFeed(db).newest())
            await reading.until(lambda reading: "id: " in reading.text)
            await asyncio.to_thread(emit, db, f"object.n{round}")
            await reading.until(lambda reading: reading.types)
            assert reading.types == [f"object.n{round}"]
            await reading.leave()

    asyncio.run(scene())


def test_what_was_committed_while_a_reader_looked_is_not_missed(db: Database) -> None:
    async def scene() -> None:
        live = a_feed(db)
        reading = Reading(live)
        wanted = [f"object.n{n}" for n in range(60)]
        for type in wanted:
            await asyncio.to_thread(emit, db, type)
        await reading.until(lambda reading: len(reading.types) >= 60)
        assert reading.types == wanted
        await reading.leave()

    asyncio.run(scene())


def test_a_reader_whose_key_is_revoked_is_left(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mediatheca.flows.events.live.PING_S", 0.05)

    def revoked() -> None:
        raise UnauthorizedError("the API key is not valid")

    async def scene() -> None:
        reading = Reading(a_feed(db), allowed=revoked)
        await reading.until(lambda reading: reading.ended)
        assert ": ping" not in reading.text

    asyncio.run(scene())


def test_streams_end_when_the_server_stops(db: Database) -> None:
    async def scene() -> None:
        live = a_feed(db)
        readings = [Reading(live), Reading(live, Wanted("org_b"))]
        for reading in readings:
            await reading.until(lambda reading: "id: " in reading.text)
        await asyncio.to_thread(live.close)
        for reading in readings:
            await reading.until(lambda reading: reading.ended)

    asyncio.run(scene())


@pytest.mark.parametrize("turns", range(6))
def test_a_reader_who_leaves_in_the_moment_it_is_woken_is_gone(db: Database, turns: int) -> None:
    async def scene() -> None:
        live = a_feed(db)
        reading = Reading(live)
        await reading.until(lambda reading: "id: " in reading.text)
        await asyncio.sleep(0.1)  # it sleeps
        live._wake_all()
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(120):
            await reading.leave()
        assert live.readers == 0

    asyncio.run(scene())


def test_there_are_so_many_streams_and_no_more(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mediatheca.flows.events.live.MAX_OF_ONE", 2)

    async def scene() -> None:
        live = a_feed(db)
        readings = [Reading(live), Reading(live)]
        for reading in readings:
            await reading.until(lambda reading: "id: " in reading.text)
        with pytest.raises(TooManyRequestsError):
            live.admit("org_a")
        live.admit("org_b")
        await readings[0].leave()
        live.admit("org_a")
        await readings[1].leave()

    asyncio.run(scene())


def test_a_commit_does_not_suffer_from_a_loop_that_has_ended_this_moment(db: Database) -> None:
    live = a_feed(db)

    async def scene() -> None:
        reading = Reading(live)
        await reading.until(lambda reading: "id: " in reading.text)
        await reading.leave()

    asyncio.run(scene())
    live._readers["org_a"] += 1  # as between the end of the loop and that of its readers
    emit(db, "object.created")
    live.end()
