"""Runs extractors on a Ray cluster. Ray only does leased work: it never decides that something is done.

`ray://host:10001` is the client server of a cluster, `ray://auto` the node that this machine already is, `ray://local`
a cluster of this machine alone, which is started and ended with the server. Every node needs the same version of
mediatheca, its extras and the plug-ins. A worker there is an actor (`ray_slot.Slot`) with a child process of its own:
an item that crashes, hangs or eats memory costs that child. When an actor or its node is gone, what it had not answered
is given to the others; no actor is restarted by Ray, so that nothing waits for a node that does not come back.
"""

from __future__ import annotations

import itertools
import os
import pickle
import shutil
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mediatheca.extractors import Artifact, Item, ItemError, Source
from mediatheca.jobs.ray_cluster import RayCluster, RayPool, RayWorker, first_line
from mediatheca.jobs.ray_slot import (
    Event,
    Part,
    SlotSettings,
    pieces,
    unpacked_error,
)
from mediatheca.jobs.runner import RunnerInfo
from mediatheca.jobs.runner_asks import Question
from mediatheca.jobs.runner_parts import PART_ITEMS
from mediatheca.jobs.runner_pool import ScratchRoot
from mediatheca.jobs.runner_results import ItemFailure, ItemProgress, ItemResult, ItemRows
from mediatheca.jobs.runner_supply import Bring, Supply, with_sources
from mediatheca.kernel.desk import NO_DESK, Desk
from mediatheca.kernel.errors import MediathecaError
from mediatheca.kernel.extras import require
from mediatheca.providers import ModelSettings

_PART_BYTES = 8 << 20
_PART_BROUGHT = 4
"""Items of a part where their files must be brought: so many are here at once for each actor."""
_INLINE_BYTES = 1 << 20
"""Files up to this size travel inside their item."""
_TICK_S = 0.2
_HUNGRY_TICK_S = 0.02
"""While an actor waits for files."""
_SILENT_S = 90.0
"""A worker that does not answer for so long is lost, whatever Ray says of its node."""
_LOSSES = 4
"""An item that was in the hands of so many lost workers is given up: it may be what they died of."""


class RayRunner:
    """A `Runner` with at most `processes` actors on a cluster. The limits are those of `LocalRunner`, for each actor.

    Nothing is connected before the first `map`.

    Raises:
        UnavailableError: Ray is not installed, or the address is none.
    """

    def __init__(
        self,
        url: str,
        processes: int,
        memory_limit_mb: int,
        item_timeout_s: float,
        model_settings: ModelSettings,
        plugins: Sequence[str] = (),
        *,
        open_timeout_s: float = 300.0,
        scratch: Path | None = None,
    ) -> None:
        require(f"MEDIATHECA_RUNNER_URL={url}", "ray")
        if processes < 1:
            raise ValueError(f"a runner needs at least one process, got {processes}")
        self.processes, self.open_timeout_s = processes, open_timeout_s
        self.cluster = RayCluster(url, processes)
        settings = SlotSettings(memory_limit_mb, item_timeout_s, open_timeout_s, model_settings, tuple(plugins))
        self.pool = RayPool(self.cluster, processes, settings)
        self.helpers = ThreadPoolExecutor(processes + 8, thread_name_prefix="ray")
        self.scratch = ScratchRoot(scratch)
        self.folder = self.scratch.new()
        self.names = itertools.count()

    def describe(self) -> RunnerInfo:
        return RunnerInfo(self.processes, "ray")

    def map(
        self,
        extractor_id: str,
        params: Mapping[str, Any],
        items: Sequence[Item],
        desk: Desk = NO_DESK,
        *,
        query: str = "",
        bring: Bring | None = None,
    ) -> Iterator[ItemResult]:
        supply = Supply(items, bring, self.scratch.new)
        return _Work(self, _Task(extractor_id, dict(params), query), items, desk, supply).run()

    def close(self) -> None:
        self.pool.close()
        self.helpers.shutdown(wait=False, cancel_futures=True)
        self.cluster.leave()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.scratch.close()


@dataclass(frozen=True, slots=True)
class _Task:
    """What is done to the items."""

    extractor_id: str
    params: dict[str, Any]
    query: str

    @property
    def key(self) -> str:
        return f"{self.extractor_id} {self.query} {sorted(self.params.items(), key=repr)!r}"


@dataclass(slots=True, eq=False)
class _Lane:
    """A worker at a part: `left` are the items without an answer, by id; `news` its next events."""

    worker: RayWorker
    left: dict[str, int]
    news: Future[bytes]
    asked: float
    shipping: bool = True
    error: MediathecaError | None = None


