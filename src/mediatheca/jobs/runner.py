"""Runs extractors over items in child processes of this machine, so that a bad item costs itself and nothing else.

An item may raise, crash the interpreter, hang, or eat memory: the child dies or is killed, a fresh one goes on with
the other items, and the item is tried once more at the end. The second time it is given up for good. Children answer
item by item, so the one at fault is known: the first without an answer.
"""

from __future__ import annotations

import json
import pickle
import selectors
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from mediatheca.extractors import Item, Row
from mediatheca.jobs.runner_child import ChildSettings, Task
from mediatheca.jobs.runner_pool import ChildHandle, Pool, RunnerClosedError
from mediatheca.jobs.runner_wire import decode_rows, load_answer
from mediatheca.kernel.errors import NotFoundError, UnavailableError, ValidationError
from mediatheca.providers import ModelSettings

_PART_ITEMS = 32
_PART_BYTES = 8 << 20
_TICK_S = 0.1
_STRIKES = 2
_MEMORY_SLACK = 1.1
"""The kernel's own limit (RLIMIT_DATA) comes first; the watchdog is for memory it does not count."""


@dataclass(frozen=True, slots=True)
class ItemRows:
    """An item that was extracted; `rows` may be empty."""

    item_id: str
    rows: list[Row]


@dataclass(frozen=True, slots=True)
class ItemFailure:
    """An item that was not. `reason` is for its owner; `trace` is for the log, empty where the reason says it all."""

    item_id: str
    reason: str
    phase: str
    """`input` (cannot be sent), `extract`, `result` (rows cannot be stored), `timeout`, `memory`, `crash`."""
    permanent: bool
    """Trying again will not help."""
    trace: str = ""


ItemResult: TypeAlias = ItemRows | ItemFailure


class Runner(Protocol):
    """Executes extractors; holds no state that matters. Thread-safe."""

    def map(self, extractor_id: str, params: Mapping[str, Any], items: Sequence[Item]) -> Iterator[ItemResult]:
        """One result for every item, in the order they are done.

        Closing the iterator early stops the work.

        Raises:
            NotFoundError: no such extractor.
            ValidationError: it does not take these params.
            UnavailableError: it cannot be opened (a missing model), or no process can be started.
            RunnerClosedError: the runner was closed meanwhile.
        """

    def close(self) -> None:
        """Stop all work."""


class LocalRunner:
    """A `Runner` with at most `processes` children on this machine.

    `memory_limit_mb` is for each child, models included; `item_timeout_s` for each item; `open_timeout_s` for loading
    an extractor. `plugins` are packages scanned for extractors besides the built-in and installed ones.
    """

    def __init__(
        self,
        processes: int,
        memory_limit_mb: int,
        item_timeout_s: float,
        model_settings: ModelSettings,
        plugins: Sequence[str] = (),
        *,
        open_timeout_s: float = 300.0,
    ) -> None:
        if processes < 1:
            raise ValueError(f"a runner needs at least one process, got {processes}")
        settings = ChildSettings(memory_limit_mb, model_settings, tuple(plugins))
        self.processes = processes
        self.item_timeout_s, self.open_timeout_s = item_timeout_s, open_timeout_s
        self.memory_limit = memory_limit_mb << 20
        self.pool = Pool(processes, settings, item_timeout_s)

    def map(self, extractor_id: str, params: Mapping[str, Any], items: Sequence[Item]) -> Iterator[ItemResult]:
        return _Work(self, extractor_id, dict(params), items).run()

    def close(self) -> None:
        self.pool.close()


@dataclass(slots=True, eq=False)
class _Lane:
    """A child at work on a part: `left` are the items without an answer, the first is in its hands."""

    child: ChildHandle
    left: deque[int]
    deadline: float
    opened: bool = False


