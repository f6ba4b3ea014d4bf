"""One call of the local runner: items given out in parts, answers taken in, children watched and replaced."""

from __future__ import annotations

import contextlib
import json
import pickle
import selectors
import shutil
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mediatheca.extractors import Item, ItemError
from mediatheca.jobs.runner_asks import OpenQuestions
from mediatheca.jobs.runner_child import Task
from mediatheca.jobs.runner_parts import STRIKES, Parts
from mediatheca.jobs.runner_pool import ChildHandle, Pool, RunnerClosedError, ScratchRoot
from mediatheca.jobs.runner_results import ItemFailure, ItemProgress, ItemResult, ItemRows
from mediatheca.jobs.runner_supply import Supply
from mediatheca.jobs.runner_wire import parsed
from mediatheca.kernel.desk import Desk
from mediatheca.kernel.errors import NotFoundError, UnavailableError, ValidationError

_PART_BYTES = 8 << 20
_TICK_S = 0.1
_HUNGRY_TICK_S = 0.01
"""While a place for work waits for files."""
_LATE_S = 1.0
"""A look that comes so much later than it should says that this machine slept, or had no time for us; then it had none
for the children either, and what they have said meanwhile is still to be heard."""
_END_S = 5.0
"""For which a child that has hung up may go on dying: only then it is known of what."""
_BEATEN_TIMES = 24
"""How many times its limit an item may take if it says that it is alive; then it is not tried again."""
_NEARLY_FULL = 0.7
"""Of the limit: a process that breaks down there broke down for want of memory. Many libraries abort then, and memory
may grow by so much between two looks."""
_MEMORY_SLACK = 1.1
"""The kernel's own limit (RLIMIT_DATA) comes first; the watchdog is for memory it does not count."""


class Host(Protocol):
    """The runner, as far as a call of it needs to know."""

    @property
    def processes(self) -> int: ...

    @property
    def item_timeout_s(self) -> float: ...

    @property
    def open_timeout_s(self) -> float: ...

    @property
    def memory_limit(self) -> int: ...

    @property
    def pool(self) -> Pool: ...

    @property
    def scratch(self) -> ScratchRoot: ...

    @property
    def asks(self) -> Executor: ...

    def confines(self, extractor_id: str) -> bool: ...


@dataclass(slots=True, eq=False)
class _Lane:
    """A child at work on a part: `left` are the items without an answer, the first is in its hands."""

    child: ChildHandle
    left: deque[int]
    questions: OpenQuestions
    deadline: float
    """Unless it is heard of before."""
    end: float
    """Even if it is."""
    opened: bool = False
    memory: int = 0
    """What the child was last seen to have, with this item in its hands."""


