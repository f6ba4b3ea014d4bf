"""One execution: walks the stages of a plan within its budgets, and writes down what happened."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter
from typing import Any, Protocol

from pydantic import BaseModel

from mediatheca.flows.retrieve.budget import Budget, StageTimeoutError, ceiling_ms, run_in_time
from mediatheca.flows.retrieve.cache import ResultCache
from mediatheca.flows.retrieve.chunking import fewer_chunks
from mediatheca.flows.retrieve.context import Context, document_fields, visible
from mediatheca.flows.retrieve.embedding import QueryEmbedder
from mediatheca.flows.retrieve.explain import Step, Trace, standing
from mediatheca.flows.retrieve.optimise import NOTED, SORTS, optimise, passed_over, taken
from mediatheca.flows.retrieve.outcome import OF_ALL, Outcome
from mediatheca.flows.retrieve.plan import Plan, PlannedStage, stage_failure
from mediatheca.flows.retrieve.seams import CompileStages, ExecutionContext, Searcher
from mediatheca.flows.retrieve.stage_cache import StageState, StageStates, state_of, take_up
from mediatheca.kernel.errors import BadRequestError, BudgetError, MediathecaError, UnavailableError, ValidationError
from mediatheca.kernel.filters import Filter, all_of
from mediatheca.kernel.outside import LanguageUsage
from mediatheca.kernel.redaction import Redactor
from mediatheca.kernel.sandbox import ALLOWANCE, Allowance
from mediatheca.kernel.search import Hit
from mediatheca.telemetry import span

MAX_RENDERING_S = 2.0
"""For the templates of all documents of an execution: they are rendered while others wait."""
MAX_DEPTH = 3
"""Of retrievers that call retrievers."""
log = logging.getLogger(__name__)


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
        self.wanted = wanted
        self.budget = Budget(caller)
        self.seed = secrets.randbits(31) if caller.seed is None else caller.seed
        self.out = Outcome(seed=self.seed)
        self._keep = all_of(caller.filter, keep)
        self._pending: Filter | None = None
        self._begun = False
        self._noted: dict[str, dict[str, str]] = {}
        self._parts = parts
        self.trace = trace
        self._tell = tell
        self._states = states
        if trace is not None:
            self.out.notes.trace = trace
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

    async def run(self) -> Outcome:
        """Walk the stages. A fault of the pipeline ends in `error`.

        Raises:
            MediathecaError: the caller's fault, or a backend that is missing.
        """
        known = {"retriever.id": self.caller.retriever_id, "retriever.version": self.caller.version}
        with span("retriever.execution", **known, collections=len(self.plan.collections)) as traced:
            await self._walk()
            traced.set_attributes({"docs.out": len(self.out.hits), "degraded": bool(self.out.notes.degraded)})
        self.out.taken_ms, self.out.language = self.budget.elapsed_ms, self.budget.language
        return self.out

    def _resume(self) -> int:
        """Take up what an earlier execution left behind a cached stage; the number of the stage to begin with."""
        policy = self.caller.cache
        state = None if self._states is None or policy is None else self._states.latest(policy.stages)
        if state is None:
            return 0
        take_up(state, self.out, self.scope)
        self._begun = True
        return state.number + 1

    def _keep_state(self, number: int, stage: PlannedStage) -> None:
        policy, notes = self.caller.cache, self.out.notes
        if self._states is None or policy is None or stage.name not in policy.stages:
            return
        if self._pending is None and not notes.degraded and notes.repeatable:
            self._states.keep(state_of(number, self.plan, self.out, self.scope))

    async def _open_secrets(self) -> None:
        """Decrypt what the templates name, now and not earlier; what the caller brought stays."""
        missing = self.plan.secrets - set(self.caller.secrets)
        if missing:
            opened = await self.caller.neighbours.secrets(missing)
            # Into what all pipelines of the execution share: its answer is searched for every one of them.
            self.caller.secrets.update(opened)
            self.out.notes.repeatable = False  # nobody would look for them in what a cache gives back

    async def _walk(self) -> None:
        for ident in self.plan.gone:
            step = "give the retriever other collection_identifiers with PATCH"
            self.out.notes.degrade("collection", ident, f"collection '{ident}' was deleted", step, None)
        await self._open_secrets()
        first = self._resume()
        for number, stage in enumerate(self.plan.stages[first:], first):
            if self._out_of_time(stage):
                return
            began, before, spent = perf_counter(), len(self.out.hits), self.budget.language
            stood = standing(self.out.hits) if self.trace is not None else {}
            metadata: dict[str, Any] = {}
            if self._tell is not None:
                self._tell("stage_start", stage, self)
            repeatable = self.out.notes.repeatable
            failure = await self._guarded(number, stage, metadata)
            self.out.notes.repeatable = self.out.notes.repeatable or (repeatable and stage.caching.eager)
            self._record(stage, before, (perf_counter() - began) * 1000, metadata, failure, spent)
            if self.trace is not None:
                self.trace.steps.append(Step(stage.name, stage.stage.stage_id, stood, standing(self.out.hits)))
                self.trace.learned[stage.name] = metadata.get("weights") or {}
            if self._tell is not None:
                self._tell("stage_error" if failure else "stage_complete", stage, self)
            if failure is not None and stage.on_error != "skip":
                self.out.hits, self.out.error = [], failure
                return
            self._keep_state(number, stage)

    def _out_of_time(self, stage: PlannedStage) -> bool:
        if not self.budget.spent:
            return False
        reason = f"the time budget of {self.caller.max_time_ms:g} ms was spent before stage '{stage.name}'"
        self.out.notes.degrade("retriever", self.caller.retriever_id or None, reason, "raise max_time_ms", stage.name)
        return True

    async def _guarded(self, number: int, stage: PlannedStage, metadata: dict[str, Any]) -> str | None:
        """Run one stage; what it says went wrong, None when nothing did."""
        try:
            with span(
                "retriever.stage", **{"stage.id": stage.stage.stage_id, "stage.name": stage.name},
                **{"docs.in": len(self.out.hits)},
            ) as traced:  # fmt: skip
                await self._stage(number, stage, metadata)
                traced.set_attributes({"docs.out": len(self.out.hits)})
            return None
        except StageTimeoutError as error:
            self._timed_out(stage, str(error))
            return None
        except BudgetError as error:
            self._begun = True
            self.out.notes.degrade(
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
            self.out.notes.degrade("stage", stage.name, message, "the previous stage's documents were kept", stage.name)
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
            self.out.hits = []
        self._begun = True
        self.out.notes.warnings.setdefault(f"{stage.name}: {reason}")
        self.out.notes.degrade("stage", stage.name, reason, "try again, or raise hard_timeout_ms", stage.name)

    async def _stage(self, number: int, stage: PlannedStage, metadata: dict[str, Any]) -> None:
        if "CONTEXT" in self.plan.names:
            self.scope["CONTEXT"].update(
                time_elapsed_ms=self.budget.elapsed_ms, budget_remaining=self.budget.credits_left
            )
        metadata.update(self._noted.get(stage.name, {}))
        if stage.needless is not None:
            metadata[NOTED[SORTS]] = stage.needless
        if passed_over(stage, metadata):
            return
        params = stage.params(self.scope, self.out.relaxations)
        if self.trace is not None:
            self.trace.params[stage.name] = params
        if self.caller.max_chunks is not None:
            params = fewer_chunks(params, self.caller.max_chunks)
        pre = stage.pre.render(self.scope, self.out.relaxations)
        own = await self._own_filter(stage, params, metadata)
        self.out.applied.extend(entry for entry in (pre, own) if entry is not None)
        if own is not None and not self._begun and self._next_starts(number):
            self._pending = all_of(self._pending, pre, own, stage.post.render(self.scope, self.out.relaxations))
            metadata["pushed_into"] = self.plan.stages[number + 1].name
            return
        took = await taken(stage, self.scope, self._own_filter, capping=self.trace is None)
        self.out.relaxations.extend(took.relaxations)
        self.out.applied.extend(took.filters)
        context = self._context(stage, all_of(self._keep, self._pending, pre, own, took.filter), metadata)
        await self._apply(stage, took.capped(params, self.wanted), all_of(pre, took.filter), context)
        self._noted.update(took.notes)
        if number == self.plan.page_stage:
            self.out.page_limit = getattr(params, "final_top_k", None)

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
        ceiling = min(ceiling_ms(stage, params, context), self.budget.left_ms)
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
        incoming = visible(self.out.hits, pre)
        # A stage that only filters would list documents anew; after a search that found none, none is the answer.
        may_start = stage.stage.starts and (not self._begun or stage.stage.as_filter is None)
        tells = stage.stage.neutral or stage.stage.kind in ("reduce", "group")
        runs = incoming or may_start or tells
        found = await run_in_time(stage, params, incoming, context, self.budget) if runs else incoming
        self._begun, self._pending = True, None
        post = stage.post.render(self.scope, self.out.relaxations)
        if self.trace is not None and post is not None:
            self.trace.unfiltered[stage.name] = (post, standing(found))
        self.out.hits = visible(found, post)
        if stage.output_alias:
            self.scope["CONTEXT"][stage.output_alias] = [document_fields(hit) for hit in self.out.hits]

    def _context(self, stage: PlannedStage, keep: Filter | None, metadata: dict[str, Any]) -> Context:
        made = Context(
            stage=stage.name,
            scope=self.scope,
            collections=self.plan.collections,
            keep=keep,
            caller=self.caller,
            seed=self.seed,
            wanted=self.wanted,
            side=self.out.side,
            notes=self.out.notes,
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
            ask = self.caller.neighbours.retriever
            ident, plan = await (ask(pipeline) if version is None else ask(pipeline, version))
            if ident in self._ancestors:
                raise ValidationError.at("retriever_id", f"'{pipeline}' calls itself in a circle", "cyclic")
        else:
            ident, plan = "", self._parts.compile(pipeline, self.plan.collections)
        left = None if self.caller.max_time_ms is None else self.budget.left_ms
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
        child.out.hits = list(hits)
        found = await child.run()
        ours, theirs = self.out.notes, found.notes
        ours.repeatable = ours.repeatable and theirs.repeatable and not isinstance(pipeline, str)
        ours.warnings.update(theirs.warnings)
        ours.degraded.update(theirs.degraded)
        ours.limits.extend(theirs.limits)
        self.out.side.update({name: found.side[name] for name in OF_ALL if name in found.side})
        if found.error is not None:
            raise BadRequestError(found.error)
        return found.hits[:limit]

    def _record(
        self,
        stage: PlannedStage,
        before: int,
        taken_ms: float,
        metadata: Mapping[str, Any],
        failure: str | None,
        spent: LanguageUsage,
    ) -> None:
        language = self.budget.language_since(spent)
        self.out.record(stage.name, before, taken_ms, metadata, failure, language, self.wanted)
        hits = self.out.hits
        told = {"count": len(hits), "top_score": hits[0].score if hits else None, "metadata": metadata}
        self.scope["STAGE"][stage.name] = told
