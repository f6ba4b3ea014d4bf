"""The state of an execution behind a stage, kept for requests that differ only in what comes after."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from mediatheca.flows.retrieve.cache import ResultCache, size_of
from mediatheca.flows.retrieve.outcome import Outcome
from mediatheca.flows.retrieve.plan import Plan
from mediatheca.kernel.relaxation import Relaxation
from mediatheca.kernel.search import Hit


@dataclass(frozen=True, slots=True)
class StageState:
    """Everything that the stages up to one have left behind."""

    number: int
    hits: list[Hit]
    side: dict[str, Any]
    stages: dict[str, Any]
    """The template namespace STAGE."""
    aliases: dict[str, Any]
    """What `output_alias` put into CONTEXT."""
    statistics: dict[str, dict[str, Any]]
    stage_results: list[dict[str, Any]]
    page_limit: int | None
    relaxations: list[Relaxation]
    warnings: dict[str, None]
    limits: list[dict[str, Any]]


def copied(hits: Sequence[Hit]) -> list[Hit]:
    """Hits that stages may change without changing these."""
    return [
        Hit(
            h.document_id, h.collection_id, h.score, copy.deepcopy(h.payload), h.system, dict(h.vectors), dict(h.scores)
        )
        for h in hits
    ]


def take_up(state: StageState, out: Outcome, scope: Mapping[str, Any]) -> None:
    """Put an execution behind the stages that a state was kept of."""
    out.hits, out.side = copied(state.hits), dict(state.side)
    scope["STAGE"].update(state.stages)
    scope["CONTEXT"].update(state.aliases)
    out.statistics = {
        name: {**entry, "stage_cache_hit": True, "cache_hit": True} for name, entry in state.statistics.items()
    }
    out.stage_results, out.page_limit = list(state.stage_results), state.page_limit
    out.relaxations.extend(state.relaxations)
    out.notes.warnings.update(state.warnings)
    out.notes.limits.extend(state.limits)


def state_of(number: int, plan: Plan, out: Outcome, scope: Mapping[str, Any]) -> StageState:
    """What an execution has come to behind a stage."""
    return StageState(
        number=number,
        hits=copied(out.hits),
        side=dict(out.side),
        stages=dict(scope["STAGE"]),
        aliases={s.output_alias: scope["CONTEXT"].get(s.output_alias) for s in plan.stages if s.output_alias},
        statistics=dict(out.statistics),
        stage_results=list(out.stage_results),
        page_limit=out.page_limit,
        relaxations=list(out.relaxations),
        warnings=dict(out.notes.warnings),
        limits=list(out.notes.limits),
    )


class StageStates:
    """The states of one execution in the process's cache. `base`: what decides every stage (caller, filters, …)."""

    def __init__(
        self, cache: ResultCache[StageState], plan: Plan, base: Any, inputs: Mapping[str, Any], ttl_s: float,
        owner: str = "",
    ) -> None:  # fmt: skip
        """`owner`: the namespace whose documents these are."""
        self._owner = owner
        self._cache = cache
        self._plan = plan
        self._base = base
        self._inputs = inputs
        self._ttl_s = ttl_s

    def latest(self, names: frozenset[str]) -> StageState | None:
        """The state behind the last of these stages that was kept."""
        for number in reversed(range(len(self._plan.stages))):
            if self._plan.stages[number].name in names:
                kept = self._cache.find(self._key(number))
                if kept is not None:
                    return kept.value
        return None

    def keep(self, state: StageState) -> None:
        """Keep a state for as long as every stage that made it allows; not at all where one does not."""
        stages = self._plan.stages[: state.number + 1]
        made = [part.caching for stage in stages for part in (stage, *stage.others)]
        if all(caching.may_keep for caching in made):
            ttl_s = min([self._ttl_s, *(caching.ttl_s for caching in made)])
            self._cache.keep(self._key(state.number), state, size_of(state.hits), ttl_s)

    def _key(self, number: int) -> str:
        stages = self._plan.stages[: number + 1]
        read = {name for stage in stages for name in stage.inputs}
        inputs = self._inputs if "*" in read else {name: self._inputs.get(name) for name in sorted(read)}
        content = [self._base, [stage.content for stage in stages], inputs]
        data = orjson.dumps(content, default=repr, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
        return f"{self._owner} {hashlib.blake2b(data, digest_size=16).hexdigest()}"