class _Work:
    """One call of `map`."""

    def __init__(self, runner: RayRunner, task: _Task, items: Sequence[Item], desk: Desk, supply: Supply) -> None:
        self._runner, self._pool, self._desk = runner, runner.pool, desk
        self._task, self._items, self._supply = task, items, supply
        most = _PART_BROUGHT if any(map(supply.lacks, range(len(items)))) else PART_ITEMS
        size = max(1, min(most, -(-len(items) // runner.processes)))
        self._queue = deque(deque(range(first, min(first + size, len(items)))) for first in range(0, len(items), size))
        self._lanes: list[_Lane] = []
        self._losses: dict[int, int] = {}
        self._ready: deque[ItemResult] = deque()
        self._files: dict[tuple[int, str], Path] = {}
        """Files of results that are on their way, by lane and name."""
        self._hungry = False

    def run(self) -> Iterator[ItemResult]:
        try:
            while self._queue or self._lanes or self._ready:
                self._staff()
                yield from self._handed_out()
                self._listen()
                yield from self._handed_out()
        finally:
            for lane in self._lanes:
                self._pool.discard(lane.worker)
            self._supply.close()
            for path in self._files.values():
                path.unlink(missing_ok=True)

    def _handed_out(self) -> Iterator[ItemResult]:
        """Results so far. Files of one are there until the next is asked for."""
        started = time.monotonic()
        while self._ready:
            result = self._ready.popleft()
            try:
                yield result
            finally:
                for path in _paths(result):
                    path.unlink(missing_ok=True)
        paused = time.monotonic() - started
        for lane in self._lanes:
            lane.asked += paused

    # Giving out work

    def _staff(self) -> None:
        """Give waiting parts to workers: the first one is waited for, more are welcome."""
        self._hungry = False
        while self._queue:
            self._supply.ask(itertools.chain.from_iterable(self._queue))
            if not self._supply.ready(self._queue[0][0]):
                self._hungry = True
                return
            worker = self._pool.take(self._task.key, wait=not self._lanes)
            if worker is None:
                return
            try:
                packed, files, left = self._packed(self._queue.popleft())
            except BaseException:
                self._pool.give(worker)
                raise
            if not packed:
                self._pool.give(worker)
                continue
            task = self._task
            part = Part(task.extractor_id, task.params, tuple(packed), frozenset(files), task.query)
            news = self._runner.helpers.submit(_ship, worker.actor, part, files)
            self._lanes.append(_Lane(worker, left, news, time.monotonic()))

    def _packed(self, part: deque[int]) -> tuple[list[bytes], dict[str, str], dict[str, int]]:
        """Pickled items up to a size, as far as they are whole; their files by name, their indexes by id. The rest goes
        back to the queue."""
        packed: list[bytes] = []
        files: dict[str, str] = {}
        left: dict[str, int] = {}
        size = 0
        while part and size < _PART_BYTES and self._supply.ready(part[0]):
            index = part.popleft()
            item = self._items[index]
            try:
                item = self._supply.take(index)
                own: dict[str, str] = {}
                if not self._runner.cluster.shares_files:
                    item, own = self._portable(item)
                packed.append(pickle.dumps(item, protocol=5))
            except ItemError as error:
                self._fail(index, str(error), "fetch", permanent=error.permanent)
                continue
            except Exception as error:
                self._fail(index, f"the item cannot be sent to a process: {error}", "input", permanent=True)
                continue
            size += len(packed[-1]) + sum(os.path.getsize(path) for path in own.values())
            files |= own
            left[item.item_id] = index
        if part:
            self._queue.appendleft(part)
        return packed, files, left

    def _portable(self, item: Item) -> tuple[Item, dict[str, str]]:
        """The item without paths of this machine: small files inside it, others by names. Raises OSError."""
        files: dict[str, str] = {}

        def change(source: Source) -> Source:
            if source.path is None:
                return source
            if os.path.getsize(source.path) <= _INLINE_BYTES:
                return replace(source, data=source.read(), path=None)
            name = f"in-{next(self._runner.names)}"
            files[name] = source.path
            return replace(source, path=name)

        return with_sources(item, change), files

    # Taking results

    def _listen(self) -> None:
        if not self._lanes:
            if self._hungry:
                self._pool.check_open()
                self._supply.wait(_TICK_S)
            return
        tick = _HUNGRY_TICK_S if self._hungry else _TICK_S
        done, _ = wait([lane.news for lane in self._lanes], tick, FIRST_COMPLETED)
        for lane in list(self._lanes):
            if lane.news in done:
                self._take_in(lane)
            elif not lane.shipping and time.monotonic() - lane.asked > _SILENT_S:
                self._lost(lane, f"has not answered for {_SILENT_S:g} seconds")

    def _take_in(self, lane: _Lane) -> None:
        try:
            events: list[Event] = pickle.loads(lane.news.result())  # noqa: S301 (from our own actor)
            if not events or events[-1][0] != "done":
                lane.news, lane.asked = lane.worker.actor.events.remote().future(), time.monotonic()
            lane.shipping = False
        except Exception as error:
            self._lost(lane, first_line(error))
            return
        for event in events:
            self._happened(lane, event)

    def _happened(self, lane: _Lane, event: Event) -> None:
        match event:
            case ("result", result):
                self._result(lane, result)
            case ("file", name, offset, piece):
                self._piece(lane, name, offset, piece)
            case ("ask", number, name, payload):
                self._runner.helpers.submit(_respond, lane.worker.actor, self._desk, number, name, payload)
            case ("error", packed):
                lane.error = unpacked_error(packed)
            case ("done",):
                self._done(lane)

    def _done(self, lane: _Lane) -> None:
        self._lanes.remove(lane)
        self._pool.give(lane.worker)
        if lane.error is not None:
            raise lane.error
        if lane.left:
            self._again(lane, "it forgot an item")

    def _result(self, lane: _Lane, result: ItemResult) -> None:
        if not isinstance(result, ItemProgress):
            index = lane.left.pop(result.item_id, None)
            if index is None:
                return
            self._supply.release(index)
        if isinstance(result, ItemRows):
            for row in result.rows:
                row.artifacts = {key: self._here(lane, artifact) for key, artifact in row.artifacts.items()}
            self._forget_files(lane, keep=True)
        self._ready.append(result)

    def _here(self, lane: _Lane, artifact: Artifact) -> Artifact:
        """With the path of the file that came before it. Several rows may name one file."""
        return artifact if artifact.path is None else replace(artifact, path=str(self._files[id(lane), artifact.path]))

    def _forget_files(self, lane: _Lane, *, keep: bool = False) -> None:
        for key in [key for key in self._files if key[0] == id(lane)]:
            path = self._files.pop(key)
            if not keep:
                path.unlink(missing_ok=True)

    def _piece(self, lane: _Lane, name: str, offset: int, piece: bytes) -> None:
        path = self._files.get((id(lane), name))
        if path is None:
            path = self._files[id(lane), name] = self._runner.folder / f"out-{next(self._runner.names)}"
        with open(path, "ab") as file:
            file.write(piece)

    # When a worker is gone

    def _lost(self, lane: _Lane, reason: str) -> None:
        """Kill what may be left of it; others do what it has not answered."""
        self._lanes.remove(lane)
        self._pool.discard(lane.worker)
        self._pool.check_open()
        self._forget_files(lane)
        self._again(lane, reason)

    def _fail(self, index: int, reason: str, phase: str, *, permanent: bool) -> None:
        self._supply.release(index)
        self._ready.append(ItemFailure(self._items[index].item_id, reason, phase, permanent))

    def _again(self, lane: _Lane, reason: str) -> None:
        indexes = list(lane.left.values())
        for index in indexes:
            self._losses[index] = self._losses.get(index, 0) + 1
        for index in [index for index in indexes if self._losses[index] >= _LOSSES]:
            indexes.remove(index)
            why = f"{_LOSSES} workers of the cluster were lost while they had it; the last one: {reason}"
            self._fail(index, why, "crash", permanent=False)
        # One by one after the first time: if one of them kills workers, the others must not suffer for it.
        self._queue.extend(deque([index]) for index in indexes if self._losses[index] > 1)
        rest = deque(index for index in indexes if self._losses[index] == 1)
        if rest:
            self._queue.append(rest)


def _ship(actor: Any, part: Part, files: Mapping[str, str]) -> bytes:
    """Send the files of a part, begin it, and wait for the first news of it."""
    for name, path in files.items():
        for offset, piece in pieces(path):
            actor.store.remote(name, offset, piece).future().result()
    actor.work.remote(part)
    news: bytes = actor.events.remote().future().result()
    return news


def _respond(actor: Any, desk: Desk, number: int, name: str, payload: Any) -> None:
    """Ask the desk what an extractor wants to know."""
    try:
        good, answer = Question(name, payload).put(desk)
    except Exception as error:
        problem = {"name": "UnavailableError", "message": f"the server could not answer: {first_line(error)}"}
        good, answer = False, problem
    with suppress(Exception):  # nobody waits for the answer any more
        actor.answer.remote(number, good, answer)


def _paths(result: ItemResult) -> list[Path]:
    if not isinstance(result, ItemRows):
        return []
    return [Path(made.path) for row in result.rows for made in row.artifacts.values() if made.path is not None]
