"""One execution: walks the stages of a plan within its budgets, and writes down what happened."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from time import perf_counter
from typing import Any

from pydantic import BaseModel

from mediatheca.flows.retrieve.context import Context, Notes, document_fields, visible
from mediatheca.flows.retrieve.embedding import QueryEmbedder
from mediatheca.flows.retrieve.plan import Plan, PlannedStage, stage_failure
from mediatheca.flows.retrieve.seams import ExecutionContext, Searcher
from mediatheca.kernel.errors import MediathecaError, ValidationError
from mediatheca.kernel.filters import Filter, all_of
from mediatheca.kernel.relaxation import Relaxation
from mediatheca.kernel.search import Hit
from mediatheca.telemetry import span

MAX_STAGE_MS = 60_000
RETRY_FACTOR = 2
log = logging.getLogger(__name__)


class StageTimeoutError(Exception):
    """A stage did not answer in its time."""


class Execution:
    """The state of one walk through a plan."""

    def __init__(
        self,
        plan: Plan,
        caller: ExecutionContext,
        inputs: dict[str, Any],
        keep: Filter | None,
        wanted: int,
        searcher: Searcher,
        embedder: QueryEmbedder,
    ) -> None:
        self.plan = plan
        self.caller = caller
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
        """Filters of stages, for the diagnosis of an empty result."""
        self._keep = all_of(caller.filter, keep)
        self._pending: Filter | None = None
        self._begun = False
        self._searcher = searcher
        self._embedder = embedder
        self.scope: dict[str, Any] = {
            "INPUT": inputs,
            "STAGE": {},
            "SECRET": caller.secrets,
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

    @property
    def status(self) -> str:
        return "failed" if self.error is not None else "degraded" if self.notes.degraded else "completed"

    async def run(self) -> None:
        """Walk the stages. A fault of the pipeline ends in `error`.

        Raises:
            MediathecaError: the caller's fault, or a backend that is missing.
        """
        for number, stage in enumerate(self.plan.stages):
            if self._out_of_time(stage):
                return
            began, before = perf_counter(), len(self.hits)
            metadata: dict[str, Any] = {}
            failure = await self._guarded(number, stage, metadata)
            self._record(stage, before, began, metadata, failure)
            if failure is not None and stage.on_error != "skip":
                self.hits, self.error = [], failure
                return

    def _out_of_time(self, stage: PlannedStage) -> bool:
        if self.caller.max_time_ms is None or self.elapsed_ms < self.caller.max_time_ms:
            return False
        reason = f"the time budget of {self.caller.max_time_ms:g} ms was spent before stage '{stage.name}'"
        self.notes.degrade("retriever", self.caller.retriever_id or None, reason, "raise max_time_ms", stage.name)
        return True

    async def _guarded(self, number: int, stage: PlannedStage, metadata: dict[str, Any]) -> str | None:
        """Run one stage; what it says went wrong, None when nothing did."""
        try:
            with span("retriever.stage", stage=stage.stage.stage_id, name=stage.name):
                await self._stage(number, stage, metadata)
            return None
        except StageTimeoutError as error:
            self._timed_out(stage, str(error))
            return None
        except MediathecaError as error:
            if stage.on_error != "skip":
                raise stage_failure(self._hint(error), stage.place, stage.name) from error
            reason = self._redact(error.message)
        except Exception as error:
            log.exception("stage '%s' (%s) failed", stage.name, stage.stage.stage_id)
            reason = self._redact(f"{type(error).__name__}: {error}")
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
        for secret in self.caller.secrets.values():
            text = text.replace(secret, "***") if len(secret) >= 4 else text
        return text

    def _timed_out(self, stage: PlannedStage, reason: str) -> None:
        """A search that gave up found nothing; any other stage leaves the documents as they came."""
        if stage.stage.starts:
            self.hits = []
        self._begun = True
        self.notes.warnings.setdefault(f"{stage.name}: {reason}")
        self.notes.degrade("stage", stage.name, reason, "try again, or raise hard_timeout_ms", stage.name)

    async def _stage(self, number: int, stage: PlannedStage, metadata: dict[str, Any]) -> None:
        if "CONTEXT" in self.plan.names:
            self.scope["CONTEXT"]["time_elapsed_ms"] = self.elapsed_ms
        params = stage.params(self.scope, self.relaxations)
        pre = stage.pre.render(self.scope, self.relaxations)
        own = None if stage.stage.as_filter is None else stage.stage.as_filter(params)
        self.applied.extend(entry for entry in (pre, own) if entry is not None)
        if own is not None and not self._begun and self._next_starts(number):
            self._pending = all_of(self._pending, pre, own, stage.post.render(self.scope, self.relaxations))
            metadata["pushed_into"] = self.plan.stages[number + 1].name
            return
        context = self._context(stage, all_of(self._keep, self._pending, pre, own), metadata)
        await self._apply(stage, params, pre, context)
        if number == self.plan.page_stage:
            self.page_limit = getattr(params, "final_top_k", None)

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
            found = incoming if stage.stage.kind != "reduce" else await self._timed(stage, params, incoming, context)
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
            mandatory=self.caller.filter,
            wanted=self.wanted,
            side=self.side,
            notes=self.notes,
            searcher=self._searcher,
            embedder=self._embedder,
        )
        made.metadata = metadata
        return made

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
        if wanted > MAX_STAGE_MS:
            context.limit("hard_timeout_ms", wanted, MAX_STAGE_MS)
        return float(min(wanted, MAX_STAGE_MS))

    def _budget_left(self) -> float:
        if self.caller.max_time_ms is None:
            return float(MAX_STAGE_MS * RETRY_FACTOR)
        return max(1.0, self.caller.max_time_ms - self.elapsed_ms)

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
