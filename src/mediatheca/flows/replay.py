"""Running retrievers to measure them: beside the server's own executions, unrecorded, and never from a cache."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

from mediatheca.flows.neighbours import Surroundings, Weighted
from mediatheca.flows.own_loop import run_until_stopped, stopping
from mediatheca.flows.retrieve import ExecuteRequest, ExecutionContext, RetrieveEngine
from mediatheca.flows.retrieve.request import MAX_PAGE
from mediatheca.flows.retrievers import Compiled
from mediatheca.kernel.errors import MediathecaError, UnavailableError
from mediatheca.kernel.rankings import moves, overlap, rank_biased_overlap
from mediatheca.kernel.scope import Scope

MATCH_ON = ("document_id", "root_object_id", "source_object_id")
"""By what a result is found in the judgments: ids of documents change with a new collection, ids of objects do not."""
MAX_DEPTH = MAX_PAGE
_LONGEST_S = 120.0
T = TypeVar("T")


async def _within(limit_s: float, work: Callable[[], Awaitable[T]]) -> T:
    async with asyncio.timeout(limit_s):
        return await work()


@dataclass(frozen=True, slots=True)
class Ran:
    """What one execution found, best first, and how long it took. `error` is set where it cannot be measured."""

    ids: list[str] = field(default_factory=list)
    latency_ms: float = 0.0
    stages: Mapping[str, float] = field(default_factory=dict)
    degraded: bool = False
    error: str | None = None
    scores: list[float] = field(default_factory=list)
    """Of `ids`, in their order."""
    arms: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Id → search → the raw score it gave, where several searches were fused."""


def replay_request(inputs: Mapping[str, Any], depth: int) -> ExecuteRequest:
    return ExecuteRequest.parse({"inputs": dict(inputs), "limit": min(depth, MAX_DEPTH), "skip_cache": True})


def replay_context(
    around: Surroundings, scope: Scope, found: Compiled, weights: Mapping[str, float] | None = None
) -> ExecutionContext:
    """The scope's own rights, a fixed seed, no cache, nothing learned: weights are the static ones, or `weights`."""
    context = around.context(scope, found, seed=0, cache=None)
    return context if weights is None else replace(context, neighbours=Weighted(around.neighbours(scope), weights))


def ran_of(result: Mapping[str, Any], latency_ms: float, match_on: str = "document_id") -> Ran:
    """The answer of an execution as it is measured. An empty list that is only a degraded answer is an error."""
    shown = {str(item[match_on]): item for item in reversed(result["documents"]) if item.get(match_on)}
    ids = [str(item[match_on]) for item in result["documents"] if item.get(match_on)]
    stages = {name: float(entry["duration_ms"]) for name, entry in result["stage_statistics"]["stages"].items()}
    degraded = result["status"] == "degraded"
    error = result.get("error")
    if error is None and degraded and not ids:
        reasons = "; ".join(str(entry["reason"]) for entry in result.get("degraded", ()))
        error = f"the answer was degraded and empty: {reasons}"
    ids = list(dict.fromkeys(ids))
    scores = [float(shown[ident].get("score") or 0.0) for ident in ids]
    arms = {ident: _arm_scores(shown[ident]) for ident in ids}
    return Ran(ids, latency_ms, stages, degraded, error, scores, arms)


def _arm_scores(item: Mapping[str, Any]) -> dict[str, float]:
    features = (item.get("scores") or {}).get("features") or {}
    return {label: float(entry["score"]) for label, entry in features.items() if "score" in entry}


