"""The rows of each item: from the cache where they were made before, else by the runner."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mediatheca.extractors import Extractor, Item, ItemError
from mediatheca.flows.ingest.bringing import bringing
from mediatheca.flows.ingest.cache import ResultCache, ResultKeys
from mediatheca.flows.ingest.cache_file import Entry
from mediatheca.flows.ingest.desk import Memory
from mediatheca.flows.services import JobServices
from mediatheca.jobs.runner import ItemFailure, ItemResult, ItemRows
from mediatheca.jobs.runner_pool import ScratchRoot
from mediatheca.jobs.runner_supply import AHEAD, Supply, awaited
from mediatheca.kernel.desk import NO_DESK
from mediatheca.kernel.scope import Scope
from mediatheca.telemetry import CACHED_RESULTS, EXTRACTION_SECONDS

_LOOK_S = 0.2


@dataclass(frozen=True)
class Extraction:
    """An extractor with its parameters, for the items of one namespace."""

    services: JobServices
    scope: Scope
    extractor: Extractor
    parameters: Mapping[str, Any]

    def results(self, items: Sequence[Item]) -> Iterator[ItemResult]:
        """What `Runner.map` gives for these items, and raises. Their files come to this machine as they are needed."""
        if not self.services.settings.cache_mb:
            yield from self._computed(items, {}, NO_DESK)
            return
        cache = ResultCache(self.services, self.scope)
        try:
            if self.extractor.cache_version:
                yield from self._by_content(items, cache)
            else:
                yield from self._computed(items, {}, cache)
        finally:
            cache.flush()

    def _by_content(self, items: Sequence[Item], cache: ResultCache) -> Iterator[ItemResult]:
        """Where the content of an item is known before its files are here, they are not needed for a hit."""
        unknown = [item for item in items if any(not source.hash for source in awaited(item))]
        held = {item.item_id for item in unknown}
        yield from self._with_cache([item for item in items if item.item_id not in held], cache)
        if unknown:
            yield from self._seen_first(unknown, cache)

    def _seen_first(self, items: Sequence[Item], cache: ResultCache) -> Iterator[ItemResult]:
        """Files without a known hash (addresses) are brought first: as many as the runner works on, and a few more."""
        most = self.services.runner.describe().processes + AHEAD
        scratch = ScratchRoot(self.services.settings.data_dir / "scratch")
        supply = Supply(items, bringing(self.services), scratch.new)
        try:
            for start in range(0, len(items), most):
                part = range(start, min(start + most, len(items)))
                cache.flush()  # what is equal to something before is found
                whole = []
                for index in part:
                    found = _whole(supply, index, len(items))
                    if isinstance(found, Item):
                        whole.append(found)
                    else:
                        yield ItemFailure(items[index].item_id, str(found), "fetch", found.permanent)
                yield from self._with_cache(whole, cache)
                for index in part:
                    supply.release(index)
        finally:
            supply.close()
            scratch.close()

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
        services = self.services
        handed = [replace(item, item_id=names[item.item_id]) for item in items] if names else items
        desk = services.desks.of(self.scope, self.parameters, memory)
        results = services.runner.map(
            self.extractor.extractor_id, self.parameters, handed, desk, bring=bringing(services)
        )
        for outcome in results:
            if isinstance(outcome, ItemRows):
                _count(outcome.times)
            yield outcome


def _whole(supply: Supply, index: int, end: int) -> Item | ItemError:
    """An item with its files, or why it cannot have them; what follows it is asked for, too."""
    supply.ask(range(index, end))
    while not supply.ready(index):
        supply.wait(_LOOK_S)
    try:
        return supply.take(index)
    except ItemError as error:
        return error


def _count(times: Mapping[str, float]) -> None:
    parts = {part: times.get(part, 0.0) for part in ("decode", "model")}
    parts["other"] = times.get("item", 0.0) - sum(parts.values())
    for part, spent in parts.items():
        EXTRACTION_SECONDS.labels(part).inc(max(0.0, spent))
