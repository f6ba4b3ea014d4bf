"""The rows of each item: from the cache where they were made before, else by the runner."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mediatheca.extractors import Extractor, Item
from mediatheca.flows.ingest.cache import ResultCache, ResultKeys
from mediatheca.flows.ingest.cache_file import Entry
from mediatheca.flows.ingest.desk import Memory
from mediatheca.flows.services import JobServices
from mediatheca.jobs.runner import ItemFailure, ItemResult, ItemRows
from mediatheca.kernel.desk import NO_DESK
from mediatheca.kernel.scope import Scope
from mediatheca.telemetry import CACHED_RESULTS, EXTRACTION_SECONDS


@dataclass(frozen=True)
class Extraction:
    """An extractor with its parameters, for the items of one namespace.

    `load` gives items the bytes they still lack, or says why they cannot have them.
    """

    services: JobServices
    scope: Scope
    extractor: Extractor
    parameters: Mapping[str, Any]
    load: Callable[[Sequence[Item]], Iterable[Item | ItemFailure]]

    def results(self, items: Sequence[Item]) -> Iterator[ItemResult]:
        """What `Runner.map` gives for these items, and raises."""
        if not self.services.settings.cache_mb:
            yield from self._computed(items, {}, NO_DESK)
            return
        cache = ResultCache(self.services, self.scope)
        try:
            if self.extractor.cache_version:
                yield from self._with_cache(items, cache)
            else:
                yield from self._computed(items, {}, cache)
        finally:
            cache.flush()

    def _with_cache(self, items: Sequence[Item], cache: ResultCache) -> Iterator[ItemResult]:
        """Items of equal content are one to the extractor, under the name of that content."""
        keys = ResultKeys(self.extractor, self.parameters, self.services.models)
        waiting: dict[str, list[Item]] = {}
        for item in items:
            waiting.setdefault(keys.of(item), []).append(item)
        for key, entry in cache.load(list(waiting)):
            twins = waiting.pop(key)
            CACHED_RESULTS.labels("hit").inc(len(twins))
            yield from (ItemRows(twin.item_id, list(entry.rows), list(entry.dropped)) for twin in twins)
        CACHED_RESULTS.labels("miss").inc(len(waiting))
        firsts = [twins[0] for twins in waiting.values()]
        names = {twins[0].item_id: key for key, twins in waiting.items()}
        for outcome in self._computed(firsts, names, cache):
            if isinstance(outcome, ItemRows):
                cache.add(outcome.item_id, Entry(outcome.rows, outcome.dropped))
            for twin in waiting[outcome.item_id]:
                yield replace(outcome, item_id=twin.item_id)

    def _computed(self, items: Sequence[Item], names: Mapping[str, str], memory: Memory) -> Iterator[ItemResult]:
        """The runner's results. Items that have an entry in `names` are handed over, and come back, under it."""
        ready: list[Item] = []
        for loaded in self.load(items):
            named = replace(loaded, item_id=names[loaded.item_id]) if names else loaded
            if isinstance(named, ItemFailure):
                yield named
            else:
                ready.append(named)
        desk = self.services.desks.of(self.scope, self.parameters, memory, ready)
        for outcome in self.services.runner.map(self.extractor.extractor_id, self.parameters, ready, desk):
            if isinstance(outcome, ItemRows):
                _count(outcome.times)
            yield outcome


def _count(times: Mapping[str, float]) -> None:
    parts = {part: times.get(part, 0.0) for part in ("decode", "model")}
    parts["other"] = times.get("item", 0.0) - sum(parts.values())
    for part, spent in parts.items():
        EXTRACTION_SECONDS.labels(part).inc(max(0.0, spent))
