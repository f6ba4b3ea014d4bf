"""Several queries of one retriever at once, answered together or as a stream of events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from mediatheca.api.deps import Caller, Reader, answer, json_body
from mediatheca.flows.bodies import checked
from mediatheca.flows.retrieve import ExecuteRequest
from mediatheca.flows.retrieve.request import MAX_UNKNOWN
from mediatheca.flows.retrieve.streaming import Put
from mediatheca.flows.retrievers import Compiled
from mediatheca.kernel.errors import MediathecaError, ValidationError
from mediatheca.kernel.ids import new_id
from mediatheca.resources._executing import events, run_stored

router = APIRouter(tags=["retrievers"])
MAX_QUERIES = 16
SETTINGS = ("limit", "max_chunks")
_FLAGS = ("return_presigned_urls", "return_vectors")


class OneQuery(BaseModel):
    model_config = ConfigDict(extra="allow")

    inputs: dict[str, Any] = Field(default_factory=dict)
    filters: Any = None


class BatchSpec(BaseModel):
    """Up to 16 queries of one retriever, a few at a time. Unknown keys are told, and ignored."""

    model_config = ConfigDict(extra="allow")

    queries: list[OneQuery] = Field(min_length=1)
    settings: dict[str, Any] = Field(default_factory=dict)
    concurrency: int = Field(5, ge=1, le=20)
    return_presigned_urls: bool = False
    return_vectors: bool = False
    stream: bool = False
    version: int | None = Field(None, ge=1)
    session_id: str | None = None
    user_id: str | None = None

    def warnings(self) -> list[str]:
        unknown = list(self.model_extra or {})
        unknown += [f"settings.{key}" for key in self.settings if key not in SETTINGS]
        unknown += [f"queries.{n}.{key}" for n, query in enumerate(self.queries) for key in query.model_extra or {}]
        return [f"the request key '{key[:100]}' is not known and was ignored" for key in unknown[:MAX_UNKNOWN]]

    def request(self, number: int, flags: Mapping[str, bool]) -> ExecuteRequest:
        """The request of one query."""
        query = self.queries[number]
        settings = {name: self.settings[name] for name in SETTINGS if self.settings.get(name) is not None}
        named = {"version": self.version, "session_id": self.session_id, "user_id": self.user_id}
        return ExecuteRequest.parse(
            {**named, "settings": settings, **flags, "inputs": query.inputs, "filters": query.filters}
        )


@router.post("/retrievers/{identifier}/execute/batch", operation_id="execute_retriever_batch", response_model=None)
async def execute_batch(identifier: str, request: Request, caller: Reader) -> Response:
    """Run a stored retriever on several queries. A query that fails says why; the others answer.

    `stream`: `query_complete` or `query_error` for each as it ends, then `batch_complete` with the counts.
    """
    spec = _batch_spec(json_body(await request.body()))
    found = await caller.services.plans.find(caller.scope, identifier, spec.version)
    flags = {name: True for name in _FLAGS if getattr(spec, name) or request.query_params.get(name) == "true"}
    if spec.stream:
        return _stream(caller, found, spec, flags, request.headers.get("last-event-id"))
    results = await _all(caller, found, spec, flags)
    return answer({"results": results, **_counts(found, spec, results)})


def _stream(
    caller: Caller, found: Compiled, spec: BatchSpec, flags: dict[str, bool], last_event: str | None
) -> Response:
    streams, owner = caller.services.retrieve.streams, (caller.scope, caller.actor.key_id)
    if last_event:
        return events(streams.resume(last_event, owner), last_event.rpartition(":")[0])
    ident = new_id("batch")

    async def telling(put: Put) -> tuple[str, Mapping[str, Any]]:
        def ended(result: dict[str, Any]) -> None:
            put("query_error" if _failed(result) else "query_complete", result)

        results = await _all(caller, found, spec, flags, ended)
        kept = ("query_index", "status", "execution_id")
        told = [{name: result.get(name) for name in kept} for result in results]
        return "batch_complete", {"queries": told, **_counts(found, spec, results)}

    return events(streams.begin(ident, owner, telling).read(), ident)


async def _all(
    caller: Caller,
    found: Compiled,
    spec: BatchSpec,
    flags: dict[str, bool],
    ended: Callable[[dict[str, Any]], None] = lambda result: None,
) -> list[dict[str, Any]]:
    gate = asyncio.Semaphore(spec.concurrency)

    async def one(number: int) -> dict[str, Any]:
        async with gate:
            result = await _one(caller, found, spec, number, flags)
        ended(result)
        return result

    return await asyncio.gather(*(one(number) for number in range(len(spec.queries))))


async def _one(caller: Caller, found: Compiled, spec: BatchSpec, number: int, flags: dict[str, bool]) -> dict[str, Any]:
    try:
        result = await run_stored(caller, found, spec.request(number, flags))
    except MediathecaError as error:
        failure = {"message": error.message, "type": error.type}
        return {"query_index": number, "status": "failed", "documents": [], "results": [], "error": failure}
    return {"query_index": number, **result}


def _failed(result: Mapping[str, Any]) -> bool:
    return "error" in result and result["status"] == "failed"


def _counts(found: Compiled, spec: BatchSpec, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    failed = sum(map(_failed, results))
    counts = {"total_queries": len(results), "succeeded": len(results) - failed, "failed": failed}
    return {"retriever_id": found.retriever_id, "version": found.version, **counts, "warnings": spec.warnings()}


def _batch_spec(body: dict[str, Any]) -> BatchSpec:
    queries = body.get("queries")
    if isinstance(queries, list) and len(queries) > MAX_QUERIES:
        error = ValidationError.at("queries", f"has {len(queries)} entries; at most {MAX_QUERIES}", "too_long")
        error.details["limits"] = {"max_queries": MAX_QUERIES}
        raise error
    return checked(BatchSpec, {key: value for key, value in body.items() if value is not None})
