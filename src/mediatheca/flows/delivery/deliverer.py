"""Sends what is due, from one thread of the server with a loop of its own; several servers share the work.

Delivery is at least once and in no particular order. A message keeps its id over all attempts; who is killed between
sending and recording sends it again. Results are written together, ten times a second: a commit for each would take
longer than the sending.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar

import structlog

from mediatheca.channels import Channel
from mediatheca.flows.delivery.addresses import Address, AddressBook
from mediatheca.flows.delivery.attempts import attempt, outcome
from mediatheca.flows.delivery.backoff import BACKOFF_S, PROBE_S
from mediatheca.flows.delivery.context import Means
from mediatheca.flows.delivery.lanes import Lane, Lanes
from mediatheca.flows.delivery.setup import NotifySetup
from mediatheca.flows.vault import Vault
from mediatheca.kernel import clock
from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.notices import Sent
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.deliveries import Claimed, Deliveries, Result
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.system_tx import SystemTx
from mediatheca.stores.fetch import Fetcher
from mediatheca.telemetry import ATTEMPTS

log = structlog.get_logger()
T = TypeVar("T")

RECORD_S = 0.1
LEASE_S = 60.0
KEEP_DAYS = 30.0
_CLOSE_S = 5.0
_ACTOR = "deliverer"
_NOT_TRIED = ("canceled", "not_configured")


@dataclass(frozen=True, slots=True)
class Recorded:
    """An attempt that was made, as its target's owner is told of it."""

    scope: Scope
    target_kind: str
    target_id: str
    delivery_id: str
    message_id: str
    status: str
    """delivered; pending: it failed and is tried again; failed; canceled; not_configured."""
    gone: bool
    http_status: int
    error: str
    at: datetime


@dataclass(frozen=True, slots=True)
class _Ended:
    claimed: Claimed
    result: Result
    sent: Sent
    at: datetime


