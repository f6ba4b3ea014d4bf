"""One execution: walks the stages of a plan within its budgets, and writes down what happened."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter
from typing import Any, Protocol

from pydantic import BaseModel

from mediatheca.flows.retrieve.cache import ResultCache
from mediatheca.flows.retrieve.chunking import fewer_chunks
from mediatheca.flows.retrieve.context import Context, Notes, document_fields, visible
from mediatheca.flows.retrieve.embedding import QueryEmbedder
from mediatheca.flows.retrieve.explain import Step, Trace, standing
from mediatheca.flows.retrieve.optimise import NOTED, SORTS, optimise, passed_over, taken
from mediatheca.flows.retrieve.plan import Plan, PlannedStage, stage_failure
from mediatheca.flows.retrieve.seams import CompileStages, ExecutionContext, Searcher
from mediatheca.flows.retrieve.stage_cache import StageState, StageStates, copied
from mediatheca.kernel.errors import BadRequestError, BudgetError, MediathecaError, UnavailableError, ValidationError
from mediatheca.kernel.filters import Filter, all_of
from mediatheca.kernel.outside import LanguageUsage
from mediatheca.kernel.redaction import Redactor
from mediatheca.kernel.relaxation import Relaxation
from mediatheca.kernel.sandbox import ALLOWANCE, Allowance
from mediatheca.kernel.search import Hit
from mediatheca.telemetry import span

MAX_STAGE_MS = 60_000
"""Of a stage that does not say itself that it takes longer."""
RETRY_FACTOR = 2
MAX_RENDERING_S = 2.0
"""For the templates of all documents of an execution: they are rendered while others wait."""
OF_ALL = ("exact", "embeddings")
"""Of the side channels, what holds for an execution as soon as it holds for a part of it."""
MAX_DEPTH = 3
"""Of retrievers that call retrievers."""
log = logging.getLogger(__name__)


class StageTimeoutError(Exception):
    """A stage did not answer in its time."""


class Tell(Protocol):
    """Hears of every stage as it begins and ends, and of what a stage tells (`data`). It must be quick."""

    def __call__(
        self, event: str, stage: PlannedStage, run: Execution, data: Mapping[str, Any] | None = None
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What every execution of an engine works with."""

    searcher: Searcher
    embedder: QueryEmbedder
    compile: CompileStages
    states: ResultCache[StageState] = field(default_factory=ResultCache)


@dataclass(slots=True)
class Outcome:
    """What an execution came to: all that an answer shows of it. It holds no inputs and no secrets."""

    hits: list[Hit] = field(default_factory=list)
    side: dict[str, Any] = field(default_factory=dict)
    statistics: dict[str, dict[str, Any]] = field(default_factory=dict)
    stage_results: list[dict[str, Any]] = field(default_factory=list)
    relaxations: list[Relaxation] = field(default_factory=list)
    notes: Notes = field(default_factory=Notes)
    applied: list[Filter] = field(default_factory=list)
    """Filters of stages, for the diagnosis of an empty result."""
    page_limit: int | None = None
    error: str | None = None
    taken_ms: float = 0.0
    seed: int | None = None
    language: LanguageUsage = field(default_factory=LanguageUsage)
    spoken: list[dict[str, Any]] = field(default_factory=list)
    """Filters that were said in words, of a ranking whose statistics are not kept."""

    @property
    def status(self) -> str:
        return "failed" if self.error is not None else "degraded" if self.notes.degraded else "completed"


