"""Running a retriever for a caller: who executes what, and the record that it ran."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from fastapi import Request, Response
from starlette.responses import StreamingResponse

from mediatheca.api.deps import Caller, answer
from mediatheca.flows.executions import ADHOC
from mediatheca.flows.learning import LearningNeighbours
from mediatheca.flows.materialise import ResultWriter
from mediatheca.flows.neighbours import Confined
from mediatheca.flows.retrieve import ExecuteRequest, ExecutionContext, Plan
from mediatheca.flows.retrieve.execute import Tell
from mediatheca.flows.retrieve.streaming import events
from mediatheca.flows.retrievers import Compiled
from mediatheca.kernel.ids import new_id

_QUERY = (
    *("return_presigned_urls", "return_urls", "return_vectors", "explain", "explain_document", "skip_cache"),
    *("limit", "offset", "stream"),
)


def query_of(request: Request) -> dict[str, Any]:
    """What of an execution may be said in the query string."""
    given = request.query_params
    return {name: given[name] for name in _QUERY if name in given} if given else {}


def context_of(caller: Caller, found: Compiled | None = None, **more: Any) -> ExecutionContext:
    """Who executes what, for the engine: a stored retriever, or stages that are not stored.

    Stages that a key which may only read brings along reach nothing outside: they could carry secrets away.
    """
    scope, services = caller.scope, caller.services
    if found is None and "write" not in caller.actor.permissions:
        more["outside"], more["neighbours"] = None, Confined(services.around.neighbours(scope))
    searcher, may_write = services.retrieve.searcher, "write" in caller.actor.permissions
    writer = ResultWriter(services.db, services.writer, searcher, scope, caller.actor.key_id) if may_write else None
    return services.around.context(scope, found, base_url=caller.base_url, materialise=writer, **more)


async def run(
    caller: Caller, plan: Plan, asked: ExecuteRequest, context: ExecutionContext, tell: Tell | None = None
) -> dict[str, Any]:
    """Execute a plan and remember that it ran."""
    learning = LearningNeighbours(context.neighbours, caller.services.learning, caller.scope, asked)
    result = await caller.services.retrieve.execute(plan, asked, replace(context, neighbours=learning), tell)
    result, learned = learning.report(result)
    seen = {
        "collection_ids": [view.collection_id for view in plan.collections],
        "actor": caller.actor.key_id,
        "version": context.version,
        "request": asked.repeatable(),
        **learned,
    }
    caller.services.executions.add(caller.scope, context.retriever_id or ADHOC, asked.inputs, result, **seen)
    return result


async def run_stored(caller: Caller, found: Compiled, asked: ExecuteRequest) -> dict[str, Any]:
    """Execute a compiled retriever and remember that it ran."""
    return await run(caller, found.plan, asked, context_of(caller, found))


async def respond(
    caller: Caller, plan: Plan, asked: ExecuteRequest, context: ExecutionContext, headers: dict[str, str] | None = None
) -> Response:
    """The answer of an execution, at once or, when asked for, as a stream of events."""
    if asked.stream:
        return _stream(caller, plan, asked, context)
    result = await run(caller, plan, asked, context)
    cached = {"X-Cache": "HIT" if result["cache_hit"] else "MISS"} if context.cache is not None else {}
    return answer(result, headers={**(headers or {}), **cached})


def _stream(caller: Caller, plan: Plan, asked: ExecuteRequest, context: ExecutionContext) -> Response:
    ident = context.execution_id or new_id("exec")

    async def answering(tell: Tell) -> dict[str, Any]:
        return await run(caller, plan, asked, context, tell)

    lines: AsyncIterator[bytes] = events(ident, answering)
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no", "X-Execution-Id": ident}
    return StreamingResponse(lines, media_type="text/event-stream", headers=headers)
