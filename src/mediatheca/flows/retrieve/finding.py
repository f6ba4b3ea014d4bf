"""The ranking of one request: found by running the stages, or among what is kept of earlier executions."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any

import orjson

from mediatheca.flows.retrieve.cache import ResultCache, size_of
from mediatheca.flows.retrieve.cache_fields import complete, keepable
from mediatheca.flows.retrieve.execute import Execution, Parts, Tell
from mediatheca.flows.retrieve.explain import Trace
from mediatheca.flows.retrieve.outcome import Outcome
from mediatheca.flows.retrieve.plan import Plan
from mediatheca.flows.retrieve.request import ExecuteRequest
from mediatheca.flows.retrieve.seams import ExecutionContext
from mediatheca.flows.retrieve.stage_cache import StageStates
from mediatheca.kernel.filters import Filter
from mediatheca.kernel.template_functions import at_moment


class Finder:
    """Finds the ranking of one request, as deep as it is asked for."""

    def __init__(
        self,
        parts: Parts,
        cache: ResultCache[Outcome],
        plan: Plan,
        request: ExecuteRequest,
        context: ExecutionContext,
        inputs: dict[str, Any],
        keep: Filter | None,
        trace: Trace | None,
        tell: Tell | None,
    ) -> None:
        self._parts = parts
        self._cache = cache
        self._plan = plan
        self._request = request
        self._context = context
        self._inputs = inputs
        self._keep = keep
        self._trace = trace
        self._tell = tell
        self.key = self._digest()
        """Of everything that decides the ranking."""
        self.cached_at: float | None = None
        """When the ranking was made, where it was kept."""

    def _digest(self) -> str:
        asked = self._request
        content = [
            self._plan.key,
            self._caller,
            self._collections,
            self._inputs,
            asked.filters,
            asked.inputs.get("filters"),
            asked.sort,
            asked.group_by and asked.group_by.model_dump(),
            asked.unseen,
            asked.max_chunks,
        ]
        data = orjson.dumps(content, default=repr, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
        return hashlib.blake2b(data, digest_size=12).hexdigest()

    async def find(self, wanted: int, moment: datetime) -> Outcome:
        """The ranking, `wanted` documents deep. `moment`: what its templates take for the current time."""
        key, policy, fresh = self._cache_key(wanted), self._context.cache, self._request.skip_cache
        kept = None if key is None or fresh else self._cache.find(key)
        found = None if kept is None else await complete(kept.value, policy, self._parts.searcher)
        if kept is not None and found is not None:
            self.cached_at = kept.made
            return found
        states = None if key is None or fresh else self._states(wanted)
        run = Execution(
            self._plan,
            self._context,
            self._inputs,
            self._keep,
            wanted,
            self._parts,
            trace=self._trace,
            tell=self._tell,
            states=states,
        )
        with at_moment(moment):
            outcome = await run.run()
        if key is not None and policy is not None and outcome.notes.repeatable and outcome.status == "completed":
            shown = keepable(outcome, self._plan, policy)
            if shown is not None:
                self._cache.keep(key, shown, size_of(shown.hits), policy.ttl_s)
        return outcome

    def _states(self, wanted: int) -> StageStates | None:
        policy = self._context.cache
        if policy is None or not policy.stages:
            return None
        base = [self._caller, self._collections, self._versions(), wanted]
        asked = [self._request.filters, self._request.inputs.get("filters")]
        return StageStates(
            self._parts.states, self._plan, [base, asked], self._inputs, policy.ttl_s, self._context.namespace_id
        )

    def _cache_key(self, wanted: int) -> str | None:
        """None: the result may not be kept, or not be taken from what was kept."""
        watched = self._trace is not None or self._tell is not None
        if self._context.cache is None or watched or self._plan.clocked or self._request.unseen:
            return None
        versions = self._versions()
        if None in versions:
            return None  # the index is catching up: the answer will be degraded
        return f"{self._context.namespace_id} {self.key}:{wanted}:{versions}"

    @property
    def _caller(self) -> tuple[str, ...]:
        """For whom, and by which retriever: its stages may show its id and name."""
        asked = self._context
        name = asked.retriever_name if "CONTEXT" in self._plan.names else ""
        return asked.internal_id, asked.namespace_id, repr(asked.filter), asked.retriever_id, name

    @property
    def _collections(self) -> list[str]:
        return [view.collection_id for view in self._plan.collections]

    def _versions(self) -> list[int | None]:
        return [self._parts.searcher.version(ident) for ident in self._collections]
