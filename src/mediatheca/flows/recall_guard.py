"""A guard over the approximate index: some searches are answered exactly once more, and the two answers compared.

The second answer is found in a thread, one at a time, after the caller was served. Its recall@k goes into rolling
means, of everything and of each collection searched last, that `/metrics` and `/health` show to the operator; below the
floor, health says so and names the collections.
"""

from __future__ import annotations

import math
import random
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import structlog

from mediatheca.kernel.search import Hit, VectorQuery
from mediatheca.telemetry import COLLECTION_RECALL, RECALL

log = structlog.get_logger()

WINDOW = 500
"""Samples in the mean."""
COLLECTION_WINDOW = 100
"""Samples in the mean of one collection."""
MAX_COLLECTIONS = 100
"""Collections that have a mean of their own: those sampled last. A metric must not grow with the tenants."""
FLOOR = 0.95
MIN_SAMPLES = 20
"""Fewer say nothing."""
MAX_NAMED = 10

Ask = Callable[[str, VectorQuery], Sequence[Hit]]
Exact = Callable[[str, VectorQuery], bool]


class RecallGuard:
    """Samples searches of one process. `rate`: the share of vector searches that are checked; 0 switches it off.

    Args:
        ask: answers a query.
        exact: whether a query is answered exactly anyway; those prove nothing and are not sampled.
    """

    def __init__(self, ask: Ask, rate: float, exact: Exact = lambda collection_id, query: query.exact) -> None:
        self._ask = ask
        self._rate = rate
        self._exact = exact
        self._samples: deque[float] = deque(maxlen=WINDOW)
        self._collections: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()
        self._busy = threading.Lock()
        self._random = random.Random()

    def sample(self, collection_id: str, query: VectorQuery, found: Sequence[Hit]) -> None:
        """Perhaps check this answer; returns at once, and never checks two at a time."""
        if self._rate <= 0 or self._random.random() >= self._rate or self._exact(collection_id, query):
            return
        if not self._busy.acquire(blocking=False):
            return
        first = [hit.document_id for hit in found]
        threading.Thread(target=self._check, args=(collection_id, query, first), name="recall", daemon=True).start()

    def _check(self, collection_id: str, query: VectorQuery, first: list[str]) -> None:
        try:
            exact = self._ask(collection_id, replace(query, exact=True, with_vectors=()))
            self.add(collection_id, first, [hit.document_id for hit in exact])
        except Exception as error:  # a check that fails must not look like a bad index, nor end anything
            log.warning("recall.unchecked", collection=collection_id, error=type(error).__name__)
        finally:
            self._busy.release()

    def add(self, collection_id: str, found: Sequence[str], exact: Sequence[str]) -> None:
        """Count one comparison: the share of the exact answer that was found."""
        if not exact:
            return
        recall = len(set(found) & set(exact)) / len(exact)
        with self._lock:
            self._samples.append(recall)
            own = self._collections.setdefault(collection_id, deque(maxlen=COLLECTION_WINDOW))
            own.append(recall)
            self._collections.move_to_end(collection_id)
            COLLECTION_RECALL.labels(collection_id).set(_mean(own))
            if len(self._collections) > MAX_COLLECTIONS:
                oldest, _ = self._collections.popitem(last=False)
                COLLECTION_RECALL.remove(oldest)
        RECALL.set(self.mean)

    @property
    def mean(self) -> float:
        """NaN before anything was sampled."""
        return _mean(list(self._samples))

    def of(self, collection_id: str) -> tuple[float, int]:
        """Mean recall of a collection, and of how many samples."""
        with self._lock:
            samples = list(self._collections.get(collection_id, ()))
        return _mean(samples), len(samples)

    def _low_collections(self) -> list[dict[str, Any]]:
        """The collections whose index finds too little, the worst first."""
        with self._lock:
            known = {name: list(samples) for name, samples in self._collections.items()}
        low: list[dict[str, Any]] = [
            {"collection_id": name, "recall": _mean(samples), "samples": len(samples)}
            for name, samples in known.items()
            if len(samples) >= MIN_SAMPLES and _mean(samples) < FLOOR
        ]
        return sorted(low, key=lambda entry: entry["recall"])[:MAX_NAMED]

    def report(self) -> dict[str, Any]:
        """Mean recall, number of samples, and whether the index finds what it should: of everything, and where not."""
        worst = self._low_collections()
        low = bool(worst) or (len(self._samples) >= MIN_SAMPLES and self.mean < FLOOR)
        advice = {"next_step": "rebuild the index of the collection, or search with more candidates"} if low else {}
        number = len(self._samples)
        counted = {"recall": self.mean if number else None, "samples": number, "low": low, "floor": FLOOR}
        return {**counted, "collections": worst, **advice}


def _mean(samples: Sequence[float]) -> float:
    return sum(samples) / len(samples) if samples else math.nan