class Work:
    """One call of `map`."""

    def __init__(
        self,
        host: Host,
        extractor_id: str,
        params: dict[str, Any],
        items: Sequence[Item],
        desk: Desk,
        query: str,
        supply: Supply,
    ) -> None:
        self._host, self._pool, self._desk, self._query, self._supply = host, host.pool, desk, query, supply
        self._extractor_id, self._params, self._items = extractor_id, params, items
        self._confined = host.confines(extractor_id)
        self._key = f"{extractor_id} {query} {json.dumps(params, sort_keys=True, default=repr)}"
        self._parts = Parts(len(items), host.processes, supply)
        self._lanes: list[_Lane] = []
        self._false_starts = 0
        self._ready: list[ItemResult] = []
        self._next_tick = 0.0
        self._looked = time.monotonic()
        """Until when it is known where the time went."""
        self._hungry = False
        self._files: Path | None = None

    def run(self) -> Iterator[ItemResult]:
        try:
            with selectors.DefaultSelector() as self._selector:
                while self._parts or self._lanes or self._ready:
                    self._staff()
                    yield from self._handed_out()
                    self._listen()
                    self._watch()
                    yield from self._handed_out()
        finally:
            for lane in self._lanes:
                lane.questions.close()
                self._pool.discard(lane.child)
            self._supply.close()
            if self._files is not None:
                shutil.rmtree(self._files, ignore_errors=True)

    def _handed_out(self) -> Iterator[ItemResult]:
        """Results so far. The time the caller takes for them does not count against the children."""
        ready, self._ready = self._ready, []
        started = self._account()
        for result in ready:
            yield result
            _remove_files(result)
        self._looked = time.monotonic()
        self._put_off(self._looked - started)

    def _account(self, expected_s: float = 0.0) -> float:
        """Time that passed beyond what was expected is not the children's. Gives the present moment."""
        now = time.monotonic()
        late_s = now - self._looked - expected_s
        self._looked = now
        if late_s > _LATE_S:
            self._put_off(late_s)
        return now

    def _put_off(self, seconds: float) -> None:
        """Give every child this much more time."""
        for lane in self._lanes:
            lane.deadline += seconds
            lane.end += seconds

    # Giving out work

    def _staff(self) -> None:
        """Give waiting parts to children: the first one is waited for, more are welcome if nobody else needs them."""
        self._hungry = False
        while self._parts:
            if not self._parts.ready():
                self._hungry = True
                return
            child = self._pool.take(self._key, confined=self._confined, wait=not self._lanes)
            if child is None:
                return
            try:
                self._begin(child, self._parts.take())
            except BaseException:
                self._pool.discard(child)
                raise

    def _begin(self, child: ChildHandle, part: deque[int]) -> None:
        packed = self._packed(child, part)
        if not packed:
            self._pool.give(child)
            return
        now = time.monotonic()
        questions = OpenQuestions(self._desk, child.send, self._host.asks)
        lane = _Lane(child, part, questions, now + self._host.open_timeout_s, now + self._host.open_timeout_s)
        try:
            child.send(Task(self._key, self._extractor_id, self._params, tuple(packed), self._query))
        except OSError:
            self._parts.give_back(part)
            self._false_start(self._pool.discard(child))
            return
        self._selector.register(child.socket, selectors.EVENT_READ, lane)
        self._lanes.append(lane)

    def _packed(self, child: ChildHandle, part: deque[int]) -> list[bytes]:
        """Pickle items up to a size; `part` keeps those, the rest is given out later."""
        packed: list[bytes] = []
        size = 0
        for index in [part.popleft() for _ in range(len(part))]:
            if size >= _PART_BYTES:
                part.append(index)
                continue
            try:
                packed.append(pickle.dumps(child.lend(self._supply.take(index)), protocol=5))
            except ItemError as error:
                self._fail(index, str(error), "fetch", permanent=error.permanent)
            except Exception as error:
                self._pool.check_open()  # with the runner the folders go
                # A full disk may have room again; a file that has gone does not come back.
                permanent = not isinstance(error, OSError) or isinstance(error, FileNotFoundError)
                self._fail(index, f"the item cannot be sent to a process: {error}", "input", permanent=permanent)
            else:
                size += len(packed[-1])
                part.append(index)
        if len(part) > len(packed):
            rest = deque(list(part)[len(packed) :])
            self._parts.give_back(rest)
            for _ in rest:
                part.pop()
        return packed

    # Taking results

    def _listen(self) -> None:
        if not self._lanes:
            if self._hungry:
                self._pool.check_open()
                self._supply.wait(_TICK_S)
            return
        now = self._account()
        nearest = min(lane.deadline for lane in self._lanes)
        tick = _HUNGRY_TICK_S if self._hungry else _TICK_S
        wait_s = max(0.0, min(tick, nearest - now))
        heard = self._selector.select(wait_s)
        self._account(wait_s)
        for key, _ in heard:
            lane: _Lane = key.data
            try:
                frames = lane.child.receive()
            except (EOFError, OSError):
                self._died(lane)
            except ValueError as error:
                self._strike(lane, "crash", f"the process answered nonsense ({error})")
            else:
                self._take_in(lane, frames)

    def _take_in(self, lane: _Lane, frames: list[bytes]) -> None:
        for frame in frames:
            answer = parsed(frame, lambda name: lane.child.inbox.take(name, self._spool()))
            if answer is None or not lane.left:
                self._strike(lane, "crash", "the process answered nonsense")
                return
            self._answered(lane, answer)
            if lane not in self._lanes:
                return
        if not lane.left:
            self._stop(lane)
            lane.child.take_back()
            self._pool.give(lane.child)

    def _spool(self) -> Path:
        if self._files is None:
            self._files = self._host.scratch.new()
        return self._files

    def _answered(self, lane: _Lane, answer: tuple[Any, ...]) -> None:
        if lane.opened or answer[0] == "opened":
            lane.deadline = time.monotonic() + self._host.item_timeout_s
        match answer:
            case ("beat", float(done)):
                if done > 0:
                    self._ready.append(ItemProgress(self._items[lane.left[0]].item_id, min(done, 1.0)))
            case ("ask", int(number), str(name), payload):
                self._asked(lane, number, name, payload)
            case ("opened",):
                lane.opened = True
                lane.child.opened.add(self._key)
                self._false_starts = 0
                self._item_begins(lane)
            case ("open_failed", problem, reason):
                self._not_opened(lane, problem, reason)
            case ("rows", _, rows, dropped, times):
                index = lane.left.popleft()
                self._supply.release(index)
                self._ready.append(ItemRows(self._items[index].item_id, rows, dropped, times))
                self._item_begins(lane)
            case ("failed", _, reason, phase, permanent, trace):
                self._fail(lane.left.popleft(), reason, phase, permanent=permanent, trace=trace)
                self._item_begins(lane)
            case ("memory", _):
                self._strike(lane, "memory", self._too_much())
            case _:
                self._strike(lane, "crash", "the process answered nonsense")

    def _item_begins(self, lane: _Lane) -> None:
        lane.memory = 0
        lane.end = time.monotonic() + _BEATEN_TIMES * self._host.item_timeout_s

    def _asked(self, lane: _Lane, number: int, name: str, payload: Any) -> None:
        try:
            lane.questions.take(number, name, payload)
        except ValueError as error:
            self._strike(lane, "crash", f"the process asked nonsense ({str(error)[:200]})")

    def _not_opened(self, lane: _Lane, problem: str, reason: str) -> None:
        self._stop(lane)
        if problem == "confined" and lane.child.opened:
            # It was confined when it opened another one before; a fresh child may still load what it lacks.
            self._parts.give_back(lane.left)
            self._pool.discard(lane.child)
            return
        lane.child.take_back()
        self._pool.give(lane.child)
        raise _open_error(self._extractor_id, problem, reason)

    def _stop(self, lane: _Lane) -> None:
        lane.questions.close()
        self._selector.unregister(lane.child.socket)
        self._lanes.remove(lane)

    def _fail(self, index: int, reason: str, phase: str, *, permanent: bool, trace: str = "") -> None:
        self._supply.release(index)
        self._ready.append(ItemFailure(self._items[index].item_id, reason, phase, permanent, trace))

    # When a child dies, or has to

    def _watch(self) -> None:
        now = self._account()
        for lane in list(self._lanes):
            self._check_time(lane, now)
        if now < self._next_tick:
            return
        self._next_tick = now + _TICK_S
        for lane in list(self._lanes):
            lane.memory = lane.child.memory() or lane.memory
            if lane.memory > self._host.memory_limit * _MEMORY_SLACK:
                self._strike(lane, "memory", self._too_much())

    def _check_time(self, lane: _Lane, now: float) -> None:
        limit = self._host.item_timeout_s if lane.opened else self._host.open_timeout_s
        if lane.opened and lane.end <= now:
            reason = f"it took longer than {_BEATEN_TIMES * limit:g} seconds in all"
            self._strike(lane, "timeout", reason, once=True)
            return
        lane.deadline = max(lane.deadline, lane.questions.until(limit))
        if lane.deadline <= now:
            self._strike(lane, "timeout", f"it took longer than {limit:g} seconds")

    def _too_much(self) -> str:
        return f"it needs more than the {self._host.memory_limit >> 20} MiB of memory a process may have"

    def _died(self, lane: _Lane) -> None:
        if self._pool.closed:
            raise RunnerClosedError("the runner was closed; the work is taken up again after the restart")
        lane.child.wait_end(_END_S)
        if lane.memory > _NEARLY_FULL * self._host.memory_limit:
            self._strike(lane, "memory", f"{self._too_much()}: it broke down at {lane.memory >> 20} MiB")
        else:
            self._strike(lane, "crash", "")

    def _strike(self, lane: _Lane, phase: str, reason: str, *, once: bool = False) -> None:
        """Kill the child; the item in its hands is tried once more, last; the others go on first."""
        self._stop(lane)
        ending = self._pool.discard(lane.child)
        reason = reason or f"the process that worked on it {ending}"
        if not lane.left:
            return
        if not lane.opened:
            self._parts.give_back(lane.left)
            self._false_start(reason)
            return
        index = lane.left.popleft()
        if lane.left:
            self._parts.give_back(lane.left)
        if once:
            self._fail(index, reason, phase, permanent=True)
        elif self._parts.strike(index):
            self._supply.release(index)
        else:
            self._fail(index, f"{reason}; it was tried {STRIKES} times", phase, permanent=True)

    def _false_start(self, reason: str) -> None:
        """A child died before it had opened the extractor: no item's fault. Once more, then it is an error."""
        self._false_starts += 1
        if self._false_starts >= STRIKES:
            raise UnavailableError(
                f"extractor '{self._extractor_id}' cannot be opened: {reason}. Look at its models and the memory limit"
            )


def _remove_files(result: ItemResult) -> None:
    """The caller has taken what it wants of them."""
    if isinstance(result, ItemRows):
        for path in {made.path for row in result.rows for made in row.artifacts.values() if made.path}:
            with contextlib.suppress(FileNotFoundError):
                Path(path).unlink()


def _open_error(extractor_id: str, problem: str, reason: str) -> Exception:
    if problem == "unknown":
        return NotFoundError("extractor", extractor_id)
    if problem == "params":
        return ValidationError.at("params", f"extractor '{extractor_id}' does not take them: {reason}")
    return UnavailableError(f"extractor '{extractor_id}' cannot be opened: {reason}")
