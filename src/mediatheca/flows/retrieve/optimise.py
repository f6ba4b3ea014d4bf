"""Rewrites of a plan that spare work, each with the reason why it was made or left.

No stage leaves the plan: places, statistics and cached states keep their numbers. A stage whose work another one does
is marked, and the walk passes over it. `strict` keeps every result as it is; `semantic` also applies a filter that
follows a search inside the search, which finds matching documents beyond its `top_k`; `off` changes nothing. A filter
*before* a search narrows the search at every level: that is what the order of the stages means.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any, TypeAlias

from pydantic import BaseModel

from mediatheca.flows.retrieve.levels import Level
from mediatheca.flows.retrieve.plan import Decision, Plan, PlannedStage
from mediatheca.kernel.filters import Filter, all_of, fields_of
from mediatheca.kernel.ordering import SortKey
from mediatheca.kernel.relaxation import Relaxation
from mediatheca.kernel.templates import DOCUMENT_NAMES

PUSH, MERGE = "push_down_filters", "merge_consecutive_filters"
SORTS, LIMIT = "eliminate_redundant_sorts", "limit_pull_up"
NOTED = {PUSH: "pushed_into", MERGE: "merged_into", SORTS: "made_needless_by", LIMIT: "pulled_into"}
"""Rule → what a stage's statistics say when it was applied to the stage."""
_SCORE = frozenset({"score", "_score"})
_COUNTS = ("facets", "group_by")
"""Parameters with which a search tells something about everything that it found."""
LEVELS = {"off": "none", "strict": "mvp", "semantic": "advanced"}
"""What clients call the levels."""


def optimise(plan: Plan, level: Level | None = None) -> Plan:
    """The plan with its stages marked; a plan that has been is returned as it is. None: the level of the plan."""
    if plan.decisions:
        return plan
    used: Level = level or plan.optimize
    if len(plan.stages) < 2:
        return replace(plan, optimize=used) if used != plan.optimize else plan
    work = _Work(plan, used)
    work.leading()
    if "STAGE" in plan.names and used != "off":
        work.leave("templates read STAGE, which tells what each stage gave")
    elif used != "off":
        work.filters()
        work.sorts()
        work.limits()
    stages = tuple(work.stages)
    key = plan.key if stages == plan.stages else f"{plan.key}:{used}"
    return replace(plan, stages=stages, key=key, optimize=used, decisions=tuple(work.decisions))


