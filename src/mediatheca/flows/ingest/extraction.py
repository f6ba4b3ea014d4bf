"""The rows of each item: from the cache where they were made before, else by the runner."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mediatheca.extractors import Extractor, Item
from mediatheca.flows.ingest.cache import ResultCache, ResultKeys
from mediatheca.flows.services import JobServices
from mediatheca.jobs.runner import ItemFailure, ItemResult, ItemRows
from mediatheca.kernel.scope import Scope
from mediatheca.telemetry import CACHED_RESULTS


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
        """One result for every item, in the order they are ready. Raises what `Runner.map` raises."""
        if self.extractor.cache_version and self.services.settings.cache_mb:
            return self._with_cache(items)
        return self._computed(items, {})

    def _with_cache(self, items: Sequence[Item]) -> Iterator[ItemResult]:
        """Items of equal content are one to the extractor, under the name of that content."""
        keys = ResultKeys(self.extractor, self.parameters, self.services.models)
        cache = ResultCache(self.services, self.scope)
        waiting: dict[str, list[Item]] = {}
        for item in items:
            waiting.setdefault(keys.of(item), []).append(item)
        for key, rows in cache.load(list(waiting)):
            twins = waiting.pop(key)
            CACHED_RESULTS.labels("hit").inc(len(twins))
            yield from (ItemRows(twin.item_id, rows) for twin in twins)
        CACHED_RESULTS.labels("miss").inc(len(waiting))
        firsts = [twins[0] for twins in waiting.values()]
        names = {twins[0].item_id: key for key, twins in waiting.items()}
        for outcome in self._computed(firsts, names):
            if isinstance(outcome, ItemRows):
                cache.add(outcome.item_id, outcome.rows)
            for twin in waiting[outcome.item_id]:
                yield replace(outcome, item_id=twin.item_id)
        cache.flush()

    def _computed(self, items: Sequence[Item], names: Mapping[str, str]) -> Iterator[ItemResult]:
        """The runner's results. Items that have an entry in `names` are handed over, and come back, under it."""
        ready: list[Item] = []
        for loaded in self.load(items):
            named = replace(loaded, item_id=names[loaded.item_id]) if names else loaded
            if isinstance(named, ItemFailure):
                yield named
            else:
                ready.append(named)
        yield from self.services.runner.map(self.extractor.extractor_id, self.parameters, ready)