class Deliverer:
    """One per server process.

    `channels`: the plug-ins by name. `recorded`, set by the composition root, is called with the attempts that are
    written, in their transaction.
    """

    def __init__(
        self,
        database: Database,
        fetcher: Fetcher,
        vault: Vault,
        channels: Sequence[Channel],
        setup: NotifySetup,
        *,
        backoff: Sequence[float] = BACKOFF_S,
        at_once: int = 256,
        per_target: int = 16,
        probes: Sequence[float] = PROBE_S,
        lease_s: float = LEASE_S,
        now: Callable[[], datetime] = clock.now,
    ) -> None:
        named = {channel.name: channel for channel in channels}
        self.channels: Mapping[str, Channel] = named
        self.recorded: Callable[[SystemTx, Sequence[Recorded]], None] = lambda tx, results: None
        self._db, self._fetcher, self._setup, self._now = database, fetcher, setup, now
        self._rows = Deliveries(database, lease_s)
        self._book = AddressBook(database, vault, named, setup.channels)
        self._lanes = Lanes(at_once, per_target, tuple(probes))
        self._backoff, self._lease_s = tuple(backoff), lease_s
        # Other processes' commits (PostgreSQL) are polled for.
        self._poll_s = 0.5 if database.dialect == "postgresql" else 1.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._held: set[str] = set()
        self._ended: list[_Ended] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._thread = threading.Thread(target=self._main, name="deliverer", daemon=True)
        database.listen(self._heard)

    def start(self) -> None:
        # SQLite belongs to one process: what is being sent belongs to an earlier one that died.
        self._rows.reap(everything=self._db.dialect == "sqlite")
        self._thread.start()

    def kick(self) -> None:
        """Something may be due. From any thread."""
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # it has ended
                loop.call_soon_threadsafe(self._wake.set)

    def close(self) -> None:
        """What is on its way has five seconds; the rest waits for the next start."""
        self._closing = True
        self.kick()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_S + 10)

    def waiting(self) -> int:
        """Messages that are still to be delivered, of all tenants: for metrics."""
        return self._rows.waiting()

    def prune(self) -> int:
        """Forget deliveries of more than a month ago; how many."""
        return self._rows.prune(KEEP_DAYS)

    def _heard(self, topics: set[str]) -> None:
        if any(topic in topics for topic in ("resource:webhook", "resource:channel", "resource:alert")):
            self._book.forget()
        if "deliveries" in topics:
            self.kick()

    # ---- the thread

    def _main(self) -> None:
        with asyncio.Runner() as runner:
            runner.run(self._run())

    async def _run(self) -> None:
        self._wake = asyncio.Event()
        self._threads = ThreadPoolExecutor(3, "deliverer-db")
        self._means = Means(self._fetcher, self._setup, self._now)
        self._loop = asyncio.get_running_loop()
        keeping = [asyncio.create_task(self._for_ever(self._record_all, RECORD_S))]
        keeping.append(asyncio.create_task(self._for_ever(self._keep_leases, self._lease_s / 3)))
        while not self._closing:
            await self._guarded(self._turn)
        await self._end(keeping)

    async def _end(self, keeping: Sequence[asyncio.Task[None]]) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_S)
        for task in [*self._tasks, *keeping]:
            task.cancel()
        await asyncio.gather(*self._tasks, *keeping, return_exceptions=True)
        await self._guarded(self._record_all)
        # Of what was cancelled on its way nobody knows whether it arrived, so it is sent again.
        await self._guarded(lambda: self._in_thread(self._rows.release))
        self._loop = None
        await self._means.close()
        self._threads.shutdown()

    async def _guarded(self, step: Callable[[], Any]) -> None:
        """This thread must outlive whatever the database does."""
        try:
            await step()
        except Exception as error:
            log.error("deliverer.failed", error=str(error), exc_info=error)
            if not self._closing:
                await asyncio.sleep(1)

    async def _for_ever(self, step: Callable[[], Any], pause_s: float) -> None:
        while True:
            await asyncio.sleep(pause_s)
            await self._guarded(step)

    async def _in_thread(self, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)

    async def _turn(self) -> None:
        """Claim what is due where there is room, send it off, and wait for more."""
        self._wake.clear()
        self._held = self._lanes.full()
        wait: float | None = self._poll_s
        if self._lanes.has_room:
            wait = await self._in_thread(self._rows.wait_s, self._held)
            if wait is not None and wait <= 0:
                found = await self._in_thread(self._claim, self._held)
                for claimed, address in found:
                    self._lanes.add(claimed, address)
                self._launch()
                if found:
                    return
                wait = 0.05  # somebody else was faster
        with suppress(TimeoutError):
            async with asyncio.timeout(min(self._poll_s if wait is None else wait, self._poll_s)):
                await self._wake.wait()

    def _claim(self, held: set[str]) -> list[tuple[Claimed, Address]]:
        return [(claimed, self._book.find(claimed)) for claimed in self._rows.claim(self._lanes.claim, held)]

    def _launch(self) -> None:
        if self._closing:
            return
        now = time.monotonic()
        for lane, claimed, address in self._lanes.ready(now):
            task = asyncio.create_task(self._deliver(lane, claimed, address))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        for claimed, delay in self._lanes.postponed(now):
            result = Result(claimed.delivery_id, "pending", delay, counted=False, last_error=_ALONE)
            self._ended.append(_Ended(claimed, result, Sent(error=_ALONE), self._now()))

    async def _deliver(self, lane: Lane, claimed: Claimed, address: Address) -> None:
        context = self._means.bound(claimed.scope.organization_id)
        sent = await attempt(claimed, address, context, self._now())
        result = outcome(claimed, address, sent, self._backoff)
        self._ended.append(_Ended(claimed, result, sent, self._now()))
        fine = not sent.error or not result.counted or result.status in _NOT_TRIED
        if self._lanes.landed(lane, fine, time.monotonic()):
            await self._in_thread(self._rows.hasten, *lane.key)
        self._launch()
        if lane.key[0] in self._held and self._lanes.wants_more(lane):
            self._wake.set()

    # ---- what is written

    async def _keep_leases(self) -> None:
        await self._in_thread(self._rows.renew)
        if await self._in_thread(self._rows.reap):
            self._wake.set()

    async def _record_all(self) -> None:
        ended, self._ended = self._ended, []
        if not ended:
            return
        try:
            await self._in_thread(self._record, ended)
        except BaseException:
            self._ended = [*ended, *self._ended]  # the database is away: once more in a moment
            raise
        if any(each.result.status == "pending" for each in ended):
            self._wake.set()

    def _record(self, ended: Sequence[_Ended]) -> None:
        """One result that the database refuses must not keep back those of all tenants: then each is written alone."""
        try:
            self._write(ended)
        except UnavailableError:
            raise
        except Exception as error:
            if len(ended) == 1:
                self._give_up(ended[0], error)
                return
            for each in ended:
                self._record([each])

    def _give_up(self, ended: _Ended, error: Exception) -> None:
        log.error("deliverer.not_recorded", delivery_id=ended.result.delivery_id, exc_info=error)
        refused = replace(ended, result=Result(ended.result.delivery_id, "failed", last_error=_REFUSED))
        try:
            self._write([refused])
        except UnavailableError:
            raise
        except Exception as again:  # it stays ours until the next start
            log.error("deliverer.not_given_up", delivery_id=ended.result.delivery_id, exc_info=again)

    def _write(self, ended: Sequence[_Ended]) -> None:
        def work() -> None:
            with self._db.across(_ACTOR) as tx:
                ours = {result.delivery_id for result in self._rows.record(tx, [each.result for each in ended])}
                told = [_told(each) for each in ended if each.result.counted and each.claimed.delivery_id in ours]
                if told:
                    self._tell(tx, told)

        self._db.again(work)
        for each in ended:
            if each.result.counted:
                ATTEMPTS.labels(each.claimed.channel["channel"], each.result.status).inc()

    def _tell(self, tx: SystemTx, told: Sequence[Recorded]) -> None:
        """Trouble of whoever listens must not undo the results: their messages would be sent again."""
        try:
            with tx.connection.begin_nested():
                self.recorded(tx, told)
        except Exception as error:
            log.error("deliverer.listener_failed", exc_info=error)


_REFUSED = "the result of the attempt could not be recorded; the server's log says why"
_ALONE = "the receiver failed again and again and is left alone for a while; one attempt at a time tries it"


def _told(ended: _Ended) -> Recorded:
    claimed, result = ended.claimed, ended.result
    return Recorded(
        claimed.scope, claimed.target_kind, claimed.target_id, claimed.delivery_id, claimed.message_id,
        result.status, ended.sent.gone, ended.sent.status, result.last_error or "", ended.at,
    )  # fmt: skip