@dataclass(slots=True)
class _Work:
    """The marks so far. `taken`: the numbers of stages that another one does."""

    plan: Plan
    level: Level
    stages: list[PlannedStage] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    taken: set[int] = field(default_factory=set)
    first: int = 0
    """The first stage behind the leading filters."""

    def __post_init__(self) -> None:
        self.stages = list(self.plan.stages)

    def decide(self, rule: str, stage: PlannedStage, into: PlannedStage | None, reason: str, applied: bool) -> None:
        self.decisions.append(Decision(rule, stage.name, None if into is None else into.name, applied, reason))

    def leave(self, reason: str) -> None:
        for stage in self.stages[self.first + 1 :]:
            if stage.stage.as_filter is not None:
                self.decide(PUSH, stage, None, reason, False)

    # ---- filters

    def leading(self) -> None:
        """Filters at the beginning go into the stage that follows and starts the pipeline; the engine does it."""
        while self.first < len(self.stages) - 1 and self.stages[self.first].stage.as_filter is not None:
            stage, following = self.stages[self.first], self.stages[self.first + 1]
            if following.stage.starts:
                self.decide(PUSH, stage, following, "a filter before a search narrows the search", True)
            self.first += 1

    def filters(self) -> None:
        """Filters go into the search they follow, or else into the filter they follow."""
        number = self.first
        while number < len(self.stages):
            stage, following = self.stages[number], self._filters_after(number)
            if following and stage.stage.searches:
                self._into_search(number, following)
            elif following and stage.stage.as_filter is not None and number > 0:
                self._merge(number, following)
            number += 1

    def _filters_after(self, number: int) -> list[int]:
        found = []
        for place in range(number + 1, len(self.stages)):
            if self.stages[place].stage.as_filter is None or place in self.taken:
                break
            found.append(place)
        return found

    def _into_search(self, number: int, following: list[int]) -> None:
        search = self.stages[number]
        refused = "" if self.level == "semantic" else "it finds matching documents beyond top_k, so results change"
        refused = refused or _keeps_its_result(search)
        self._take(PUSH, number, following, refused, "only stored fields are read; the search finds more that match")

    def _merge(self, number: int, following: list[int]) -> None:
        if number in self.taken:
            return
        self._take(MERGE, number, following, _stands_alone(self.stages[number]), "both must hold; one pass does")

    def _take(self, rule: str, number: int, following: list[int], refused: str, reason: str) -> None:
        into = self.stages[number]
        for place in following:
            stage = self.stages[place]
            why_not = refused or _stands_alone(stage)
            self.decide(rule, stage, into, why_not or reason, not why_not)
            if why_not:
                return
            self.taken.add(place)
            self.stages[number] = replace(self.stages[number], takes=(*self.stages[number].takes, stage))

    # ---- sorts

    def sorts(self) -> None:
        """A sort whose order does not survive the next one is passed over."""
        for number in reversed(range(len(self.stages) - 1)):
            stage, later = self.stages[number], self._sort_behind(number)
            if later is None or not stage.stage.sort_keys:
                continue
            why_not = _stands_alone(stage) or _stands_alone(later) or _own_filters(stage)
            why_not = why_not or self._survives(number, stage, later)
            if not why_not:
                self.stages[number] = replace(stage, needless=later.name)
            self.decide(SORTS, stage, later, why_not or "the later sort decides the order alone", not why_not)

    def _sort_behind(self, number: int) -> PlannedStage | None:
        following = next((stage for stage in self.stages[number + 1 :] if stage.needless is None), None)
        return following if following is not None and following.stage.sort_keys is not None else None

    def _survives(self, number: int, stage: PlannedStage, later: PlannedStage) -> str:
        """Sorts are stable: the earlier one orders what is equal for the later one, unless nothing is left to order."""
        earlier, last = _sort_keys(stage), _sort_keys(later)
        if earlier is None or last is None:
            return "a template decides what is sorted by"
        compared = {(key.field, key.ignore_case) for key in last}
        if {(key.field, key.ignore_case) for key in earlier} <= compared or self._total(number, compared):
            return ""
        return "it orders the documents that are equal for the later sort"

    def _total(self, number: int, compared: set[tuple[str, bool]]) -> bool:
        """Whether no two rows are equal: ids are unique in a collection, where no stage made rows of its own."""
        made = any(s.stage.kind not in ("filter", "sort") or s.stage.writes for s in self.stages[:number])
        whole = len(self.plan.collections) == 1 or ("collection_id", False) in compared
        return ("document_id", False) in compared and whole and not made

    # ---- limits

    def limits(self) -> None:
        """A search need not give more than the limit behind it keeps."""
        for number, stage in enumerate(self.stages):
            place = number + 1 + len(stage.takes)
            limit = self.stages[place] if place < len(self.stages) else None
            if not stage.stage.searches or limit is None or limit.stage.stage_id != "limit":
                continue
            why_not = _keeps_its_result(stage) or _stands_alone(limit) or _own_filters(limit)
            if not why_not and stage.post.given:
                why_not = "the search's post_filters drop documents before the limit counts them"
            if not why_not and self.level == "strict" and _approximate(stage):
                why_not = "an approximate search that looks less far may find others"
            if not why_not:
                self.stages[number] = replace(stage, cap=limit)
            self.decide(LIMIT, limit, stage, why_not or "nothing between them reorders", not why_not)


def _stands_alone(stage: PlannedStage) -> str:
    """Why a stage must run by itself; empty: it need not."""
    if stage.output_alias is not None:
        return "its result is kept under output_alias"
    if stage.on_error != "error":
        return "on_error: skip keeps what came before it"
    if stage.tree.names & DOCUMENT_NAMES or _per_document(stage):
        return "it reads DOC, which differs from document to document"
    if isinstance(stage.tree.raw, Mapping) and stage.tree.raw.get("natural_language"):
        return "a language model says what it means"
    return ""


def _per_document(stage: PlannedStage) -> bool:
    return isinstance(stage.tree.raw, Mapping) and bool(stage.tree.raw.get("document_templates"))


def _keeps_its_result(search: PlannedStage) -> str:
    """Why a search must find exactly what it would find alone."""
    if search.output_alias is not None:
        return "the search's result is kept under output_alias"
    counted = [name for name in _COUNTS if isinstance(search.tree.raw, Mapping) and search.tree.raw.get(name)]
    return f"the search's {counted[0]} count what it finds" if counted else ""


def _own_filters(stage: PlannedStage) -> str:
    return "it has filters of its own" if stage.pre.given or stage.post.given else ""


