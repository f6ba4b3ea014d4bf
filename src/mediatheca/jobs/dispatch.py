"""The spine: hands events to consumers, each event to each consumer once.

A consumer turns a page of events into rows (deliveries, jobs, counters). These are written in the transaction that
moves the consumer's cursor: a crash repeats the whole page, a commit ends it, and two processes cannot do it twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import structlog

from mediatheca.kernel.errors import MediathecaError, UnavailableError
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.event_feed import Event, EventFeed
from mediatheca.stores.db.system_tx import SystemTx

log = structlog.get_logger()

PAGE = 500
"""Events handed over at a time."""
TRIES = 5
"""How often an event may fail alone before it is recorded and left out."""
BACKOFF_S = (0.2, 1.0, 5.0, 15.0)
"""Waiting time after the first failure, the second, …; the last one repeats."""
FAILED = "event.consumer_failed"
_GATHER_S = 0.02
"""Many small commits wake us one by one; this long they are collected."""
_LAZY_S = 10.0
"""A cursor that moved over events that meant nothing to its consumer is stored this often."""

Take: TypeAlias = Callable[[SystemTx], None]


class Consumer(Protocol):
    """What reads events. `name` is the name of its cursor and never changes; `types` are all it wants, empty: all."""

    @property
    def name(self) -> str: ...

    @property
    def types(self) -> frozenset[str]: ...

    def take(self, events: Sequence[Event]) -> Take | None:
        """Look at a page of events and say what to write for it; None: nothing. Called in the dispatcher's thread.

        What is returned runs in the transaction that moves the cursor. It may run again after a failure, and writes
        only through its transaction. It must be quick: no network, no model.
        """


class _OvertakenError(Exception):
    """Another process has taken these events."""


@dataclass(slots=True)
class _Reader:
    """A consumer and how far it is."""

    consumer: Consumer
    stored: int
    """The cursor in the database."""
    at: int
    """Where we are; what lies between meant nothing to the consumer."""
    stored_at: float
    failures: int = 0
    resume_at: float = 0.0
    alone_upto: int = 0
    """Up to here events are taken one by one, since one of them fails."""


class Dispatcher:
    """One thread of the server process. Several processes may run one: cursors are moved by compare-and-set."""

    def __init__(
        self,
        database: Database,
        feed: EventFeed,
        consumers: Sequence[Consumer],
        *,
        backoff: Sequence[float] = BACKOFF_S,
    ) -> None:
        names = [consumer.name for consumer in consumers]
        if len(set(names)) < len(names):
            raise ValueError(f"two consumers of events have one name: {', '.join(sorted(names))}")
        self._db = database
        self._feed = feed
        self._consumers = tuple(consumers)
        self._backoff = tuple(backoff)
        # Commits of this process wake us; those of another one (PostgreSQL) are polled for.
        self._poll_s = 0.2 if database.dialect == "postgresql" else 1.0
        self._readers: list[_Reader] | None = None
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="dispatcher", daemon=True)
        database.listen(self._woken)

    def start(self) -> None:
        self._opened()  # a new consumer begins here, whatever happens before the thread's first look
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def _woken(self, topics: set[str]) -> None:
        if "events" in topics:
            self._wake.set()

    def lag(self) -> dict[str, int]:
        """How many positions each consumer is behind; what is not numbered yet is not counted."""
        newest = self._feed.newest()
        return {reader.consumer.name: max(0, newest - reader.at) for reader in self._opened()}

    def _opened(self) -> list[_Reader]:
        if self._readers is None:
            self._readers = [self._open(consumer) for consumer in self._consumers]
        return self._readers

    def _open(self, consumer: Consumer) -> _Reader:
        cursor = self._feed.cursor(consumer.name)
        return _Reader(consumer, cursor, cursor, time.monotonic())

    def _loop(self) -> None:
        while not self._closing.is_set():
            try:
                if not self.tick():
                    self._wake.wait(self._poll_s)
                    self._wake.clear()
                    self._closing.wait(_GATHER_S)
            except MediathecaError as error:
                log.error("dispatcher.tick_failed", error=error.message)
                self._closing.wait(1)
            except Exception as error:  # this thread must outlive whatever the database does
                log.error("dispatcher.crashed", exc_info=error)
                self._closing.wait(1)

    def tick(self) -> int:
        """One page for each consumer; how many events were looked at."""
        self._feed.sequence()
        newest = self._feed.newest()
        return sum(self._advance(reader, newest) for reader in self._opened() if not self._closing.is_set())

    def _advance(self, reader: _Reader, newest: int) -> int:
        """A consumer that fails waits and tries again; the others go on."""
        if reader.at >= newest or reader.resume_at > time.monotonic():
            return 0
        limit = 1 if reader.at < reader.alone_upto else PAGE
        page = self._feed.read(reader.at, limit, types=reader.consumer.types)
        # A page that is not full has seen everything there was when `newest` was read, and maybe more.
        upto = page[-1].position if len(page) == limit else max([newest, *(event.position for event in page)])
        try:
            self._take(reader, page, upto)
        except _OvertakenError:
            reader.stored = reader.at = self._feed.cursor(reader.consumer.name)
        except Exception as error:
            self._failed(reader, page, error)
        else:
            reader.failures = 0
        return len(page)

    def _take(self, reader: _Reader, page: Sequence[Event], upto: int) -> None:
        act = reader.consumer.take(page) if page else None
        if act is None and time.monotonic() - reader.stored_at < _LAZY_S:
            reader.at = upto
            return
        self._commit(reader, upto, act)

    def _commit(self, reader: _Reader, upto: int, act: Take | None) -> None:
        def attempt() -> None:
            with self._db.across(reader.consumer.name) as tx:
                if not self._feed.advance(tx.connection, reader.consumer.name, reader.stored, upto):
                    raise _OvertakenError
                if act is not None:
                    act(tx)

        self._db.again(attempt)
        reader.stored = reader.at = upto
        reader.stored_at = time.monotonic()

    def _failed(self, reader: _Reader, page: Sequence[Event], error: Exception) -> None:
        """Wait longer each time; an event that fails alone again and again is recorded and left out."""
        name = reader.consumer.name
        log.error(
            "event.consumer_failed", consumer=name, position=reader.at, attempt=reader.failures + 1, exc_info=error
        )
        reader.resume_at = time.monotonic() + self._backoff[min(reader.failures, len(self._backoff) - 1)]
        if isinstance(error, UnavailableError):
            return  # not the events' fault: it is tried until the database or the service is back
        reader.failures += 1
        if len(page) > 1:
            reader.alone_upto, reader.failures = page[-1].position, 0
        elif reader.failures >= TRIES:
            event = page[0]
            self._commit(reader, event.position, lambda tx: _record(tx, name, event, error))
            reader.failures, reader.resume_at = 0, 0.0


def _record(tx: SystemTx, consumer: str, event: Event, error: Exception) -> None:
    """Somebody should look at it. Not of a record itself: that would never end."""
    if event.type == FAILED:
        return
    reason = error.message if isinstance(error, MediathecaError) else f"{type(error).__name__}: {error}"
    payload = {"consumer": consumer, "event_id": event.event_id, "event_type": event.type, "position": event.position}
    tx.for_scope(event.scope).emit(FAILED, event.event_id, {**payload, "reason": reason[:500]})
