"""Executions of retrievers: the records of those that ran, and doing one of them again."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from mediatheca.api.deps import Caller, Read, Reader, answer, json_body, names_in
from mediatheca.api.lists import Listed, listed
from mediatheca.flows.executions import ADHOC, MAX_RANKING
from mediatheca.flows.executions_replay import changed_since, collections_seen, repeat_of, repeated
from mediatheca.flows.replay import Ran, compare_runs, ran_of
from mediatheca.flows.retrieve import Plan
from mediatheca.flows.retrievers import Compiled, views
from mediatheca.kernel.errors import ConflictError, NotFoundError
from mediatheca.kernel.filters import all_of, parse_filter
from mediatheca.resources._executing import context_of, run
from mediatheca.stores.db.listing import ListQuery
from mediatheca.stores.db.tx import Row

router = APIRouter(tags=["retrievers"])
PERSISTENCE = 0.9
_ADHOC_LIST = "/retrievers/executions"
_RETRIEVER = "/retrievers/{identifier}"
_EXECUTION = _RETRIEVER + "/executions/{execution_id}"


@router.post(f"{_ADHOC_LIST}/list", operation_id="list_adhoc_executions", response_model=None)
async def list_adhoc(request: Request, query: Listed, caller: Reader) -> Response:
    """Executions of stages that were not stored, newest first."""
    body = json_body(await request.body())
    return await asyncio.to_thread(_page, caller, query, ADHOC, _wanted(body))


@router.post(f"{_RETRIEVER}/executions/list", operation_id="list_executions", response_model=None)
async def list_executions(identifier: str, request: Request, query: Listed, caller: Reader) -> Response:
    """Executions of a retriever, newest first."""
    wanted = _wanted(json_body(await request.body()))
    retriever_id = await asyncio.to_thread(_retriever_id, caller, identifier)
    return await asyncio.to_thread(_page, caller, query, retriever_id, wanted)


def _wanted(body: Mapping[str, Any]) -> dict[str, Any]:
    """What a list is narrowed to beside its filters."""
    found: dict[str, Any] = {name: names for name in ("status", "session_id") if (names := names_in(body, name))}
    return found | ({"count_only": True} if body.get("count_only") is True else {})


def _retriever_id(caller: Caller, identifier: str) -> str:
    with caller.services.db.read(caller.scope) as tx:
        return tx.get("retriever", identifier).id


def _page(caller: Caller, query: ListQuery, retriever_id: str, wanted: Mapping[str, Any]) -> Response:
    caller.services.executions.flush()
    where = {"retriever_id": retriever_id} | ({"status": wanted["status"]} if "status" in wanted else {})
    if "session_id" in wanted:
        session = parse_filter(
            {"field": "session_id", "operator": "in", "value": wanted["session_id"]}, case_sensitive=True
        )
        query = replace(query, filter=all_of(query.filter, session))
    with caller.services.db.read(caller.scope) as tx:
        page = tx.page("executions", where, query)
    view = listed(page, [] if "count_only" in wanted else [_summary(row) for row in page.rows])
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
        "credits_used": body["stage_statistics"].get("credits_used", 0.0),
        "total_processed": sum(stage["input_count"] for stage in stages.values()),
        "total_returned": body["returned"],
        "cache_hit_rate": _cache_hit_rate(body),
        "inputs_hash": hashlib.sha256(inputs).hexdigest()[:16],
        "query_summary": texts[0][:200] if texts else None,
        "stages_completed": len(stages),
        "total_stages": len(stages),
        "collection_ids": body.get("collection_ids", []),
        "session_id": body.get("session_id"),
        "version": body.get("version"),
        "replay_of": body.get("replay_of"),
    }


def _cache_hit_rate(body: Mapping[str, Any]) -> float:
    """The part of an execution that came from a cache: all of it, or so many of its stages."""
    stages = body["stage_statistics"]["stages"].values()
    if body.get("cache_hit"):
        return 1.0
    return sum(bool(stage["stage_cache_hit"]) for stage in stages) / len(stages) if stages else 0.0


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
    kept = ("execution_id", "retriever_id", "status", "created_at", "stages_completed", "total_stages", "session_id")
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


# ---- once more


@router.post(f"{_EXECUTION}/replay", operation_id="replay_execution", response_model=None)
async def replay(identifier: str, execution_id: str, caller: Reader) -> Response:
    """Do a past execution again as it was: the same version, page, collections, seed, learned weights and time; and say
    how the answer differs, and what has changed since."""

    def recorded() -> Row:
        return _record(caller, execution_id, _retriever_id(caller, identifier))

    row = await asyncio.to_thread(recorded)
    found = await caller.services.plans.find(caller.scope, identifier, row["body"]["version"])
    return await _again(caller, row, found.plan, found)


@router.post(f"{_ADHOC_LIST}/{{execution_id}}/replay", operation_id="replay_adhoc_execution", response_model=None)
async def replay_adhoc(execution_id: str, caller: Reader) -> Response:
    """The same for stages that were not stored: the record keeps them, without literal secrets."""
    row = await asyncio.to_thread(_record, caller, execution_id, ADHOC)
    stages = row["body"].get("adhoc")
    if stages is None:
        raise ConflictError(f"execution '{execution_id}' cannot be replayed: its stages were not kept")

    def compiled() -> Plan:
        with caller.services.db.read(caller.scope) as tx:
            here = {record.id for record in tx.resources("collection")}
            known = views(tx, [ident for ident in row["body"]["collection_ids"] if ident in here])
        return caller.services.retrieve.compile(stages["stages"], known, stages.get("input_schema"))

    return await _again(caller, row, await asyncio.to_thread(compiled), None)


async def _again(caller: Caller, row: Row, plan: Plan, found: Compiled | None) -> Response:
    body, execution_id = row["body"], row["execution_id"]
    asked = repeated(execution_id, body, plan.collections)
    context = context_of(caller, found, seed=body.get("seed"), repeat=repeat_of(body), cache=None)
    keep = {name: body[name] for name in ("adhoc", "cut_stages") if name in body} | {"replay_of": execution_id}
    result = await run(caller, plan, asked, context, weights=body.get("weights") or {}, keep=keep)
    first = Ran([ident for ident, _ in body["ranking"]], body["stage_statistics"]["total_time_ms"])
    second = ran_of(result, result["stage_statistics"]["total_time_ms"])
    depth = max(len(first.ids), len(second.ids), 1)
    now = collections_seen(caller.services.indexer, plan.collections)
    shown = {
        "replayed_execution_id": execution_id,
        "identical": first.ids == second.ids[:MAX_RANKING],
        "changed": changed_since(body.get("collections", {}), now),
        "comparison": compare_runs(body["inputs"], first, second, depth, PERSISTENCE),
    }
    learned = {name: body[name] for name in ("learned_fusion_context",) if name in body}
    return answer({**result, **learned, **shown})
