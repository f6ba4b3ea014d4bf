"""What a retriever would do: its plan, without running it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from mediatheca.api.deps import Caller, Raw, Reader, answer, json_body
from mediatheca.flows.bodies import checked
from mediatheca.flows.retrieve.forecast import Past, bottlenecks, forecast, suggestions
from mediatheca.flows.retrieve.optimise import LEVELS, optimise, summary
from mediatheca.flows.retrieve.request import MAX_UNKNOWN
from mediatheca.flows.retrievers import Compiled
from mediatheca.kernel.hits import value_key

router = APIRouter(tags=["retrievers"])
_RETRIEVER = "/retrievers/{identifier}"


class PlanSpec(BaseModel):
    """Inputs whose past executions are looked at, and the version of the retriever."""

    model_config = ConfigDict(extra="allow")

    inputs: dict[str, Any] | None = None
    version: int | None = Field(None, ge=1)


def _explained(identifier: str, caller: Caller, raw: bytes) -> Response:
    body = json_body(raw) if raw.strip() else {}
    spec = checked(PlanSpec, body)
    found = caller.services.plans.get(caller.scope, identifier, spec.version)
    warnings = [
        f"the request key '{key[:100]}' is not known and was ignored"
        for key in list(spec.model_extra or {})[:MAX_UNKNOWN]
    ]
    past, same = _past(caller, found, spec.inputs)
    if not past.bodies:
        warnings.append("never executed: times are not known yet")
    if spec.inputs is not None:
        report = found.plan.schema.check(spec.inputs, found.plan.inputs)
        warnings += report.warnings
    told = {"estimated_from": {"executions": len(past.bodies), "same_inputs": same}}
    return answer({**_plan(caller, found, past), **told, "warnings": [*found.plan.warnings, *warnings]})


def _past(caller: Caller, found: Compiled, inputs: dict[str, Any] | None) -> tuple[Past, bool]:
    """The latest executions of this version; of these inputs alone, if there are any."""
    rows = [row["body"] for row in caller.services.executions.recent(caller.scope, found.retriever_id)]
    bodies = [body for body in rows if body.get("version") == found.version and not body.get("replay_of")]
    asked = [value_key(body["inputs"]) for body in bodies]
    repeated = 1 - len(set(asked)) / len(asked) if asked else 0.0
    if inputs is not None:
        wanted = value_key(inputs)
        same = [body for body, key in zip(bodies, asked, strict=True) if key == wanted]
        if same:
            return Past(same, repeated), True
    return Past(bodies, repeated), False


def _plan(caller: Caller, found: Compiled, past: Past) -> dict[str, Any]:
    indexer = caller.services.indexer
    for view in found.plan.collections:
        indexer.catch_up(caller.scope, view.collection_id)
    entering = sum(indexer.index.count(view.collection_id) for view in found.plan.collections)
    plan = optimise(found.plan)
    stages = forecast(plan, past, entering, found.cache)
    optimised = summary(plan)
    totals = {f"total_{name}": sum(s[f"estimated_{key}"] for s in stages) for name, key in _TOTALS.items()}
    return {
        "retriever_id": found.retriever_id,
        "retriever_name": found.name,
        "version": found.version,
        "execution_plan": stages,
        "estimated_cost": totals,
        "total_estimated_stages": len(stages),
        "bottleneck_stages": bottlenecks(stages),
        "optimization_suggestions": suggestions(plan, stages, past, found.cache),
        "optimization_applied": optimised is not None and bool(optimised["rules_applied"]),
        "optimization_level": LEVELS[plan.optimize],
        "optimization_details": optimised,
        "collections": [view.collection_id for view in found.plan.collections],
        "feature_uris": list(found.plan.feature_uris),
    }


_TOTALS = {"credits": "cost_credits", "duration_ms": "duration_ms"}


@router.post(f"{_RETRIEVER}/execute/explain", operation_id="explain_retriever", response_model=None)
def explain(identifier: str, caller: Reader, raw: Raw) -> Response:
    """The plan of a retriever without running it. Counts, times and credits are those of its latest executions."""
    return _explained(identifier, caller, raw)


@router.post(f"{_RETRIEVER}/explain", operation_id="explain_retriever_alias", response_model=None)
def explain_alias(identifier: str, caller: Reader, raw: Raw) -> Response:
    """The same at its older address."""
    return _explained(identifier, caller, raw)