class Replayer:
    """Executes on an event loop of its own, with an engine of its own, so that measuring never holds up a request."""

    def __init__(self, engine: RetrieveEngine, around: Surroundings) -> None:
        self._engine = engine
        self._around = around
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def run(
        self, scope: Scope, found: Compiled, inputs: Mapping[str, Any], depth: int, match_on: str = "document_id",
        weights: Mapping[str, float] | None = None,
    ) -> Ran:  # fmt: skip
        """One execution. What goes wrong with it is told in `error`, never raised. `weights`: of learned fusion, by
        search; the retriever's static ones otherwise."""

        async def execute() -> Ran:
            began = perf_counter()
            asked = replay_request(inputs, depth)
            context = replay_context(self._around, scope, found, weights)
            result = await self._engine.execute(found.plan, asked, context)
            return ran_of(result, (perf_counter() - began) * 1000, match_on)

        try:
            return self._wait(_within(_LONGEST_S, execute))
        except MediathecaError as error:
            return Ran(error=error.message)
        except TimeoutError:
            return Ran(error=f"no answer within {_LONGEST_S:g} s")

    def call(self, work: Callable[[RetrieveEngine, Surroundings], Coroutine[Any, Any, T]], limit_s: float) -> T:
        """Run something on the loop of those that measure, with their engine.

        Raises:
            UnavailableError: it took longer than `limit_s`, or the server stops.
            MediathecaError: what it raises.
        """
        try:
            return self._wait(_within(limit_s, lambda: work(self._engine, self._around)))
        except TimeoutError as error:
            raise UnavailableError(f"no answer within {limit_s:g} s; try again") from error

    def answers(
        self, scope: Scope, found: Compiled, questions: Sequence[Mapping[str, Any]], limit: int,
        *, collections: Sequence[str] = (), at_once: int = 8,
    ) -> list[Mapping[str, Any]]:  # fmt: skip
        """The answers of a retriever, a few at a time; what goes wrong with one is its `error`, never raised.

        Args:
            questions: the inputs of each execution.
            collections: only these of the retriever's; empty: all.

        Raises:
            ValidationError: one is not a collection of the retriever.
            UnavailableError: the server stops.
        """
        plan = found.plan.narrow(collections)

        async def all_() -> list[Mapping[str, Any]]:
            turns = asyncio.Semaphore(at_once)

            async def one(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
                async with turns:
                    context = replay_context(self._around, scope, found)
                    execute = partial(self._engine.execute, plan, replay_request(inputs, limit), context)
                    try:
                        return await _within(_LONGEST_S, execute)
                    except MediathecaError as error:
                        return {"documents": [], "error": error.message}
                    except TimeoutError:
                        return {"documents": [], "error": f"no answer within {_LONGEST_S:g} s"}

            return await asyncio.gather(*map(one, questions))

        return self._wait(all_())

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        """What comes of it on our loop.

        Raises:
            UnavailableError: the server stops.
        """
        with self._lock:  # whoever closes waits until it is handed over, and then sees it
            if self._closed:
                work.close()
                raise stopping()
            running = asyncio.run_coroutine_threadsafe(work, self._running())
        try:
            return running.result()
        except CancelledError as error:
            raise stopping() from error

    def _running(self) -> asyncio.AbstractEventLoop:
        """Called under the lock."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=run_until_stopped, args=(self._loop,), name="replayer", daemon=True)
            self._thread.start()
        return self._loop

    def close(self) -> None:
        """What still runs is cancelled."""
        with self._lock:
            self._closed = True
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(5)


def compare_runs(inputs: Mapping[str, Any], first: Ran, second: Ran, k: int, p: float) -> dict[str, Any]:
    """Two answers to the same question side by side."""
    return {
        "inputs": dict(inputs),
        "rank_biased_overlap": rank_biased_overlap(first.ids[:k], second.ids[:k], p),
        "overlap_at_k": overlap(first.ids, second.ids, k),
        **moves(first.ids, second.ids, k),
        "a": _side(first, k),
        "b": _side(second, k),
        "latency_delta_ms": second.latency_ms - first.latency_ms,
    }


def _side(ran: Ran, k: int) -> dict[str, Any]:
    return {
        "document_ids": ran.ids[:k],
        "latency_ms": ran.latency_ms,
        "stages": dict(ran.stages),
        "degraded": ran.degraded,
        "error": ran.error,
    }


def mean_of(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
