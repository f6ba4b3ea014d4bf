"""Everything of an answer but its documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mediatheca.flows.retrieve.consistency import Freshness
from mediatheca.flows.retrieve.context import Notes
from mediatheca.flows.retrieve.optimise import summary
from mediatheca.flows.retrieve.outcome import OF_ALL, Outcome
from mediatheca.flows.retrieve.plan import Plan
from mediatheca.flows.retrieve.seams import ExecutionContext
from mediatheca.kernel.ids import new_id
from mediatheca.kernel.inputs import InputReport

SIDES = ("groups", "aggregations", "did_you_mean")
"""What stages tell beside the documents, and an answer shows at its root where there is any."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What an answer shows besides the outcome of the execution."""

    plan: Plan
    context: ExecutionContext
    inputs: InputReport
    fresh: Freshness
    warnings: Sequence[str]
    cached_at: float | None
    explain: bool

    def body(self, run: Outcome, taken_ms: float) -> dict[str, Any]:
        notes, status = run.notes, self.status(run)
        optimised = summary(self.plan, run.statistics) if run.statistics else None
        credits_used = 0.0 if self.cached_at is not None else run.language.credits
        body: dict[str, Any] = {
            "execution_id": self.context.execution_id or new_id("exec"),
            "retriever_id": self.context.retriever_id,
            "status": status,
            "documents": [],
            "results": [],
            "final_results": [],
            "pagination": {},
            "stage_statistics": {
                "stages": run.statistics,
                "total_time_ms": run.taken_ms,
                "credits_used": credits_used,
                "server_service_ms": taken_ms,
            },
            "stage_results": run.stage_results,
            "execution_time": taken_ms / 1000,
            "budget": self._budget(run, credits_used, taken_ms),
            "facets": run.side.get("facets"),
            "warnings": list(dict.fromkeys([*self.warnings, *self.fresh.warnings, *notes.warnings])),
            "degraded": [*self.fresh.degraded, *notes.degraded.values()],
            "limits": notes.limits,
            "exact": run.side.get("exact", True),
            "completeness": {
                "embeddings": run.side.get("embeddings", "complete"),
                "page": _page_state(status),
                "overall": _page_state(status),
            },
            "interpretation": _interpretation(self.inputs, run),
            "optimization_applied": optimised is not None and bool(optimised["rules_applied"]),
            "consistency_mode": self.fresh.mode,
            "cache_hit": self.cached_at is not None,
            "cached_at": self.cached_at,
            "seed": run.seed,
        }
        if run.error is not None:
            body["error"] = run.error
        if optimised is not None:
            body["optimization_summary"] = optimised
        body |= {name: run.side[name] for name in SIDES if name in run.side}
        if self.explain:
            body["explain_plan"] = plan_as_run(self.plan, run)
        return body

    def status(self, run: Outcome) -> str:
        return "degraded" if self.fresh.degraded and run.status == "completed" else run.status

    def _budget(self, run: Outcome, credits_used: float, taken_ms: float) -> dict[str, Any]:
        most = self.context.max_credits
        return {
            "credits_used": credits_used,
            "credits_remaining": None if most is None else max(0.0, most - credits_used),
            "time_used_ms": taken_ms,
            "time_limit_ms": self.context.max_time_ms,
            "tokens_used": run.language.tokens,
        }


def remembered(run: Outcome, fresh: Freshness) -> Outcome:
    """What later pages of a ranking say of the execution that made it: all that is true of the ranking as a whole, and
    not what it cost."""
    degraded = {**run.notes.degraded, **{("", "", str(entry)): entry for entry in fresh.degraded}}
    warnings = dict.fromkeys([*fresh.warnings, *run.notes.warnings])
    notes = Notes(warnings=warnings, degraded=degraded, limits=list(run.notes.limits))
    kept = {name: value for name, value in run.side.items() if name in (*SIDES, *OF_ALL, "facets")}
    return Outcome(
        side=kept,
        relaxations=list(run.relaxations),
        notes=notes,
        page_limit=run.page_limit,
        error=run.error,
        seed=run.seed,
        spoken=_spoken(run),
    )


def again(told: Outcome, rerun: Outcome | None) -> Outcome:
    """What a later page says: of the remembered ranking, and what running it again cost, where that was needed."""
    if rerun is None:
        return told
    return replace(
        told,
        statistics=rerun.statistics,
        stage_results=rerun.stage_results,
        taken_ms=rerun.taken_ms,
        language=rerun.language,
    )


def _spoken(run: Outcome) -> list[dict[str, Any]]:
    return run.spoken or [
        {"stage_name": name, **entry["metadata"]["natural_language"]}
        for name, entry in run.statistics.items()
        if "natural_language" in entry["metadata"]
    ]


def _interpretation(report: InputReport, run: Outcome) -> dict[str, Any]:
    spoken = _spoken(run)
    return {
        **({"natural_language": spoken} if spoken else {}),
        "provided_input_keys": report.provided,
        "inferred_inputs": report.inferred,
        "ignored_input_keys": report.ignored,
        "relaxations": [relaxation.as_dict() for relaxation in run.relaxations],
    }


def _page_state(status: str) -> str:
    return "complete" if status == "completed" else status


def plan_as_run(plan: Plan, run: Outcome) -> dict[str, Any]:
    """What was run, with timings. Parameters are left out: they may hold secrets."""
    stages = [
        {"stage_index": n, "stage_name": s.name, "stage_id": s.stage.stage_id, **run.statistics.get(s.name, {})}
        for n, s in enumerate(plan.stages)
    ]
    return {
        "stages": stages,
        "collections": [view.collection_id for view in plan.collections],
        "plan": plan.key,
        "seed": run.seed,
    }
