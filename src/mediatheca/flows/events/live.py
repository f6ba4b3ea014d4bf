"""The change feed as it happens: server-sent events for many readers, and one look at the database for all of them.

A reader's last event id is a cursor of the feed, so a reader whose connection broke goes on exactly where it was, at
any server. Readers sleep until their organization has news.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar

import orjson
import structlog

from mediatheca.flows.events.feed import FeedPage, Wanted, event_view, page
from mediatheca.kernel.errors import MediathecaError, TooManyRequestsError, UnauthorizedError, UnavailableError
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.event_feed import EventFeed

log = structlog.get_logger()

MAX_STREAMS = 100
"""Of a process."""
MAX_OF_ONE = 20
"""Of an organization: one tenant cannot take them all."""
PING_S = 15.0
"""A comment goes out this often; the key is looked at again."""
_PAGE = 500
_THREADS = 4
_GATHER_S = 0.05
"""Many small commits wake us one by one; this long they are collected."""
T = TypeVar("T")


class LiveFeed:
    """Wakes the readers of one process. Its `read` belongs to one event loop, the server's."""

    def __init__(self, database: Database, feed: EventFeed) -> None:
        self._feed = feed
        # Commits of this process wake us; those of another one (PostgreSQL) are polled for.
        self._poll_s = 0.5 if database.dialect == "postgresql" else 5.0
        self._readers: Counter[str] = Counter()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news: dict[str, asyncio.Event] = {}
        self._wake: asyncio.Event | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._closed = threading.Event()
        # Of its own: a hundred streams that look at once must not take the threads of requests.
        self._threads = ThreadPoolExecutor(_THREADS, "live-feed")
        database.listen(self._heard)

    @property
    def readers(self) -> int:
        return self._readers.total()

    def _heard(self, topics: set[str]) -> None:
        loop, wake = self._loop, self._wake
        if "events" in topics and loop is not None and wake is not None and self._readers:
            with suppress(RuntimeError):  # it has ended, perhaps this very moment: whoever commits must not suffer
                loop.call_soon_threadsafe(wake.set)

    def end(self) -> None:
        """End every stream, and begin no other: the server stops. From any thread, and from a signal handler."""
        self._closed.set()
        if self._loop is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._wake_all)

    def close(self) -> None:
        """`end`, and wait for whoever looks at the database right now."""
        self.end()
        self._threads.shutdown()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except RuntimeError as error:
            if not self._closed.is_set():
                raise
            raise UnavailableError("the server stops") from error

    def _wake_all(self) -> None:
        while self._news:
            self._news.popitem()[1].set()
        if self._wake is not None:
            self._wake.set()

    def admit(self, organization_id: str) -> None:
        """Refuse a reader too many, before its stream begins.

        Raises:
            TooManyRequestsError: the organization, or this process, has as many as it may.
        """
        if self._readers[organization_id] >= MAX_OF_ONE or self.readers >= MAX_STREAMS:
            message = f"{self._readers[organization_id]} streams of events are open; at most {MAX_OF_ONE} each"
            raise TooManyRequestsError(f"{message}, {MAX_STREAMS} in all; close some, or poll GET /v1/events", 5)

    async def read(self, asked: Wanted, after: int, allowed: Callable[[], None]) -> AsyncIterator[bytes]:
        """Lines of server-sent events behind a position, without end.

        `allowed` raises when the reader's key is no longer good; it is asked about every 15 seconds.
        """
        with self._reading(asked.organization_id):
            yield _mark(asked, after)  # who loses the connection before the first event knows where to go on
            position, quiet = after, asyncio.get_running_loop().time()
            while not self._closed.is_set():
                news = self._news.setdefault(asked.organization_id, asyncio.Event())
                try:
                    found = await self._in_thread(partial(page, self._feed, asked, position, _PAGE))
                except MediathecaError as error:  # the reader comes again, with the id of the last event
                    self._failed(error)
                    return
                position = found.upto
                if found.events:
                    yield _lines(found, asked)
                now = asyncio.get_running_loop().time()
                if now - quiet >= PING_S:
                    quiet = now
                    if not await self._still(allowed):
                        return
                    yield _mark(asked, position) + b": ping\n\n"
                if not found.has_more:
                    await _either(news, PING_S - (now - quiet))

    async def _still(self, allowed: Callable[[], None]) -> bool:
        try:
            await self._in_thread(allowed)
        except (UnauthorizedError, UnavailableError):
            return False
        return True

    @contextmanager
    def _reading(self, organization_id: str) -> Iterator[None]:
        self._begin()
        self._readers[organization_id] += 1
        try:
            yield
        finally:
            self._readers[organization_id] -= 1
            if not self._readers[organization_id]:
                del self._readers[organization_id]
                self._news.pop(organization_id, None)

    def _begin(self) -> None:
        """The watcher belongs to the loop of the first reader, and ends with the last one."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop or self._watcher is None or self._watcher.done():
            self._loop, self._wake = loop, asyncio.Event()
            self._watcher = loop.create_task(self._watch(self._wake))

    async def _watch(self, wake: asyncio.Event) -> None:
        seen = -1
        while not self._closed.is_set():
            try:
                seen = await self._look(seen) if seen >= 0 else await self._first_look()
            except MediathecaError as error:
                self._failed(error)
                await asyncio.sleep(1)
            await _either(wake, self._poll_s)
            wake.clear()
            if not self._readers:
                return
            await asyncio.sleep(_GATHER_S)

    async def _first_look(self) -> int:
        newest = await self._in_thread(self._feed.newest)
        self._wake_all()  # whoever looked before we did
        return newest

    def _failed(self, error: MediathecaError) -> None:
        if not self._closed.is_set():
            log.error("live_feed.failed", error=error.message)

    async def _look(self, seen: int) -> int:
        """Wake the organizations that have news; gives how far we have looked."""
        while True:
            await self._in_thread(self._feed.sequence)
            rows = await self._in_thread(partial(self._feed.organizations, seen, _PAGE))
            for position, organization_id in rows:
                seen = max(seen, position)
                news = self._news.pop(organization_id, None)
                if news is not None:
                    news.set()
            if len(rows) < _PAGE:
                return seen


async def _either(event: asyncio.Event, timeout_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(max(timeout_s, 0.0)):
            await event.wait()


def _mark(asked: Wanted, position: int) -> bytes:
    """Where a reader is. Without data it is no event, but its id counts (HTML standard, 9.2.6)."""
    return b"id: %s\n\n" % asked.cursor(position).encode()


def _lines(found: FeedPage, asked: Wanted) -> bytes:
    told = []
    for event in found.events:
        view = event_view(event, asked)
        told.append(b"id: %s\nevent: %s\ndata: %s\n\n" % (
            view["cursor"].encode(), event.type.encode(), orjson.dumps(view, option=orjson.OPT_NON_STR_KEYS),
        ))  # fmt: skip
    return b"".join(told)
