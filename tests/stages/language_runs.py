"""Stages with a language model, run through the real engine against a scripted server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import pydantic_ai.models.openai  # noqa: F401 - loaded before any stage's time begins
from stage_runs import VIEW, World

from language_server import KEY, LanguageServer, Script
from mediatheca.flows.outside.language import LanguageProviders
from mediatheca.flows.retrieve import ExecutionContext
from mediatheca.kernel.outside import Outside
from mediatheca.settings import Settings
from mediatheca.testing.stages import StageSuite


def settings_for(server: LanguageServer, **changes: Any) -> Settings:
    own = {"language_url": f"{server.url}/v1", "language_key": KEY, "language_model": "llama3.1:8b"}
    return Settings(**{**own, **changes})


def reach(language: Any) -> Outside:
    """An outside world in which there are language models and nothing else."""
    nothing: Any = None
    return Outside(language=language, http=nothing, sql=nothing, code=nothing, web=nothing)


class LanguageSuite(StageSuite):
    """The contract of stages, with a model that answers from `script`."""

    script: ClassVar[Sequence[Script]] = ("ok",)
    language: ClassVar[Any] = None

    def context(self) -> ExecutionContext:
        return ExecutionContext(outside=reach(self.language), seed=1)

    async def execute(self, rows: Iterable[dict[str, Any]], query: str = "red fox") -> dict[str, Any]:
        with LanguageServer(self.script) as server:
            providers = LanguageProviders(settings_for(server))
            type(self).language = providers.bound()
            try:
                return await super().execute(rows, query)
            finally:
                await providers.aclose()


def run_with_model(
    server: LanguageServer,
    stage_id: str,
    parameters: dict[str, Any],
    rows: Iterable[dict[str, Any]],
    *,
    world: World | None = None,
    changes: dict[str, Any] | None = None,
    budget: dict[str, Any] | None = None,
    context: dict[str, Any] | None = None,
    inputs: dict[str, Any] | None = None,
    views: Sequence[Any] = (VIEW,),
    then: Sequence[dict[str, Any]] = (),
    own: dict[str, Any] | None = None,
    first: bool = False,
    request: dict[str, Any] | None = None,
    look: Callable[[World], None] = lambda world: None,
) -> dict[str, Any]:
    """The answer of an execution of the rows, the stage, and what comes `then`; `first`: the stage begins."""
    place = world or World(list(rows))
    look(place)

    async def run() -> dict[str, Any]:
        providers = LanguageProviders(settings_for(server, **(changes or {})))
        tested = {"stage_name": "tested", "stage_id": stage_id, "parameters": parameters, **(own or {})}
        stages = [tested, *then] if first else [{"stage_id": "given"}, tested, *then]
        caller = ExecutionContext(outside=reach(providers.bound(**(budget or {}))), seed=1, **(context or {}))
        try:
            plan = place.engine.compile(stages, views)
            asked = {"inputs": inputs or {}, "limit": 500, **(request or {})}
            return await place.engine.execute(plan, asked, caller)
        finally:
            await providers.aclose()

    return asyncio.run(run())
