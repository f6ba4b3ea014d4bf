"""The retrieval engine: compiles retrievers, executes them, and knows the stages there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mediatheca.flows.retrieve.answer import Answer
from mediatheca.flows.retrieve.cache import ResultCache
from mediatheca.flows.retrieve.embedding import QueryEmbedder
from mediatheca.flows.retrieve.execute import Execution, Parts, Tell
from mediatheca.flows.retrieve.normalise import Registry, normalise_stages, wire_kind
from mediatheca.flows.retrieve.optimise import optimise
from mediatheca.flows.retrieve.outcome import Outcome
from mediatheca.flows.retrieve.paging import Snapshots
from mediatheca.flows.retrieve.plan import Compiler, Plan
from mediatheca.flows.retrieve.request import ExecuteRequest
from mediatheca.flows.retrieve.seams import (
    ContentCutter,
    ContentEmbedder,
    ExecutionContext,
    Fetch,
    Searcher,
    Sign,
    TextAsker,
)
from mediatheca.flows.retrieve.streaming import Streams
from mediatheca.kernel.discovery import discover
from mediatheca.kernel.errors import MediathecaError
from mediatheca.kernel.inputs import InputSchema, parse_input_schema
from mediatheca.kernel.models import Models
from mediatheca.kernel.redaction import Redactor, SecretValues
from mediatheca.kernel.scope import Scope
from mediatheca.stages import ENTRY_POINTS, CollectionView, Stage


class RetrieveEngine:
    """One per process. `compile` is cheap enough for ad-hoc retrievers; keep the plan of a stored one."""

    def __init__(
        self,
        *,
        searcher: Searcher,
        models: Models,
        fetch: Fetch,
        decode: ContentEmbedder,
        cut: ContentCutter | None = None,
        ask: TextAsker | None = None,
        sign: Sign,
        cursor_key: bytes,
        stages: Iterable[Stage] | None = None,
        strict: bool = False,
        lacking: Callable[[str], str] = lambda need: "",
    ) -> None:
        found = discover("mediatheca.stages", Stage, ENTRY_POINTS) if stages is None else stages
        self.stages = Registry(found)
        self._parts = Parts(searcher, QueryEmbedder(models, fetch, decode, cut, ask), self.compile)
        self._sign = sign
        self._snapshots = Snapshots(cursor_key)
        self._cache: ResultCache[Outcome] = ResultCache()
        self._strict = strict
        self._lacking = lacking
        self.streams = Streams()

    @property
    def searcher(self) -> Searcher:
        return self._parts.searcher

    def _unavailable(self, stage: Stage) -> str:
        """Why a stage cannot run here; empty where it can, with the right parameters at least."""
        reasons = [self._lacking(need.name) for need in stage.needs if not need.given]
        return "; ".join(reason for reason in reasons if reason)

    def registry(self, category: str | None = None) -> list[dict[str, Any]]:
        """What `GET /retrievers/stages` shows. Clients know five categories: a group stage is a reduce stage."""
        return [
            {
                "stage_id": stage.stage_id,
                "description": stage.description,
                "category": wire_kind(stage),
                "icon": stage.icon,
                "parameter_schema": stage.params.model_json_schema(),
                "example_config": {"stage_id": stage.stage_id, "parameters": stage.example},
                "common_use_cases": list(stage.use_cases),
                "cost_tier": stage.cost_tier,
                "requires_collections": stage.starts,
                "available": not self._unavailable(stage),
                "unavailable_reason": self._unavailable(stage) or None,
            }
            for stage in sorted(self.stages.stages.values(), key=lambda stage: stage.stage_id)
            if category in (None, stage.kind, wire_kind(stage))
        ]

    def normalise(self, stages: Any) -> list[dict[str, Any]]:
        """Stages as they are stored and shown.

        Raises:
            ValidationError: every stage that is not one.
        """
        return [stage.as_dict() for stage in normalise_stages(stages, self.stages)]

    def compile(self, stages: Any, collections: Sequence[CollectionView], input_schema: Any = None) -> Plan:
        """Check a retriever and make it ready to run.

        Raises:
            ValidationError: every offence, with the path of the offending stage.
        """
        schema = input_schema if isinstance(input_schema, InputSchema) else parse_input_schema(input_schema)
        compiler = Compiler(collections, schema, strict=self._strict, lacking=self._lacking)
        return compiler.compile(normalise_stages(stages, self.stages))

    def forget(self, scope: Scope) -> None:
        """Drop every result that is kept for a namespace: rankings of cursors, cached results, streams that ended.

        On the event loop only.
        """
        for kept in (self._cache, self._parts.states, self._snapshots):
            kept.forget(scope.namespace_id)
        self.streams.forget(scope)

    async def walk(
        self,
        plan: Plan,
        inputs: Mapping[str, Any],
        context: ExecutionContext,
        *,
        wanted: int,
        searcher: Searcher | None = None,
    ) -> Outcome:
        """The documents that a plan finds, without pages, caches or presentation. `searcher`: asked instead of ours.

        A secret's value that a stage put into a document is masked there: what is found is stored and told to others.

        Raises:
            ValidationError: an input is not accepted.
            MediathecaError: a backend or model is missing.
        """
        parts = self._parts if searcher is None else replace(self._parts, searcher=searcher)
        checked = plan.schema.check(inputs, plan.inputs)
        context = replace(context, secrets=SecretValues(context.secrets))
        try:
            outcome = await Execution(optimise(plan), context, checked.values, None, wanted, parts).run()
        except MediathecaError as error:
            raise Redactor(context.secrets.values()).error(error) from None
        if context.secrets:
            hide = Redactor(context.secrets.values())
            outcome.hits = [replace(hit, payload=hide.tree(hit.payload)) for hit in outcome.hits]
        return outcome

    async def execute(
        self,
        plan: Plan,
        request: ExecuteRequest | Mapping[str, Any],
        context: ExecutionContext,
        tell: Tell | None = None,
    ) -> dict[str, Any]:
        """Run a plan and answer with the response body; `tell` hears of every stage.

        Raises:
            ValidationError: the request, or an input, is not accepted.
            MediathecaError: a backend or model is missing.
        """
        asked = request if isinstance(request, ExecuteRequest) else ExecuteRequest.parse(request)
        # Opened here, and not by the walk: an answer from a cache, or a later page, may hold their values, too.
        secrets = SecretValues(context.secrets)
        if missing := plan.secrets - set(secrets):
            secrets.update(await context.neighbours.secrets(missing))
        context = replace(context, secrets=secrets)
        try:
            body = await Answer(
                self._parts, self._sign, self._snapshots, self._cache, plan, asked, context, tell
            ).make()
        except MediathecaError as error:
            raise Redactor(secrets.values()).error(error) from None
        shown: dict[str, Any] = Redactor(secrets.values()).tree(body)
        return shown
