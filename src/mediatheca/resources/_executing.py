"""Running a retriever for a caller: who executes what, and the record that it ran."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

from fastapi import Request, Response
from starlette.responses import StreamingResponse

from mediatheca.api.deps import Caller, answer, json_bytes
from mediatheca.flows.executions import ADHOC
from mediatheca.flows.executions_replay import PinnedWeights, collections_seen
from mediatheca.flows.learning.seen import seen_filter
from mediatheca.flows.materialise import ResultWriter
from mediatheca.flows.neighbours import Confined
from mediatheca.flows.retrieve import ExecuteRequest, ExecutionContext, Plan
from mediatheca.flows.retrieve.execute import Tell
from mediatheca.flows.retrieve.framing import SIDES
from mediatheca.flows.retrieve.streaming import Shown, ids
from mediatheca.flows.retrievers import Compiled
from mediatheca.kernel.filters import parse_filter
from mediatheca.kernel.ids import new_id
from mediatheca.kernel.present import View, result
from mediatheca.telemetry import server_timing

MAX_TIMINGS = 50
"""Stages in a `Server-Timing` header."""
_QUERY = (
    *("return_presigned_urls", "return_urls", "return_vectors", "explain", "explain_document", "skip_cache"),
    *("limit", "offset", "stream", "stream_documents", "include_legacy_results"),
)
_RESULT = ("documents", "facets", *SIDES, "warnings", "limits", "interpretation")


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
    caller: Caller,
    plan: Plan,
    asked: ExecuteRequest,
    context: ExecutionContext,
    tell: Tell | None = None,
    *,
    weights: Mapping[str, Any] | None = None,
    keep: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Execute a plan and remember that it ran.

    Args:
        weights: those that a replay takes instead of drawing new ones.
        keep: what the record holds besides.
    """
    services, record = caller.services, context.record
    views = plan.narrow(asked.collection_identifiers).collections
    around = (context.neighbours, services.learning, caller.scope, asked)
    learning = PinnedWeights(*around, record=record, pinned=weights)
    hidden = await seen_filter(caller.services.db, caller.services.executions, caller.scope, asked)
    seen = parse_filter(hidden, case_sensitive=True) if hidden else None
    context = replace(context, neighbours=learning, seen=seen, principal=caller.actor.key_id or "")
    result = await caller.services.retrieve.execute(plan, asked, context, tell)
    record.setdefault("collections", collections_seen(services.indexer, views))
    result, learned = learning.report(result)
    kept = {
        "collection_ids": [view.collection_id for view in views],
        "actor": caller.actor.key_id,
        "version": context.version,
        "later_page": asked.cursor is not None,
        "request": asked.repeatable() | ({"filters": _both(asked.filters, hidden)} if hidden else {}),
        **record,
        **learned,
        **(keep or {}),
    }
    caller.services.executions.add(caller.scope, context.retriever_id or ADHOC, asked.inputs, result, **kept)
    return result


def _both(filters: Any, hidden: dict[str, Any]) -> Any:
    """The filters of a request together with those that left out what was seen: a replay asks the same."""
    return {"AND": [filters, hidden]} if filters else hidden


async def run_stored(caller: Caller, found: Compiled, asked: ExecuteRequest) -> dict[str, Any]:
    """Execute a compiled retriever and remember that it ran."""
    return await run(caller, found.plan, asked, context_of(caller, found))


async def respond(
    caller: Caller,
    plan: Plan,
    asked: ExecuteRequest,
    context: ExecutionContext,
    headers: dict[str, str] | None = None,
    *,
    last_event: str | None = None,
    keep: Mapping[str, Any] | None = None,
) -> Response:
    """The answer of an execution, at once or, when asked for, as a stream of events.

    `last_event`: the last event of a stream that broke; it goes on from there, and nothing is executed again.
    """
    if asked.stream:
        return _stream(caller, plan, asked, context, last_event, keep)
    result = await run(caller, plan, asked, context, keep=keep)
    cached = _cache_headers(result) if context.cache is not None else {}
    timing = {"Server-Timing": server_timing(_timings(result))}
    return answer(result, headers={**(headers or {}), **cached, **timing})


def _cache_headers(result: dict[str, Any]) -> dict[str, str]:
    """Of a retriever that keeps its results. The tag is that of the result: who found it, and how fast, is left out."""
    found = {"X-Cache": "HIT" if result["cache_hit"] else "MISS", "Cache-Control": "private, no-cache"}
    if result["status"] != "completed":
        return found
    data = json_bytes([result.get(name) for name in _RESULT])
    return {**found, "ETag": f'W/"{hashlib.blake2b(data, digest_size=16).hexdigest()}"'}


def _timings(result: dict[str, Any]) -> list[tuple[str, float]]:
    """What took how long, in milliseconds: the whole, then stage by stage."""
    stages = result["stage_statistics"]["stages"]
    ran = [(name, entry["duration_ms"]) for name, entry in stages.items() if not result["cache_hit"]]
    return [("total", result["execution_time"] * 1000), *ran[:MAX_TIMINGS]]


def _stream(
    caller: Caller, plan: Plan, asked: ExecuteRequest, context: ExecutionContext, last_event: str | None,
    keep: Mapping[str, Any] | None = None,
) -> Response:  # fmt: skip
    streams, owner = caller.services.retrieve.streams, (caller.scope, caller.actor.key_id)
    if last_event:
        ident = last_event.rpartition(":")[0]
        lines = streams.resume(last_event, owner)
    else:
        ident = context.execution_id or new_id("exec")
        named = replace(context, execution_id=ident)

        async def answering(tell: Tell) -> dict[str, Any]:
            return await run(caller, plan, asked, named, tell, keep=keep)

        lines = streams.start(ident, owner, answering, _documents(asked, context)).read()
    return events(lines, ident)


def events(lines: AsyncIterator[bytes], ident: str) -> StreamingResponse:
    """Server-sent events, which no proxy keeps back."""
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no", "X-Execution-Id": ident}
    return StreamingResponse(lines, media_type="text/event-stream", headers=headers)


def _documents(asked: ExecuteRequest, context: ExecutionContext) -> Shown:
    """How a stream shows the documents after a stage. Vectors and signed URLs stand in the last event only."""
    if asked.stream_documents == "full":
        view = View(namespace_id=context.namespace_id, select=asked.select or ())
        return lambda hits: [result(hit, view) for hit in hits]
    return ids if asked.stream_documents == "ids" else lambda hits: []
