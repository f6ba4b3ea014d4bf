"""The searches of one `feature_search` side by side: one that fails or is late costs its own results, no others'."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from mediatheca.kernel.errors import MediathecaError, ValidationError
from mediatheca.stages import StageContext
from mediatheca.stages._search_arms import Arm, label_of
from mediatheca.stages._search_chunks import run_search
from mediatheca.stages._search_concurrently import together
from mediatheca.stages._search_params import Params, Search

SHARE = 0.9
"""Part of the stage's time that one of several searches may take, so that what the others found can still be shown."""
log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Failed:
    """A search that did not answer."""

    error: Exception
    status: str
    reason: str


async def run_all(params: Params, depths: Sequence[int], ctx: StageContext) -> list[Arm]:
    """Every search that ran; what became of each stands in the stage's metadata.

    Raises:
        ValidationError: a query does not fit, or every search was skipped.
        MediathecaError: none answered; the reason of the first.
    """
    attempt = ctx.metadata.get("attempts", 1)
    alone = len(params.searches) == 1
    limit_s = params.hard_timeout_ms / 1000 * SHARE * attempt
    told: list[dict[str, object]] = []
    runs = [
        _guarded(search, depth, params, ctx, told, None if alone else limit_s)
        for search, depth in zip(params.searches, depths, strict=True)
    ]
    outcomes = await together(runs)
    ctx.metadata["searches"] = told
    arms = [outcome for outcome in outcomes if isinstance(outcome, Arm) and not outcome.skipped]
    failed = [outcome for outcome in outcomes if isinstance(outcome, _Failed)]
    if not arms:
        await _none_answered(failed, params)
    for failure in failed:
        ctx.degrade(f"a search gave nothing: {failure.reason}", "the other searches answered; try again")
    return arms


async def _none_answered(failed: Sequence[_Failed], params: Params) -> None:
    if not failed:
        raise ValidationError.at("searches", "every search was skipped: none has a query and an index", "empty")
    if all(failure.status == "timed_out" for failure in failed):
        # The stage as a whole is late: its own timer, which is about to go off, decides whether it is tried again.
        await asyncio.sleep(params.hard_timeout_ms / 1000)
    raise failed[0].error


async def _guarded(
    search: Search, depth: int, params: Params, ctx: StageContext, told: list[dict[str, object]], limit_s: float | None
) -> Arm | _Failed:
    """Run a search. Alone, its errors are the stage's; beside others, only the caller's own mistakes are."""
    entry: dict[str, object] = {"feature_uri": search.feature_uri, "label": label_of(search), "lexical": search.lexical}
    told.append(entry)
    began = perf_counter()
    try:
        async with asyncio.timeout(limit_s):
            arm = await run_search(search, depth, params, ctx)
    except TimeoutError as error:
        if limit_s is None:
            raise
        outcome = _Failed(error, "timed_out", f"'{label_of(search)}' did not answer in time")
    except MediathecaError as error:
        # A source that cannot be reached is no mistake of the caller's, whatever its status.
        if limit_s is None or (error.status < 500 and not error.retryable):
            raise
        outcome = _Failed(error, "failed", f"'{label_of(search)}': {error.message}")
    except Exception as error:
        if limit_s is None:
            raise
        log.exception("search '%s' failed", label_of(search))
        outcome = _Failed(error, "failed", f"'{label_of(search)}': {type(error).__name__}")
    else:
        entry |= {"status": "skipped" if arm.skipped else "completed", "hits": len(arm.hits), **arm.notes}
        entry["duration_ms"] = (perf_counter() - began) * 1000
        return arm
    entry |= {"status": outcome.status, "hits": 0, "reason": outcome.reason}
    entry["duration_ms"] = (perf_counter() - began) * 1000
    return outcome
