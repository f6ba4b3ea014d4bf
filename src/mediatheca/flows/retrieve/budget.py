"""The time and the credits of one execution, and running a stage within them."""

from __future__ import annotations

import asyncio
import math
from time import perf_counter

from pydantic import BaseModel

from mediatheca.flows.retrieve.context import Context
from mediatheca.flows.retrieve.plan import PlannedStage
from mediatheca.flows.retrieve.seams import ExecutionContext
from mediatheca.kernel.outside import LanguageUsage
from mediatheca.kernel.search import Hit

MAX_STAGE_MS = 60_000
"""Of a stage that does not say itself that it takes longer."""
RETRY_FACTOR = 2
_NOTHING = LanguageUsage()


class StageTimeoutError(Exception):
    """A stage did not answer in its time."""


class Budget:
    """What an execution may still spend. It begins with the budget."""

    __slots__ = ("_caller", "_started")

    def __init__(self, caller: ExecutionContext) -> None:
        self._caller = caller
        self._started = perf_counter()

    @property
    def elapsed_ms(self) -> float:
        return (perf_counter() - self._started) * 1000

    @property
    def spent(self) -> bool:
        """No time is left."""
        return self._caller.max_time_ms is not None and self.elapsed_ms >= self._caller.max_time_ms

    @property
    def left_ms(self) -> float:
        """At least 1, infinite where there is no limit."""
        limit = self._caller.max_time_ms
        return math.inf if limit is None else max(1.0, limit - self.elapsed_ms)

    @property
    def credits_left(self) -> float | None:
        """None: there is no limit."""
        limit = self._caller.max_credits
        return None if limit is None else max(0.0, limit - self.language.credits)

    @property
    def language(self) -> LanguageUsage:
        """What was spent on language models."""
        return _NOTHING if self._caller.outside is None else self._caller.outside.language.usage

    def language_since(self, before: LanguageUsage) -> LanguageUsage:
        now = self.language
        return LanguageUsage(
            now.calls - before.calls,
            now.input_tokens - before.input_tokens,
            now.output_tokens - before.output_tokens,
            now.credits - before.credits,
        )


def ceiling_ms(stage: PlannedStage, params: BaseModel, context: Context) -> float:
    """How long a stage may take; a cut of what was asked for is reported."""
    wanted = getattr(params, "hard_timeout_ms", None) or stage.stage.hard_timeout_ms
    most = max(MAX_STAGE_MS, stage.stage.hard_timeout_ms)
    if wanted > most:
        context.limit("hard_timeout_ms", wanted, most)
    return float(min(wanted, most))


async def run_in_time(
    stage: PlannedStage, params: BaseModel, hits: list[Hit], context: Context, budget: Budget
) -> list[Hit]:
    """Run within the stage's ceiling and the time budget; a search is tried once more, for twice as long.

    Raises:
        StageTimeoutError: it did not answer.
    """
    ceiling = ceiling_ms(stage, params, context)
    patient = not getattr(params, "interactive", False) and getattr(params, "degrade_retry", True)
    for factor in (1, RETRY_FACTOR) if stage.stage.starts and patient else (1,):
        limit_ms = min(ceiling * factor, budget.left_ms)
        try:
            async with asyncio.timeout(limit_ms / 1000) as timer:
                return await stage.stage.run(hits, params, context)
        except TimeoutError:
            if not timer.expired():
                raise
    raise StageTimeoutError(f"did not answer within {ceiling:g} ms")
