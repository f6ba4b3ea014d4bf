"""Executions of retrievers: several at once, plans before they run, and the records of those that ran."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import orjson
import pydantic
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from mediatheca.api.deps import Caller, Listed, Read, Reader, answer, json_body, listed, names_in
from mediatheca.flows.executions import ADHOC
from mediatheca.flows.replay import Ran, compare_runs, ran_of
from mediatheca.flows.retrieve import ExecuteRequest, Plan
from mediatheca.flows.retrieve.normalise import wire_kind
from mediatheca.flows.retrieve.optimise import LEVELS, optimise, summary
from mediatheca.flows.retrieve.request import field_errors
from mediatheca.flows.retrievers import Compiled
from mediatheca.kernel.errors import ConflictError, MediathecaError, NotFoundError, ValidationError
from mediatheca.kernel.filters import parse_filter
from mediatheca.resources._executing import context_of, run, run_stored
from mediatheca.stores.db.listing import ListQuery
from mediatheca.stores.db.tx import Row

router = APIRouter(tags=["retrievers"])
MAX_QUERIES = 16
MAX_FIELDS = 20
PERSISTENCE = 0.9
_ADHOC_LIST = "/retrievers/executions"
_RETRIEVER = "/retrievers/{identifier}"
_EXECUTION = _RETRIEVER + "/executions/{execution_id}"


class OneQuery(BaseModel):
    inputs: dict[str, Any] = Field(default_factory=dict)
    filters: Any = None


class BatchSpec(BaseModel):
    """Up to 16 queries of one retriever, a few at a time."""

    queries: list[OneQuery] = Field(min_length=1)
    settings: dict[str, Any] = Field(default_factory=dict)
    concurrency: int = Field(5, ge=1, le=20)
    return_presigned_urls: bool = False
    return_vectors: bool = False


# ---- several at once


@router.post(f"{_RETRIEVER}/execute/batch", operation_id="execute_retriever_batch", response_model=None)
async def execute_batch(identifier: str, request: Request, caller: Reader) -> Response:
    """Run a stored retriever on several queries. A query that fails says why; the others answer."""
    spec = _batch_spec(json_body(await request.body()))
    found = await caller.services.plans.find(caller.scope, identifier)
    flags = {name for name in ("return_presigned_urls", "return_vectors") if getattr(spec, name)}
    flags |= {name for name in ("return_presigned_urls", "return_vectors") if request.query_params.get(name) == "true"}
    shared = {"limit": spec.settings.get("limit"), **dict.fromkeys(flags, True)}
    gate = asyncio.Semaphore(spec.concurrency)

    async def one(number: int, query: OneQuery) -> dict[str, Any]:
        async with gate:
            return await _one(caller, found, number, {**shared, **query.model_dump(exclude_none=True)})

    results = await asyncio.gather(*(one(number, query) for number, query in enumerate(spec.queries)))
    failed = sum("error" in result and result["status"] == "failed" for result in results)
    counts = {"total_queries": len(results), "succeeded": len(results) - failed, "failed": failed}
    return answer({"retriever_id": found.retriever_id, "results": results, **counts})


def _batch_spec(body: dict[str, Any]) -> BatchSpec:
    queries = body.get("queries")
    if isinstance(queries, list) and len(queries) > MAX_QUERIES:
        error = ValidationError.at("queries", f"has {len(queries)} entries; at most {MAX_QUERIES}", "too_long")
        error.details["limits"] = {"max_queries": MAX_QUERIES}
        raise error
    try:
        return BatchSpec.model_validate({key: value for key, value in body.items() if value is not None})
    except pydantic.ValidationError as error:
        found = field_errors(error, ("body",))
        raise ValidationError("; ".join(f"{'.'.join(map(str, e.loc[1:]))}: {e.msg}" for e in found), found) from error


async def _one(caller: Caller, found: Compiled, number: int, body: dict[str, Any]) -> dict[str, Any]:
    try:
        result = await run_stored(caller, found, ExecuteRequest.parse(body))
    except MediathecaError as error:
        failure = {"message": error.message, "type": error.type}
        return {"query_index": number, "status": "failed", "documents": [], "results": [], "error": failure}
    return {"query_index": number, **result}


# ---- before it runs


@router.post(f"{_RETRIEVER}/execute/explain", operation_id="explain_retriever", response_model=None)
def explain(identifier: str, caller: Reader) -> Response:
    """The plan of a retriever without running it. Counts and times are those of its latest executions."""
    found = caller.services.plans.get(caller.scope, identifier)
    past = [row["body"] for row in caller.services.executions.recent(caller.scope, found.retriever_id)]
    indexer = caller.services.indexer
    for view in found.plan.collections:
        indexer.catch_up(caller.scope, view.collection_id)
    entering = sum(indexer.index.count(view.collection_id) for view in found.plan.collections)
    plan = optimise(found.plan)
    stages = _explained(plan, past, entering)
    optimised = summary(plan)
    longest = max((stage["estimated_duration_ms"] for stage in stages), default=0.0)
    warnings = list(found.plan.warnings) if past else [*found.plan.warnings, "never executed: times are not known yet"]
    return answer(
        {
            "retriever_id": found.retriever_id,
            "retriever_name": found.name,
            "version": found.version,
            "execution_plan": stages,
            "estimated_cost": {
                "total_credits": 0.0,
                "total_duration_ms": sum(stage["estimated_duration_ms"] for stage in stages),
            },
            "total_estimated_stages": len(stages),
            "bottleneck_stages": [s["stage_name"] for s in stages if longest and s["estimated_duration_ms"] == longest],
            "optimization_suggestions": [{"message": warning} for warning in warnings],
            "optimization_applied": optimised is not None and bool(optimised["rules_applied"]),
            "optimization_level": LEVELS[plan.optimize],
            "optimization_details": optimised,
            "collections": [view.collection_id for view in found.plan.collections],
            "feature_uris": list(found.plan.feature_uris),
        }
    )


def _explained(plan: Plan, past: Sequence[Mapping[str, Any]], entering: int) -> list[dict[str, Any]]:
    shown = []
    for number, stage in enumerate(plan.stages):
        seen = [body["stage_statistics"]["stages"].get(stage.name) for body in past]
        ran = [statistics for statistics in seen if statistics]
        pushed = any("pushed_into" in statistics["metadata"] for statistics in ran)
        leaving = _mean(ran, "output_count") if ran and not pushed else entering
        limit = getattr(stage.fixed, "final_top_k", None) or getattr(stage.fixed, "limit", None)
        leaving = min(int(leaving), entering, limit if isinstance(limit, int) else entering)
        shown.append(
            {
                "stage_index": number,
                "stage_name": stage.name,
                "stage_id": stage.stage.stage_id,
                "stage_type": wire_kind(stage.stage),
                "estimated_input": entering,
                "estimated_output": leaving,
                "estimated_efficiency": leaving / entering if entering else 0.0,
                "estimated_cost_credits": 0.0,
                "estimated_duration_ms": _mean(ran, "duration_ms"),
                "cache_likely": False,
                "optimization_notes": [
                    f"{made.rule}: {made.reason}"
                    for made in plan.decisions
                    if made.applied and made.stage == stage.name
                ],
                "warnings": [],
            }
        )
        entering = leaving
    return shown


def _mean(statistics: Sequence[Mapping[str, Any]], name: str) -> float:
    return sum(entry[name] for entry in statistics) / len(statistics) if statistics else 0.0


# ---- afterwards


@router.post(f"{_ADHOC_LIST}/list", operation_id="list_adhoc_executions", response_model=None)
async def list_adhoc(request: Request, query: Listed, caller: Reader) -> Response:
    """Executions of stages that were not stored, newest first."""
    status = names_in(json_body(await request.body()), "status")
    return await asyncio.to_thread(_page, caller, query, ADHOC, status)


@router.post(f"{_RETRIEVER}/executions/list", operation_id="list_executions", response_model=None)
async def list_executions(identifier: str, request: Request, query: Listed, caller: Reader) -> Response:
    """Executions of a retriever, newest first."""
    status = names_in(json_body(await request.body()), "status")
    retriever_id = await asyncio.to_thread(_retriever_id, caller, identifier)
    return await asyncio.to_thread(_page, caller, query, retriever_id, status)


def _retriever_id(caller: Caller, identifier: str) -> str:
    with caller.services.db.read(caller.scope) as tx:
        return tx.get("retriever", identifier).id


def _page(caller: Caller, query: ListQuery, retriever_id: str, status: list[str]) -> Response:
    caller.services.executions.flush()
    where = {"retriever_id": retriever_id} | ({"status": status} if status else {})
    with caller.services.db.read(caller.scope) as tx:
        page = tx.page("executions", where, query)
    view = listed(page, [_summary(row) for row in page.rows])
    total = page.total if page.total is not None else page.offset + len(page.rows)
    paging = {"total": total, "limit": page.limit, "offset": page.offset, "has_next": page.next_cursor is not None}
    return answer({**view, "pagination": {**view["pagination"], **paging}})


def _summary(row: Row) -> dict[str, Any]:
    body = row["body"]
    stages = body["stage_statistics"]["stages"]
    inputs = orjson.dumps(body["inputs"], default=str, option=orjson.OPT_SORT_KEYS)
    texts = [value for value in body["inputs"].values() if isinstance(value, str)]
    return {
        "execution_id": row["execution_id"],
        "execution_mode": "stored" if row["retriever_id"] else "adhoc",
        "retriever_id": row["retriever_id"],
        "status": row["status"],
        "created_at": row["created_at"],
        "timestamp": row["created_at"],
        "duration_ms": body["stage_statistics"]["total_time_ms"],
        "credits_used": 0.0,
        "total_processed": sum(stage["input_count"] for stage in stages.values()),
        "total_returned": body["returned"],
        "cache_hit_rate": 0.0,
        "inputs_hash": hashlib.sha256(inputs).hexdigest()[:16],
        "query_summary": texts[0][:200] if texts else None,
        "stages_completed": len(stages),
        "total_stages": len(stages),
        "collection_ids": body.get("collection_ids", []),
    }


def _record(caller: Caller, execution_id: str, retriever_id: str) -> Row:
    row = caller.services.executions.find(caller.scope, execution_id)
    if row is None or row["retriever_id"] != retriever_id:
        raise NotFoundError("execution", execution_id)
    return row


@router.get(f"{_ADHOC_LIST}/{{execution_id}}", operation_id="get_adhoc_execution", response_model=None)
def get_adhoc(execution_id: str, caller: Reader) -> Response:
    row = _record(caller, execution_id, ADHOC)
    inputs = orjson.dumps(row["body"]["inputs"], default=str).decode()
    return answer({**row["body"], **_summary(row), "inputs": inputs})


@router.get(_EXECUTION, operation_id="get_execution", response_model=None)
def get(identifier: str, execution_id: str, tx: Read, caller: Reader) -> Response:
    """What ran, on which inputs, and how long. The documents themselves are not kept."""
    row = _record(caller, execution_id, tx.get("retriever", identifier).id)
    summary = _summary(row)
    kept = ("execution_id", "retriever_id", "status", "created_at", "stages_completed", "total_stages")
    shown = {name: summary[name] for name in kept}
    return answer({**row["body"], **shown, "total_returned": summary["total_returned"], "documents_retained": False})


@router.get(f"{_EXECUTION}/status", operation_id="get_execution_status", response_model=None)
def status(identifier: str, execution_id: str, tx: Read, caller: Reader) -> Response:
    row = _record(caller, execution_id, tx.get("retriever", identifier).id)
    return answer({**_summary(row), "current_stage": None, "error": row["body"].get("error")})


@router.get(f"{_EXECUTION}/profile", operation_id="get_execution_profile", response_model=None)
def profile(identifier: str, execution_id: str, tx: Read, caller: Reader) -> Response:
    """Per-stage counts and times of an execution."""
    row = _record(caller, execution_id, tx.get("retriever", identifier).id)
    statistics = row["body"]["stage_statistics"]
    stages = [{"stage_index": n, "stage_name": name, **s} for n, (name, s) in enumerate(statistics["stages"].items())]
    shown = {"execution_id": execution_id, "retriever_id": row["retriever_id"], "status": row["status"]}
    shown |= {"total_time_ms": statistics["total_time_ms"], "budget": row["body"]["budget"]}
    return answer({**shown, "stages": stages})


@router.post(f"{_EXECUTION}/replay", operation_id="replay_execution", response_model=None)
async def replay(identifier: str, execution_id: str, caller: Reader) -> Response:
    """Ask a past question again, of the same version and with the same seed, and say how the answer differs."""

    def recorded() -> Row:
        return _record(caller, execution_id, _retriever_id(caller, identifier))

    row = await asyncio.to_thread(recorded)
    body = row["body"]
    if body.get("cut_inputs"):
        names = ", ".join(body["cut_inputs"])
        raise ConflictError(f"execution '{execution_id}' cannot be replayed: its long inputs were not kept ({names})")
    asked = ExecuteRequest.parse({**body["request"], "inputs": body["inputs"], "skip_cache": True})
    found = await caller.services.plans.find(caller.scope, identifier, body["version"])
    result = await run(caller, found.plan, asked, context_of(caller, found, seed=body.get("seed")))
    first = Ran([ident for ident, _ in body["ranking"]], body["stage_statistics"]["total_time_ms"])
    second = ran_of(result, result["stage_statistics"]["total_time_ms"])
    depth = max(len(first.ids), len(second.ids), 1)
    compared = compare_runs(body["inputs"], first, second, depth, PERSISTENCE)
    shown = {"replayed_execution_id": execution_id, "identical": first.ids == second.ids, "comparison": compared}
    return answer({**result, **shown})


# ---- while typing


@router.get("/retrievers/typeahead", operation_id="typeahead", response_model=None)
def typeahead(
    tx: Read, caller: Reader, q: Annotated[str, Query(min_length=1, max_length=200)],
    fields: str = "", limit: Annotated[int, Query(ge=1, le=50)] = 10,
) -> Response:  # fmt: skip
    """What a search box may suggest for a prefix: values of the fields asked for, collections, one's own queries."""
    records = tx.resources("collection")
    prefix = q.casefold()
    collections = [
        {"collection_id": record.id, "collection_name": record.name}
        for record in records
        if record.name.casefold().startswith(prefix)
    ][:limit]
    names = [name.strip() for name in fields.split(",") if name.strip()]
    if len(names) > MAX_FIELDS:
        raise ValidationError.at(("query", "fields"), f"names {len(names)} fields; at most {MAX_FIELDS}", "too_long")
    values = _values(caller, [record.id for record in records], names, q, limit)
    past = caller.services.executions.recent(caller.scope)
    own = [text for row in past if row["body"].get("actor") == caller.actor.key_id for text in _texts(row)]
    searches = [text for text in dict.fromkeys(own) if text.casefold().startswith(prefix)][:limit]
    ranked = [*(entry["value"] for entry in values), *(c["collection_name"] for c in collections), *searches]
    found = {"values": values, "collections": collections, "recent_searches": searches, "warnings": []}
    return answer({"query": q, "suggestions": list(dict.fromkeys(ranked))[:limit], **found})


def _texts(row: Row) -> list[str]:
    return [value for value in row["body"]["inputs"].values() if isinstance(value, str)]


def _values(
    caller: Caller, collection_ids: Sequence[str], names: Sequence[str], prefix: str, limit: int
) -> list[dict[str, Any]]:
    """Values of these fields that begin with the prefix, with the number of documents, most frequent first."""
    counts: dict[tuple[str, str], int] = {}
    for name in names:
        leaf = parse_filter({"field": name, "operator": "starts_with", "value": prefix})
        for collection_id in collection_ids:
            caller.services.indexer.catch_up(caller.scope, collection_id)
            for value, count in caller.services.indexer.index.facet(collection_id, name, limit, leaf):
                if isinstance(value, str) and value.casefold().startswith(prefix.casefold()):
                    counts[name, value] = counts.get((name, value), 0) + count
    ranked = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:limit]
    return [{"field": name, "value": value, "count": count} for (name, value), count in ranked]
