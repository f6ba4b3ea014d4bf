"""A plan before it runs: what each stage will probably get, give, take and cost, and what could be better.

Counts, times and credits are medians over past executions of the same version; of the same inputs where there are such.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from mediatheca.flows.retrieve.cache import CachePolicy
from mediatheca.flows.retrieve.normalise import wire_kind
from mediatheca.flows.retrieve.plan import Plan, PlannedStage

BOTTLENECK = 0.8
"""Of the time of the slowest stage."""
WASTEFUL = 4
"""So many times more documents than come out at the end are too many."""
LARGE = 10_000
"""Documents that a search without a filter looks through before a filter is suggested."""
REPEATED = 0.2
"""The part of past executions that asked what had been asked before."""
DROPS = 0.8
"""A stage that lets through at most this part of its documents is better before an expensive one."""
_COSTS = ("cheap", "moderate", "expensive")


@dataclass(frozen=True, slots=True)
class Past:
    """Records of executions, newest first, and how many of them asked what another had asked."""

    bodies: Sequence[Mapping[str, Any]]
    repeated: float = 0.0

    def of(self, stage: str) -> list[Mapping[str, Any]]:
        """The statistics of one stage, of the executions in which it ran."""
        found = [body["stage_statistics"]["stages"].get(stage) for body in self.bodies]
        return [statistics for statistics in found if statistics]


def forecast(plan: Plan, past: Past, entering: int, policy: CachePolicy | None) -> list[dict[str, Any]]:
    """The stages as `execution_plan` shows them. `entering`: documents in the collections."""
    shown = []
    for number, stage in enumerate(plan.stages):
        ran = past.of(stage.name)
        leaving = _leaving(stage, ran, entering)
        noted = [f"{made.rule}: {made.reason}" for made in plan.decisions if made.applied and made.stage == stage.name]
        shown.append(
            {
                "stage_index": number,
                "stage_name": stage.name,
                "stage_id": stage.stage.stage_id,
                "stage_type": wire_kind(stage.stage),
                "estimated_input": entering,
                "estimated_output": leaving,
                "estimated_efficiency": leaving / entering if entering else 0.0,
                "estimated_cost_credits": _typical(ran, "credits_used"),
                "estimated_duration_ms": _typical(ran, "duration_ms"),
                "cache_likely": _cache_likely(plan, stage, past, policy),
                "optimization_notes": noted,
                "warnings": [],
            }
        )
        entering = leaving
    return shown


def _leaving(stage: PlannedStage, ran: Sequence[Mapping[str, Any]], entering: int) -> int:
    pushed = any("pushed_into" in statistics["metadata"] for statistics in ran)
    leaving = _typical(ran, "output_count") if ran and not pushed else entering
    limit = getattr(stage.fixed, "final_top_k", None) or getattr(stage.fixed, "limit", None)
    return min(int(leaving), entering, limit if isinstance(limit, int) else entering)


def _typical(statistics: Sequence[Mapping[str, Any]], name: str) -> float:
    values = [float(entry.get(name) or 0.0) for entry in statistics]
    return median(values) if values else 0.0


def _cache_likely(plan: Plan, stage: PlannedStage, past: Past, policy: CachePolicy | None) -> bool:
    """Whether the stage will probably not run: as it was for most past executions, or, with none, as the rules say."""
    if policy is None:
        return False
    if past.bodies:
        hits = [bool(body.get("cache_hit")) or _hit(body, stage.name) for body in past.bodies]
        return sum(hits) > len(hits) / 2
    return stage.name in policy.stages and not plan.clocked and not _reaches_out(stage)


def _reaches_out(stage: PlannedStage) -> bool:
    raw = stage.tree.raw
    return any(need.concerns(raw if isinstance(raw, Mapping) else {}) for need in stage.stage.needs)


def _hit(body: Mapping[str, Any], stage: str) -> bool:
    return bool(body["stage_statistics"]["stages"].get(stage, {}).get("stage_cache_hit"))


def bottlenecks(stages: Sequence[Mapping[str, Any]]) -> list[str]:
    """The stages that take at least 80 % of the time of the slowest."""
    longest = max((stage["estimated_duration_ms"] for stage in stages), default=0.0)
    return [s["stage_name"] for s in stages if longest and s["estimated_duration_ms"] >= BOTTLENECK * longest]


# ---- what could be better


def suggestions(
    plan: Plan, stages: Sequence[Mapping[str, Any]], past: Past, policy: CachePolicy | None
) -> list[dict[str, str]]:
    """What to change, each with its reason in numbers. Most need past executions to say anything."""
    found = [*_reduce_limit(plan, stages, past), *_add_filter(plan, stages), *_reorder(plan, past)]
    return [*found, *_enable_cache(plan, past, policy)]


def _suggestion(kind: str, stage: str | None, message: str) -> dict[str, Any]:
    return {"type": kind, "stage": stage, "message": message}


def _reduce_limit(plan: Plan, stages: Sequence[Mapping[str, Any]], past: Past) -> list[dict[str, Any]]:
    """A search that gives far more than is left at the end, where only cutting stages follow."""
    if not past.bodies or not stages:
        return []
    last = max(1, stages[-1]["estimated_output"])
    found = []
    for number, (stage, told) in enumerate(zip(plan.stages, stages, strict=True)):
        behind = plan.stages[number + 1 :]
        needs_all = any(s.stage.kind in ("group", "reduce") and s.stage.stage_id != "limit" for s in behind)
        if stage.stage.searches and not needs_all and told["estimated_output"] >= WASTEFUL * last:
            message = (
                f"gives {told['estimated_output']} documents, of which {last} are left at the end: lower final_top_k"
            )
            found.append(_suggestion("reduce_limit", stage.name, message))
    return found


def _add_filter(plan: Plan, stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    slow = bottlenecks(stages)
    found = []
    for stage, told in zip(plan.stages, stages, strict=True):
        filtered = stage.pre.given or stage.takes or "filters" in repr(stage.tree.raw)
        large = told["estimated_input"] >= LARGE
        if stage.stage.searches and not filtered and large and (stage.name in slow or not slow):
            message = f"looks through {told['estimated_input']:,} documents: pre_filters on an indexed field narrow it"
            found.append(_suggestion("add_filter", stage.name, message))
        if stage is plan.stages[0]:
            break  # behind the first stage there are only as many documents as it gave
    return found


def _reorder(plan: Plan, past: Past) -> list[dict[str, Any]]:
    """A cheap filter on stored fields behind an expensive stage that neither filters nor finds."""
    found = []
    for number, stage in enumerate(plan.stages[1:], start=1):
        before = plan.stages[number - 1]
        kept = [s["output_count"] / s["input_count"] for s in past.of(stage.name) if s["input_count"]]
        cheaper = _COSTS.index(stage.stage.cost_tier) < _COSTS.index(before.stage.cost_tier)
        if stage.stage.as_filter is None or before.stage.starts or not cheaper or not kept:
            continue
        if median(kept) <= DROPS and "score" not in repr(stage.tree.raw) and before.stage.kind in ("sort", "enrich"):
            share = round(100 * (1 - median(kept)))
            message = f"drops {share} % of what '{before.name}' has worked on: put it before '{before.name}'"
            found.append(_suggestion("reorder_stages", stage.name, message))
    return found


def _enable_cache(plan: Plan, past: Past, policy: CachePolicy | None) -> list[dict[str, Any]]:
    outside = [stage for stage in plan.stages if _reaches_out(stage)]
    if policy is not None or plan.clocked or outside or past.repeated < REPEATED:
        return []
    message = (
        f"{round(100 * past.repeated)} % of the latest executions asked what had been asked before: set cache_config"
    )
    return [_suggestion("enable_cache", None, message)]
