"""Running the retrievers of alerts: on the loop of those that measure, so that no request waits for an alert."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import structlog

from mediatheca.flows.alerts.inputs import mapped_inputs
from mediatheca.flows.alerts.matches import AlertMatches, Match
from mediatheca.flows.alerts.standing import Probe, documents_of, probes_of
from mediatheca.flows.alerts.standing_set import Entry
from mediatheca.flows.neighbours import Surroundings
from mediatheca.flows.replay import Replayer, replay_context
from mediatheca.flows.retrieve import RetrieveEngine
from mediatheca.flows.retrievers import Compiled
from mediatheca.kernel.errors import MediathecaError
from mediatheca.kernel.filters import document_view
from mediatheca.kernel.scope import Scope
from mediatheca.kernel.search import Hit

log = structlog.get_logger()

LONGEST_S = 3_600.0
"""Of all runs of one pass together; each of them has its retriever's own limits."""
SIDE_BY_SIDE = 8
"""Runs at a time: those that call models wait for each other otherwise."""
MAX_MATCHES = 500


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a retriever did not run, and what to do."""

    reason: str
    next_step: str


def trouble(error: Exception) -> Trouble:
    """What to tell of an error."""
    if isinstance(error, MediathecaError):
        step = "give the alert the inputs that its retriever needs, or change the retriever"
        return Trouble(error.message, step if error.status < 500 else "it is tried again with the next documents")
    # What a library says may hold addresses and values that are not for callers.
    log.error("alert.retriever_crashed", exc_info=error)
    return Trouble(f"its retriever failed ({type(error).__name__})", "see the log of the server")


class Runs:
    """Runs retrievers for alerts. Its methods block."""

    def __init__(self, replayer: Replayer) -> None:
        self._replayer = replayer

    def capture(
        self, scope: Scope, wanted: Sequence[tuple[Compiled, Mapping[str, Any]]]
    ) -> list[list[Probe] | Trouble]:
        """What the first stage of each retriever asks with these inputs, or why it cannot be asked."""

        async def one(engine: RetrieveEngine, around: Surroundings, found: Compiled, inputs: Mapping[str, Any]) -> Any:
            try:
                return await probes_of(engine, found.plan, inputs, replay_context(around, scope, found))
            except Exception as error:  # one alert's trouble is its own
                return trouble(error)

        async def work(engine: RetrieveEngine, around: Surroundings) -> list[Any]:
            return [await one(engine, around, found, inputs) for found, inputs in wanted]

        return self._replayer.call(work, LONGEST_S) if wanted else []

    def settle(
        self, scope: Scope, collection_id: str, entries: Sequence[Entry], documents: Sequence[Hit]
    ) -> list[AlertMatches]:
        """Run the retriever of each entry, once, or once for each document whose fields are its inputs."""
        if not entries:
            return []

        async def work(engine: RetrieveEngine, around: Surroundings) -> list[AlertMatches]:
            gate = asyncio.Semaphore(SIDE_BY_SIDE)
            jobs = [_settle(_One(engine, around, scope, gate), collection_id, e, documents) for e in entries]
            return list(await asyncio.gather(*jobs))

        return self._replayer.call(work, LONGEST_S)

    def whole(self, scope: Scope, entry: Entry) -> AlertMatches:
        """Run an entry's retriever; everything that it finds matches."""

        async def work(engine: RetrieveEngine, around: Surroundings) -> AlertMatches:
            one = _One(engine, around, scope, asyncio.Semaphore(1))
            made = AlertMatches(entry.alert, "", error=entry.error, ran=True)
            if not entry.error:
                await _timed(made, one.found(entry, entry.inputs), None)
            return made

        return self._replayer.call(work, LONGEST_S)


@dataclass(frozen=True, slots=True)
class _One:
    """What one run needs."""

    engine: RetrieveEngine
    around: Surroundings
    scope: Scope
    gate: asyncio.Semaphore

    async def found(self, entry: Entry, inputs: Mapping[str, Any]) -> list[Hit]:
        if entry.retriever is None:
            return []
        async with self.gate:
            context = replay_context(self.around, self.scope, entry.retriever)
            return await documents_of(self.engine, entry.retriever.plan, inputs, context)


async def _settle(one: _One, collection_id: str, entry: Entry, documents: Sequence[Hit]) -> AlertMatches:
    made = AlertMatches(entry.alert, collection_id, error=entry.error, ran=True)
    let_through = [hit for hit in documents if _let_through(entry, hit)]
    if entry.error or not let_through:
        made.ran = bool(entry.error)
        return made
    if entry.way.mode == "per_document":
        await _timed(made, _each(one, entry, let_through, made.sources), None)
        return made
    new = {hit.document_id for hit in let_through} if not _waits_for_nothing(entry) else None
    await _timed(made, one.found(entry, entry.inputs), new, collection_id)
    return made


async def _each(one: _One, entry: Entry, documents: Sequence[Hit], sources: list[str]) -> list[Hit]:
    """What the retriever finds for each document, that document itself left out."""

    async def of(document: Hit) -> list[Hit]:
        inputs = {**entry.inputs, **mapped_inputs(entry.mappings, document)}
        found = await one.found(entry, inputs)
        return [h for h in found if (h.document_id, h.collection_id) != (document.document_id, document.collection_id)]

    best: dict[tuple[str, str], Hit] = {}
    for document, hits in zip(documents, await asyncio.gather(*map(of, documents)), strict=True):
        if hits:
            sources.append(document.document_id)
        for hit in hits:
            held = best.get((hit.document_id, hit.collection_id))
            if held is None or held.score < hit.score:
                best[hit.document_id, hit.collection_id] = hit
    return sorted(best.values(), key=lambda hit: (-hit.score, hit.document_id))


async def _timed(made: AlertMatches, run: Any, new: set[str] | None, collection_id: str = "") -> None:
    """Put what a run found into `made`; `new`: only these documents of the collection are of interest."""
    began = perf_counter()
    try:
        found = await run
    except Exception as error:  # one alert's trouble is its own
        told = trouble(error)
        made.error, made.next_step = told.reason, told.next_step
        return
    finally:
        made.duration_ms = (perf_counter() - began) * 1000
    kept = [h for h in found if new is None or (h.document_id in new and h.collection_id == collection_id)]
    made.matches = [Match(hit, hit.score, _features(hit)) for hit in kept[:MAX_MATCHES]]


def _features(hit: Hit) -> dict[str, float]:
    given = hit.scores.get("per_feature") or {}
    return {str(name): float(score) for name, score in given.items() if isinstance(score, int | float)}


def _let_through(entry: Entry, hit: Hit) -> bool:
    view = document_view(hit.payload, hit.document_id, hit.collection_id, hit.system)
    return entry.scroll is None or entry.scroll.matches(view)


def _waits_for_nothing(entry: Entry) -> bool:
    """An alert on an empty answer looks at all of the answer, not at new documents."""
    return entry.alert.body.get("trigger_on") == "no_results"