class _Work:
    """One call of `map`."""

    def __init__(self, runner: LocalRunner, extractor_id: str, params: dict[str, Any], items: Sequence[Item]) -> None:
        self._runner, self._pool = runner, runner.pool
        self._extractor_id, self._params, self._items = extractor_id, params, items
        self._key = f"{extractor_id} {json.dumps(params, sort_keys=True, default=repr)}"
        size = max(1, min(_PART_ITEMS, -(-len(items) // runner.processes)))
        self._queue = deque(deque(range(first, min(first + size, len(items)))) for first in range(0, len(items), size))
        self._lanes: list[_Lane] = []
        self._strikes: dict[int, int] = {}
        self._false_starts = 0
        self._ready: list[ItemResult] = []
        self._next_tick = 0.0

    def run(self) -> Iterator[ItemResult]:
        try:
            with selectors.DefaultSelector() as self._selector:
                while self._queue or self._lanes or self._ready:
                    self._staff()
                    yield from self._handed_out()
                    self._listen()
                    self._watch()
                    yield from self._handed_out()
        finally:
            for lane in self._lanes:
                self._pool.discard(lane.child)

    def _handed_out(self) -> Iterator[ItemResult]:
        """Results so far. The time the caller takes for them does not count against the children."""
        ready, self._ready = self._ready, []
        started = time.monotonic()
        yield from ready
        paused = time.monotonic() - started
        for lane in self._lanes:
            lane.deadline += paused

    # Giving out work

    def _staff(self) -> None:
        """Give waiting parts to children: the first one is waited for, more are welcome if nobody else needs them."""
        while self._queue:
            child = self._pool.take(self._key, wait=not self._lanes)
            if child is None:
                return
            try:
                self._begin(child, self._queue.popleft())
            except BaseException:
                self._pool.discard(child)
                raise

    def _begin(self, child: ChildHandle, part: deque[int]) -> None:
        packed = self._packed(part)
        if not packed:
            self._pool.give(child)
            return
        lane = _Lane(child, part, time.monotonic() + self._runner.open_timeout_s)
        try:
            child.send(Task(self._key, self._extractor_id, self._params, tuple(packed)))
        except OSError:
            self._queue.appendleft(part)
            self._false_start(self._pool.discard(child))
            return
        self._selector.register(child.socket, selectors.EVENT_READ, lane)
        self._lanes.append(lane)

    def _packed(self, part: deque[int]) -> list[bytes]:
        """Pickle items up to a size; `part` keeps those, the rest goes back to the queue."""
        packed: list[bytes] = []
        size = 0
        for index in [part.popleft() for _ in range(len(part))]:
            if size >= _PART_BYTES:
                part.append(index)
                continue
            try:
                packed.append(pickle.dumps(self._items[index], protocol=5))
            except Exception as error:
                self._fail(index, f"the item cannot be sent to a process: {error}", "input", permanent=True)
            else:
                size += len(packed[-1])
                part.append(index)
        if len(part) > len(packed):
            rest = deque(list(part)[len(packed) :])
            self._queue.appendleft(rest)
            for _ in rest:
                part.pop()
        return packed

    # Taking results

    def _listen(self) -> None:
        if not self._lanes:
            return
        now = time.monotonic()
        nearest = min(lane.deadline for lane in self._lanes)
        for key, _ in self._selector.select(max(0.0, min(_TICK_S, nearest - now))):
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
            answer = _parsed(frame)
            if answer is None or not lane.left:
                self._strike(lane, "crash", "the process answered nonsense")
                return
            self._answered(lane, answer)
            if lane not in self._lanes:
                return
        if not lane.left:
            self._stop(lane)
            self._pool.give(lane.child)

    def _answered(self, lane: _Lane, answer: tuple[Any, ...]) -> None:
        lane.deadline = time.monotonic() + self._runner.item_timeout_s
        match answer:
            case ("opened",):
                lane.opened = True
                lane.child.opened.add(self._key)
                self._false_starts = 0
            case ("open_failed", problem, reason):
                self._stop(lane)
                self._pool.give(lane.child)
                raise _open_error(self._extractor_id, problem, reason)
            case ("rows", _, rows):
                self._ready.append(ItemRows(self._items[lane.left.popleft()].item_id, rows))
            case ("failed", _, reason, phase, permanent, trace):
                self._fail(lane.left.popleft(), reason, phase, permanent=permanent, trace=trace)
            case ("memory", _):
                self._strike(lane, "memory", self._too_much())
            case _:
                self._strike(lane, "crash", "the process answered nonsense")

    def _stop(self, lane: _Lane) -> None:
        self._selector.unregister(lane.child.socket)
        self._lanes.remove(lane)

    def _fail(self, index: int, reason: str, phase: str, *, permanent: bool, trace: str = "") -> None:
        self._ready.append(ItemFailure(self._items[index].item_id, reason, phase, permanent, trace))

    # When a child dies, or has to

    def _watch(self) -> None:
        now = time.monotonic()
        for lane in [lane for lane in self._lanes if lane.deadline <= now]:
            limit = self._runner.item_timeout_s if lane.opened else self._runner.open_timeout_s
            self._strike(lane, "timeout", f"it took longer than {limit:g} seconds")
        if now < self._next_tick:
            return
        self._next_tick = now + _TICK_S
        for lane in list(self._lanes):
            if lane.child.memory() > self._runner.memory_limit * _MEMORY_SLACK:
                self._strike(lane, "memory", self._too_much())

    def _too_much(self) -> str:
        return f"it needs more than the {self._runner.memory_limit >> 20} MiB of memory a process may have"

    def _died(self, lane: _Lane) -> None:
        if self._pool.closed:
            raise RunnerClosedError("the runner was closed; the work is taken up again after the restart")
        lane.child.wait_end(1.0)
        self._strike(lane, "crash", "")

    def _strike(self, lane: _Lane, phase: str, reason: str) -> None:
        """Kill the child; the item in its hands is tried once more, last; the others go on first."""
        self._stop(lane)
        ending = self._pool.discard(lane.child)
        reason = reason or f"the process that worked on it {ending}"
        if not lane.left:
            return
        if not lane.opened:
            self._queue.appendleft(lane.left)
            self._false_start(reason)
            return
        index = lane.left.popleft()
        if lane.left:
            self._queue.appendleft(lane.left)
        self._strikes[index] = self._strikes.get(index, 0) + 1
        if self._strikes[index] < _STRIKES:
            self._queue.append(deque([index]))
        else:
            self._fail(index, f"{reason}; it was tried {_STRIKES} times", phase, permanent=True)

    def _false_start(self, reason: str) -> None:
        """A child died before it had opened the extractor: no item's fault. Once more, then it is an error."""
        self._false_starts += 1
        if self._false_starts >= _STRIKES:
            raise UnavailableError(
                f"extractor '{self._extractor_id}' cannot be opened: {reason}. Look at its models and the memory limit"
            )


def _parsed(frame: bytes) -> tuple[Any, ...] | None:
    """A child's answer, with its rows decoded; None when it is none of ours."""
    try:
        answer = load_answer(frame)
        if answer[0] == "rows":
            return ("rows", answer[1], decode_rows(answer[2]))
    except Exception:
        # The child may have been taken over by the file it decoded: whatever it wrote, only it is at fault.
        return None
    return answer if isinstance(answer, tuple) else None


def _open_error(extractor_id: str, problem: str, reason: str) -> Exception:
    if problem == "unknown":
        return NotFoundError("extractor", extractor_id)
    if problem == "params":
        return ValidationError.at("params", f"extractor '{extractor_id}' does not take them: {reason}")
    return UnavailableError(f"extractor '{extractor_id}' cannot be opened: {reason}")