class Execution:
    """The state of one walk through a plan."""

    def __init__(
        self,
        plan: Plan,
        caller: ExecutionContext,
        inputs: dict[str, Any],
        keep: Filter | None,
        wanted: int,
        parts: Parts,
        ancestors: tuple[str, ...] = (),
        trace: Trace | None = None,
        tell: Tell | None = None,
        states: StageStates | None = None,
    ) -> None:
        self.plan = plan
        self.caller = caller
        self.seed = secrets.randbits(31) if caller.seed is None else caller.seed
        self.wanted = wanted
        self.started = perf_counter()
        self.notes = Notes()
        self.relaxations: list[Relaxation] = []
        self.side: dict[str, Any] = {}
        self.statistics: dict[str, dict[str, Any]] = {}
        self.stage_results: list[dict[str, Any]] = []
        self.hits: list[Hit] = []
        self.error: str | None = None
        self.page_limit: int | None = None
        self.applied: list[Filter] = []
        self._keep = all_of(caller.filter, keep)
        self._pending: Filter | None = None
        self._begun = False
        self._noted: dict[str, dict[str, str]] = {}
        self._parts = parts
        self.trace = trace
        self._tell = tell
        self._states = states
        if trace is not None:
            self.notes.searched = trace.searched
        self._ancestors = ancestors or ((caller.retriever_id,) if caller.retriever_id else ("",))
        self.scope: dict[str, Any] = {
            "INPUT": inputs,
            "STAGE": {},
            "SECRET": caller.secrets,
            ALLOWANCE: Allowance(MAX_RENDERING_S),
            "CONTEXT": {
                "namespace_id": caller.namespace_id,
                "internal_id": caller.internal_id,
                "retriever_id": caller.retriever_id,
                "retriever_name": caller.retriever_name,
                "budget_remaining": caller.max_credits,
                "time_elapsed_ms": 0.0,
            },
        }

    @property
    def elapsed_ms(self) -> float:
        return (perf_counter() - self.started) * 1000

    async def run(self) -> Outcome:
        """Walk the stages. A fault of the pipeline ends in `error`.

        Raises:
            MediathecaError: the caller's fault, or a backend that is missing.
        """
        known = {"retriever.id": self.caller.retriever_id, "retriever.version": self.caller.version}
        with span("retriever.execution", **known, collections=len(self.plan.collections)) as traced:
            await self._walk()
            traced.set_attributes({"docs.out": len(self.hits), "degraded": bool(self.notes.degraded)})
        return Outcome(
            hits=self.hits,
            side=self.side,
            statistics=self.statistics,
            stage_results=self.stage_results,
            relaxations=self.relaxations,
            notes=self.notes,
            applied=self.applied,
            page_limit=self.page_limit,
            error=self.error,
            taken_ms=self.elapsed_ms,
            seed=self.seed,
            language=self.language,
        )

    def _resume(self) -> int:
        """Take up what an earlier execution left behind a cached stage; the number of the stage to begin with."""
        policy = self.caller.cache
        state = None if self._states is None or policy is None else self._states.latest(policy.stages)
        if state is None:
            return 0
        self.hits, self.side, self._begun = copied(state.hits), dict(state.side), True
        self.scope["STAGE"].update(state.stages)
        self.scope["CONTEXT"].update(state.aliases)
        self.statistics = {
            name: {**entry, "stage_cache_hit": True, "cache_hit": True} for name, entry in state.statistics.items()
        }
        self.stage_results, self.page_limit = list(state.stage_results), state.page_limit
        self.relaxations.extend(state.relaxations)
        self.notes.warnings.update(state.warnings)
        self.notes.limits.extend(state.limits)
        return state.number + 1

    def _keep_state(self, number: int, stage: PlannedStage) -> None:
        policy = self.caller.cache
        if self._states is None or policy is None or stage.name not in policy.stages:
            return
        if self._pending is not None or self.notes.degraded or not self.notes.repeatable:
            return
        aliases = {
            s.output_alias: self.scope["CONTEXT"].get(s.output_alias) for s in self.plan.stages if s.output_alias
        }
        state = StageState(
            number=number,
            hits=copied(self.hits),
            side=dict(self.side),
            stages=dict(self.scope["STAGE"]),
            aliases=aliases,
            statistics=dict(self.statistics),
            stage_results=list(self.stage_results),
            page_limit=self.page_limit,
            relaxations=list(self.relaxations),
            warnings=dict(self.notes.warnings),
            limits=list(self.notes.limits),
        )
        self._states.keep(state)

    async def _open_secrets(self) -> None:
        """Decrypt what the templates name, now and not earlier; what the caller brought stays."""
        missing = self.plan.secrets - set(self.caller.secrets)
        if missing:
            opened = await self.caller.neighbours.secrets(missing)
            # Into what all pipelines of the execution share: its answer is searched for every one of them.
            self.caller.secrets.update(opened)
            self.notes.repeatable = False  # nobody would look for them in what a cache gives back

    async def _walk(self) -> None:
        await self._open_secrets()
        first = self._resume()
        for number, stage in enumerate(self.plan.stages):
            if number < first:
                continue
            if self._out_of_time(stage):
                return
            began, before, spent = perf_counter(), len(self.hits), self.language
            stood = standing(self.hits) if self.trace is not None else {}
            metadata: dict[str, Any] = {}
            if self._tell is not None:
                self._tell("stage_start", stage, self)
            repeatable = self.notes.repeatable
            failure = await self._guarded(number, stage, metadata)
            self.notes.repeatable = self.notes.repeatable or (repeatable and stage.caching.eager)
            self._record(stage, before, began, metadata, failure)
            self._count_language(stage, spent)
            if self.trace is not None:
                self.trace.steps.append(Step(stage.name, stage.stage.stage_id, stood, standing(self.hits)))
                self.trace.learned[stage.name] = metadata.get("weights") or {}
            if self._tell is not None:
                self._tell("stage_error" if failure else "stage_complete", stage, self)
            if failure is not None and stage.on_error != "skip":
                self.hits, self.error = [], failure
                return
            self._keep_state(number, stage)

    def _out_of_time(self, stage: PlannedStage) -> bool:
        if self.caller.max_time_ms is None or self.elapsed_ms < self.caller.max_time_ms:
            return False
        reason = f"the time budget of {self.caller.max_time_ms:g} ms was spent before stage '{stage.name}'"
        self.notes.degrade("retriever", self.caller.retriever_id or None, reason, "raise max_time_ms", stage.name)
        return True

    async def _guarded(self, number: int, stage: PlannedStage, metadata: dict[str, Any]) -> str | None:
        """Run one stage; what it says went wrong, None when nothing did."""
        try:
            with span(
                "retriever.stage", **{"stage.id": stage.stage.stage_id, "stage.name": stage.name},
                **{"docs.in": len(self.hits)},
            ) as traced:  # fmt: skip
                await self._stage(number, stage, metadata)
                traced.set_attributes({"docs.out": len(self.hits)})
            return None
        except StageTimeoutError as error:
            self._timed_out(stage, str(error))
            return None
        except BudgetError as error:
            self._begun = True
            self.notes.degrade(
                "stage", stage.name, error.message, "the previous stage's documents were kept", stage.name
            )
            return None
        except MediathecaError as error:
            if stage.on_error != "skip":
                raise stage_failure(self._hint(error), stage.place, stage.name) from error
            reason = self._redact(error.message)
        except Exception as error:
            reason = self._redact(f"{type(error).__name__}: {error}")
            # A traceback repeats the error's text, so with secrets in play there is none.
            trace = None if self.caller.secrets else error
            log.error("stage '%s' (%s) failed: %s", stage.name, stage.stage.stage_id, reason, exc_info=trace)
        message = f"stage '{stage.name}' failed: {reason}"
        if stage.on_error == "skip":
            self.notes.degrade("stage", stage.name, message, "the previous stage's documents were kept", stage.name)
        return message

    def _hint(self, error: MediathecaError) -> MediathecaError:
        """A query that came out empty is most often an input that was not given."""
        absent = sorted(self.plan.inputs - set(self.scope["INPUT"]) - {"*"})
        if not isinstance(error, ValidationError) or not absent:
            return error
        hint = f" (inputs not given: {', '.join(absent)})"
        errors = [replace(e, msg=e.msg + hint) if e.type in ("empty", "missing") else e for e in error.errors]
        return ValidationError(error.message, errors)

    def _redact(self, text: str) -> str:
        return Redactor(self.caller.secrets.values()).message(text) if self.caller.secrets else text

    def _timed_out(self, stage: PlannedStage, reason: str) -> None:
        """A search that gave up found nothing; any other stage leaves the documents as they came."""
        if stage.stage.starts and stage.stage.kind == "filter":
            self.hits = []
        self._begun = True
        self.notes.warnings.setdefault(f"{stage.name}: {reason}")
        self.notes.degrade("stage", stage.name, reason, "try again, or raise hard_timeout_ms", stage.name)

    async def _stage(self, number: int, stage: PlannedStage, metadata: dict[str, Any]) -> None:
        if "CONTEXT" in self.plan.names:
            self.scope["CONTEXT"].update(time_elapsed_ms=self.elapsed_ms, budget_remaining=self._credits_left())
        metadata.update(self._noted.get(stage.name, {}))
        if stage.needless is not None:
            metadata[NOTED[SORTS]] = stage.needless
        if passed_over(stage, metadata):
            return
        params = stage.params(self.scope, self.relaxations)
        if self.trace is not None:
            self.trace.params[stage.name] = params
        if self.caller.max_chunks is not None:
            params = fewer_chunks(params, self.caller.max_chunks)
        pre = stage.pre.render(self.scope, self.relaxations)
        own = await self._own_filter(stage, params, metadata)
        self.applied.extend(entry for entry in (pre, own) if entry is not None)
        if own is not None and not self._begun and self._next_starts(number):
            self._pending = all_of(self._pending, pre, own, stage.post.render(self.scope, self.relaxations))
            metadata["pushed_into"] = self.plan.stages[number + 1].name
            return
        took = await taken(stage, self.scope, self._own_filter, capping=self.trace is None)
        self.relaxations.extend(took.relaxations)
        self.applied.extend(took.filters)
        context = self._context(stage, all_of(self._keep, self._pending, pre, own, took.filter), metadata)
        await self._apply(stage, took.capped(params, self.wanted), all_of(pre, took.filter), context)
        self._noted.update(took.notes)
        if number == self.plan.page_stage:
            self.page_limit = getattr(params, "final_top_k", None)

    async def _own_filter(
        self, stage: PlannedStage, params: BaseModel, metadata: dict[str, Any] | None = None
    ) -> Filter | None:
        """What a stage that only filters keeps. It fails where that cannot be found out: nothing passes unfiltered.

        Raises:
            UnavailableError: it took too long, or the budget is spent.
        """
        if stage.stage.as_filter is None:
            return None
        context = self._context(stage, self._keep, {} if metadata is None else metadata)
        ceiling = min(self._ceiling(stage, params, context), self._budget_left())
        try:
            async with asyncio.timeout(ceiling / 1000):
                return await stage.stage.as_filter(params, context)
        except TimeoutError:
            raise UnavailableError(f"what to filter by was not found out within {ceiling:g} ms") from None
        except BudgetError as error:
            raise UnavailableError(error.message) from error

    def _next_starts(self, number: int) -> bool:
        following = self.plan.stages[number + 1 : number + 2]
        return bool(following) and following[0].stage.starts

    async def _apply(self, stage: PlannedStage, params: BaseModel, pre: Filter | None, context: Context) -> None:
        incoming = visible(self.hits, pre)
        # A stage that only filters would list documents anew; after a search that found none, none is the answer.
        may_start = stage.stage.starts and (not self._begun or stage.stage.as_filter is None)
        if incoming or may_start:
            found = await self._timed(stage, params, incoming, context)
        else:
            tells = stage.stage.neutral or stage.stage.kind in ("reduce", "group")
            found = await self._timed(stage, params, incoming, context) if tells else incoming
        self._begun, self._pending = True, None
        self.hits = visible(found, stage.post.render(self.scope, self.relaxations))
        if stage.output_alias:
            self.scope["CONTEXT"][stage.output_alias] = [document_fields(hit) for hit in self.hits]

    def _context(self, stage: PlannedStage, keep: Filter | None, metadata: dict[str, Any]) -> Context:
        made = Context(
            stage=stage.name,
            scope=self.scope,
            collections=self.plan.collections,
            keep=keep,
            caller=self.caller,
            seed=self.seed,
            wanted=self.wanted,
            side=self.side,
            notes=self.notes,
            searcher=self._parts.searcher,
            embedder=self._parts.embedder,
            children=partial(self._child, stage.name),
            told=None if self._tell is None else partial(self._told, self._tell, stage),
        )
        made.metadata = metadata
        return made

    def _told(self, tell: Tell, stage: PlannedStage, event: str, data: Mapping[str, Any]) -> None:
        tell(event, stage, self, data)

    async def _child(
        self,
        stage: str,
        pipeline: str | Sequence[dict[str, Any]],
        inputs: dict[str, Any],
        hits: Sequence[Hit],
        limit: int,
        keep: Filter | None,
        version: int | None = None,
    ) -> list[Hit]:
        """Run another pipeline for a stage; its warnings and degradations become this execution's."""
        if len(self._ancestors) > MAX_DEPTH:
            raise ValidationError.at("retriever_id", f"retrievers call each other more than {MAX_DEPTH} deep", "depth")
        if isinstance(pipeline, str):
            found = self.caller.neighbours.retriever
            ident, plan = await (found(pipeline) if version is None else found(pipeline, version))
            if ident in self._ancestors:
                raise ValidationError.at("retriever_id", f"'{pipeline}' calls itself in a circle", "cyclic")
        else:
            ident, plan = "", self._parts.compile(pipeline, self.plan.collections)
        left = None if self.caller.max_time_ms is None else self._budget_left()
        child = Execution(
            plan=optimise(plan, "off" if self.plan.optimize == "off" else None),
            caller=replace(self.caller, max_time_ms=left, seed=self.seed),
            inputs=plan.schema.check(inputs, plan.inputs).values,
            keep=keep if isinstance(pipeline, str) else all_of(self._keep, keep),
            wanted=limit,
            parts=self._parts,
            ancestors=(*self._ancestors, ident),
            trace=None if self.trace is None else self.trace.within(stage, ident, plan.collections, limit),
        )
        child.hits = list(hits)
        await child.run()
        self.notes.repeatable = self.notes.repeatable and child.notes.repeatable and not isinstance(pipeline, str)
        self.notes.warnings.update(child.notes.warnings)
        self.notes.degraded.update(child.notes.degraded)
        self.notes.limits.extend(child.notes.limits)
        self.side.update({name: child.side[name] for name in OF_ALL if name in child.side})
        if child.error is not None:
            raise BadRequestError(child.error)
        return child.hits[:limit]

    async def _timed(self, stage: PlannedStage, params: BaseModel, hits: list[Hit], context: Context) -> list[Hit]:
        """Run within the stage's ceiling and the time budget; a search is tried once more, for twice as long."""
        ceiling = self._ceiling(stage, params, context)
        retry = (
            stage.stage.starts and not getattr(params, "interactive", False) and getattr(params, "degrade_retry", True)
        )
        for factor in (1, RETRY_FACTOR) if retry else (1,):
            limit_ms = min(ceiling * factor, self._budget_left())
            try:
                async with asyncio.timeout(limit_ms / 1000) as timer:
                    return await stage.stage.run(hits, params, context)
            except TimeoutError:
                if not timer.expired():
                    raise
        raise StageTimeoutError(f"did not answer within {ceiling:g} ms")

    def _ceiling(self, stage: PlannedStage, params: BaseModel, context: Context) -> float:
        wanted = getattr(params, "hard_timeout_ms", None) or stage.stage.hard_timeout_ms
        most = max(MAX_STAGE_MS, stage.stage.hard_timeout_ms)
        if wanted > most:
            context.limit("hard_timeout_ms", wanted, most)
        return float(min(wanted, most))

    def _budget_left(self) -> float:
        if self.caller.max_time_ms is None:
            return math.inf
        return max(1.0, self.caller.max_time_ms - self.elapsed_ms)

    def _credits_left(self) -> float | None:
        """What is left of the budget of credits; None: there is no limit."""
        limit = self.caller.max_credits
        return None if limit is None else max(0.0, limit - self.language.credits)

    @property
    def language(self) -> LanguageUsage:
        """What this execution has spent on language models."""
        return LanguageUsage() if self.caller.outside is None else self.caller.outside.language.usage

    def _count_language(self, stage: PlannedStage, before: LanguageUsage) -> None:
        now = self.language
        self.statistics[stage.name].update(
            llm_calls=now.calls - before.calls,
            tokens_used=now.tokens - before.tokens,
            credits_used=now.credits - before.credits,
        )

    def _record(
        self, stage: PlannedStage, before: int, began: float, metadata: Mapping[str, Any], failure: str | None
    ) -> None:
        taken, after = (perf_counter() - began) * 1000, len(self.hits)
        self.statistics[stage.name] = {
            "input_count": before,
            "output_count": after,
            "duration_ms": taken,
            "efficiency": after / before if before else 0,
            "stage_cache_hit": False,
            "cache_hit": False,
            "error": failure,
            "metadata": metadata,
        }
        self.scope["STAGE"][stage.name] = {
            "count": after,
            "top_score": self.hits[0].score if self.hits else None,
            "metadata": metadata,
        }
        shown = [{"document_id": h.document_id, "score": h.score} for h in self.hits[: self.wanted]]
        self.stage_results.append(
            {
                "stage_name": stage.name,
                "version": "v1",
                "execution_time": taken / 1000,
                "results": shown,
                "metadata": metadata,
            }
        )