def _approximate(search: PlannedStage) -> bool:
    searches = search.tree.raw.get("searches") if isinstance(search.tree.raw, Mapping) else None
    return not isinstance(searches, list) or len(searches) == 1


def _sort_keys(stage: PlannedStage) -> list[SortKey] | None:
    read: Callable[[Any], list[SortKey]] | None = stage.stage.sort_keys
    return None if stage.fixed is None or read is None else read(stage.fixed)


# ---- while it runs


FilterOf: TypeAlias = Callable[[PlannedStage, BaseModel], Awaitable[Filter | None]]
"""The filter that a stage's parameters mean."""


@dataclass(slots=True)
class Taken:
    """What a stage does for others in one execution."""

    filter: Filter | None = None
    filters: list[Filter] = field(default_factory=list)
    notes: dict[str, dict[str, str]] = field(default_factory=dict)
    """Stage → what its statistics say."""
    relaxations: list[Relaxation] = field(default_factory=list)
    cap: int | None = None

    def capped(self, params: BaseModel, wanted: int) -> BaseModel:
        """The parameters, asking for no more than is kept."""
        if self.cap is None:
            return params
        asked: int = params.final_top_k  # type: ignore[attr-defined]
        asked = asked if "final_top_k" in params.model_fields_set else max(asked, wanted)
        return params if asked <= self.cap else params.model_copy(update={"final_top_k": self.cap})


NOTHING = Taken()
"""Of a stage that does nothing for others; shared, never changed."""


async def taken(stage: PlannedStage, scope: Mapping[str, Any], filter_of: FilterOf, *, capping: bool) -> Taken:
    """What a stage takes over with these inputs. A filter that turns out to read the score stays where it is.

    Args:
        capping: whether limits are told to searches: not where it is asked which stage dropped a document.

    Raises:
        ValidationError: what the templates of a stage gave does not fit, at the place of that stage.
    """
    if not stage.takes and stage.cap is None:
        return NOTHING
    found = Taken()
    noted = NOTED[PUSH if stage.stage.searches else MERGE]
    for other in stage.takes:
        relaxations: list[Relaxation] = []
        own = await filter_of(other, other.params(scope, relaxations))
        tree = all_of(other.pre.render(scope, relaxations), own, other.post.render(scope, relaxations))
        if tree is not None and fields_of(tree) & _SCORE:
            continue
        found.notes[other.name] = {noted: stage.name}
        found.relaxations.extend(relaxations)
        if tree is not None:
            found.filters.append(tree)
    found.filter = all_of(*found.filters)
    if capping and stage.cap is not None and len(found.notes) == len(stage.takes):
        params: Any = stage.cap.params(scope, [])
        found.cap = params.offset + params.limit
        found.notes[stage.cap.name] = {NOTED[LIMIT]: stage.name}
    return found


def passed_over(stage: PlannedStage, notes: Mapping[str, str]) -> bool:
    """Whether a stage has nothing left to do. A limit still cuts: it was only told to the search."""
    return stage.needless is not None or any(NOTED[rule] in notes for rule in (PUSH, MERGE))


# ---- what is told of it


def summary(plan: Plan, statistics: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Any] | None:
    """What was rewritten, for the answer of an execution (with its statistics) or of explain; None: nothing to tell."""
    if not plan.decisions:
        return None
    began = perf_counter()
    decisions, saved = [], 0
    for made in plan.decisions:
        applied = made.applied and (statistics is None or _applied(made, statistics))
        reason = made.reason if applied == made.applied else "the inputs made it read the score, or it did not run"
        after = len(plan.stages) - saved - (1 if applied and made.rule != LIMIT else 0)
        decisions.append(
            {
                "rule_type": made.rule,
                "applied": applied,
                "reason": reason,
                "stage": made.stage,
                "into": made.into,
                "stages_before": len(plan.stages) - saved,
                "stages_after": after,
            }
        )
        saved = len(plan.stages) - after
    return {
        "optimize": plan.optimize,
        "optimization_level": LEVELS[plan.optimize],
        "original_stage_count": len(plan.stages),
        "optimized_stage_count": len(plan.stages) - saved,
        "stage_reduction_pct": 100 * saved / len(plan.stages),
        "rules_applied": list(dict.fromkeys(d["rule_type"] for d in decisions if d["applied"])),
        "optimization_time_ms": (perf_counter() - began) * 1000,
        "decisions": decisions,
    }


def _applied(made: Decision, statistics: Mapping[str, Mapping[str, Any]]) -> bool:
    return NOTED[made.rule] in statistics.get(made.stage, {}).get("metadata", {})
