"""Analytics of taxonomies: what was said, how sure, how often; and steps: how documents go from label to label."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError as PydanticError

from mediatheca.api.deps import Caller, Raw, Read, Reader, Writer, answer, in_slow_thread, json_body
from mediatheca.flows.taxonomies import analytics
from mediatheca.flows.taxonomies.applications import attached
from mediatheca.flows.taxonomies.nodes import KIND
from mediatheca.flows.taxonomies.steps import (
    Sequences,
    asked_of,
    available,
    paths,
    read_sequences,
    step_config,
    transitions,
)
from mediatheca.kernel import clock
from mediatheca.kernel.errors import BadRequestError, NotFoundError, ValidationError
from mediatheca.kernel.filters import parse_filter
from mediatheca.kernel.hits import value_key
from mediatheca.kernel.ids import new_id
from mediatheca.stores.db.tx import ReadTx, Record, Row

routes = APIRouter(tags=["taxonomies"])
_STEPS = "/taxonomies/{identifier}/analytics"
_COUNTS = "/analytics/taxonomies/{identifier}"
ANALYSIS = "analysis"
_SUPPORT = {"transitions": 10, "paths": 5}


# ---- what was said


@routes.get(f"{_COUNTS}/assignments", operation_id="taxonomy_assignments", response_model=None)
def assignments(identifier: str, request: Request, tx: Read, caller: Reader) -> Response:
    """Labels given over time; coverage of the collections, and drift of the labels."""
    taxonomy, window = tx.get(KIND, identifier), analytics.Window.of(request.query_params)
    rows = analytics.read_stats(tx, taxonomy, window)
    told = analytics.labels(rows, 0)
    return answer(
        {
            "taxonomy_id": taxonomy.id,
            "time_range": window.shown(),
            "metrics": analytics.assignments(rows, window),
            "summary": {
                "total_assignments": told["total_assignments"],
                "total_labels": told["total_labels"],
                "coverage": analytics.coverage(caller.services, caller.scope, taxonomy, tx),
                "drift": analytics.drift(tx, taxonomy, rows, window.version),
            },
        }
    )


@routes.get(f"{_COUNTS}/enrichments", operation_id="taxonomy_enrichments", response_model=None)
def enrichments(identifier: str, request: Request, tx: Read) -> Response:
    """Documents evaluated over time."""
    taxonomy, window = tx.get(KIND, identifier), analytics.Window.of(request.query_params)
    metrics = analytics.enrichments(analytics.read_stats(tx, taxonomy, window), window)
    return answer({"taxonomy_id": taxonomy.id, "time_range": window.shown(), "metrics": metrics})


@routes.get(f"{_COUNTS}/labels", operation_id="taxonomy_labels", response_model=None)
def labels(identifier: str, request: Request, tx: Read, limit: int = 50) -> Response:
    """How often each label was given."""
    taxonomy, window = tx.get(KIND, identifier), analytics.Window.of(request.query_params)
    told = analytics.labels(analytics.read_stats(tx, taxonomy, window), max(1, min(limit, 10_000)))
    return answer({"taxonomy_id": taxonomy.id, **told})


@routes.get(f"{_COUNTS}/confidence", operation_id="taxonomy_confidence", response_model=None)
def confidence(identifier: str, request: Request, tx: Read) -> Response:
    """How alike documents and their labels were."""
    taxonomy, window = tx.get(KIND, identifier), analytics.Window.of(request.query_params)
    return answer({"taxonomy_id": taxonomy.id, **analytics.confidence(analytics.read_stats(tx, taxonomy, window))})


# ---- steps


@routes.get(f"{_STEPS}/available-steps", operation_id="taxonomy_available_steps", response_model=None)
async def available_steps(identifier: str, caller: Reader, collection_id: str | None = None) -> Response:
    """The steps there are in a collection."""

    def work() -> dict[str, Any]:
        taxonomy, collection = _places(caller, identifier, collection_id)
        sequences = _sequences(caller, taxonomy, collection, {})
        return {"taxonomy_id": taxonomy.id, "collection_id": collection.id, **available(sequences)}

    return answer(await in_slow_thread(work))


@routes.post(f"{_STEPS}/transitions", operation_id="taxonomy_transitions", response_model=None)
async def step_transitions(identifier: str, raw: Raw, caller: Reader) -> Response:
    """How many sequences came from one step to another."""
    body = json_body(raw)
    return answer(await in_slow_thread(lambda: _analysed(caller, identifier, "transitions", body)))


@routes.post(f"{_STEPS}/paths", operation_id="taxonomy_paths", response_model=None)
async def step_paths(identifier: str, raw: Raw, caller: Reader) -> Response:
    """The ways that sequences took from one step to another."""
    body = json_body(raw)
    return answer(await in_slow_thread(lambda: _analysed(caller, identifier, "paths", body)))


def _places(caller: Caller, identifier: str, collection_id: Any) -> tuple[Record, Record]:
    """The taxonomy, and the collection that is named or the only one that it is applied to."""
    with caller.services.db.read(caller.scope) as tx:
        taxonomy = tx.get(KIND, identifier)
        if isinstance(collection_id, str) and collection_id:
            return taxonomy, tx.get("collection", collection_id)
        users = attached(tx, taxonomy)
        named = [taxonomy.body["enriched"]] if taxonomy.body["enriched"] else [user.id for user in users]
        if len(set(named)) != 1:
            raise BadRequestError(f"collection_id: is required; taxonomy '{taxonomy.name}' is applied to {len(named)}")
        return taxonomy, tx.get("collection", named[0])


def _sequences(caller: Caller, taxonomy: Record, collection: Record, body: Mapping[str, Any]) -> Sequences:
    try:
        config = step_config(taxonomy, body.get("override_step_analytics"))
    except PydanticError as error:
        message = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ValidationError.at(("body", "override_step_analytics"), message, "value_error") from error
    keep = parse_filter(body.get("filters") or None)
    return read_sequences(caller.services, caller.scope, taxonomy, collection, config, keep)


def _analysed(caller: Caller, identifier: str, kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Compute, and keep the run where the caller may write: the same question again replaces its record."""
    taxonomy, collection = _places(caller, identifier, body.get("collection_id"))
    asked = asked_of(body, support=_SUPPORT[kind])
    sequences = _sequences(caller, taxonomy, collection, body)
    analyse = transitions if kind == "transitions" else paths
    result: dict[str, Any] = analyse(sequences, asked)
    told: dict[str, Any] = {"collection_id": collection.id, "taxonomy_id": taxonomy.id}
    result["metadata"] = {**result.get("metadata", {}), **told}
    if "write" in caller.actor.permissions:
        params = {name: value for name, value in body.items() if value is not None}
        _keep(caller, taxonomy, {**params, "collection_id": collection.id}, kind, result)
    return result


def _keep(caller: Caller, taxonomy: Record, params: Mapping[str, Any], kind: str, result: Mapping[str, Any]) -> None:
    digest = hashlib.sha256(value_key([kind, params])).hexdigest()
    where: dict[str, Any] = {"taxonomy_id": taxonomy.id, "kind": ANALYSIS}
    with caller.services.db.begin(caller.scope, caller.actor.key_id) as tx:
        moment = clock.now()
        rows = tx.rows("taxonomy_runs", where, hold="update")
        held = next((row for row in rows if row["body"]["params_hash"] == digest), None)
        count = held["body"]["run_count"] + 1 if held is not None else 1
        body: dict[str, Any] = {"params": dict(params), "params_hash": digest, "analysis_type": kind}
        body |= {"result": dict(result)}
        body |= {"run_count": count}
        if held is not None:
            tx.update("taxonomy_runs", {"run_id": held["run_id"]}, {"body": body, "completed_at": moment})
            return
        row = {"run_id": new_id("taxrun"), **where, "status": "completed", "task_id": None, "body": body}
        tx.insert("taxonomy_runs", [{**row, "created_at": moment, "completed_at": moment}])


@routes.get(f"{_STEPS}/runs", operation_id="list_taxonomy_analytics_runs", response_model=None)
def runs(identifier: str, tx: Read, page: int = 1, page_size: int = 20, analysis_type: str | None = None) -> Response:
    """Analyses that were made, the newest first."""
    taxonomy = tx.get(KIND, identifier)
    size, number = max(1, min(page_size, 100)), max(1, page)
    rows = tx.rows("taxonomy_runs", {"taxonomy_id": taxonomy.id, "kind": ANALYSIS}, order=("-completed_at",))
    rows = [row for row in rows if analysis_type in (None, row["body"]["analysis_type"])]
    shown = rows[(number - 1) * size : number * size]
    found = [_run_view(tx, row) for row in shown]
    return answer({"runs": found, "results": found, "total": len(rows), "page": number, "page_size": size})


@routes.get(f"{_STEPS}/runs/{{run_id}}", operation_id="get_taxonomy_analytics_run", response_model=None)
def get_run(identifier: str, run_id: str, tx: Read) -> Response:
    return answer(_run_view(tx, _row(tx, tx.get(KIND, identifier), run_id)))


@routes.post(f"{_STEPS}/runs/{{run_id}}/rerun", operation_id="rerun_taxonomy_analytics_run", response_model=None)
async def rerun(identifier: str, run_id: str, caller: Writer) -> Response:
    """The same question over the documents of now."""

    def work() -> dict[str, Any]:
        with caller.services.db.read(caller.scope) as tx:
            row = _row(tx, tx.get(KIND, identifier), run_id)
        return _analysed(caller, identifier, row["body"]["analysis_type"], row["body"]["params"])

    return answer(await in_slow_thread(work))


def _row(tx: ReadTx, taxonomy: Record, run_id: str) -> Row:
    row = tx.row("taxonomy_runs", {"run_id": run_id, "taxonomy_id": taxonomy.id, "kind": ANALYSIS})
    if row is None:
        raise NotFoundError("analytics run", run_id)
    return row


def _run_view(tx: ReadTx, row: Row) -> dict[str, Any]:
    body, params = row["body"], row["body"]["params"]
    return {
        "run_id": row["run_id"],
        "taxonomy_id": row["taxonomy_id"],
        "collection_id": params["collection_id"],
        "analysis_type": body["analysis_type"],
        "params": params,
        "params_hash": body["params_hash"],
        "from_step": params["from_step"],
        "to_step": params["to_step"],
        "name": params.get("name"),
        "result": body["result"],
        "status": row["status"],
        "error_message": None,
        "run_count": body["run_count"],
        "namespace_id": tx.scope.namespace_id,
        "internal_id": tx.scope.organization_id,
        "created_at": row["created_at"],
        "updated_at": row["completed_at"],
    }
