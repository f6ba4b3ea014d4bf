"""A guard over the approximate index: some searches are answered exactly once more, and the two answers compared.

The second answer is found in a thread, one at a time, after the caller was served. Its recall@k goes into a rolling
mean that `/metrics` and `/health` show to the operator; below the floor, health says so.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import structlog

from mediatheca.kernel.search import Hit, VectorQuery
from mediatheca.telemetry import RECALL

log = structlog.get_logger()

WINDOW = 500
"""Samples in the mean."""
FLOOR = 0.95
MIN_SAMPLES = 20
"""Fewer say nothing."""

Ask = Callable[[str, VectorQuery], Sequence[Hit]]


class RecallGuard:
    """Samples searches of one process. `rate`: the share of vector searches that are checked; 0 switches it off."""

    def __init__(self, ask: Ask, rate: float) -> None:
        self._ask = ask
        self._rate = rate
        self._samples: deque[float] = deque(maxlen=WINDOW)
        self._busy = threading.Lock()
        self._random = random.Random()

    def sample(self, collection_id: str, query: VectorQuery, found: Sequence[Hit]) -> None:
        """Perhaps check this answer; returns at once, and never checks two at a time."""
        if query.exact or not found or self._rate <= 0 or self._random.random() >= self._rate:
            return
        if not self._busy.acquire(blocking=False):
            return
        first = [hit.document_id for hit in found]
        threading.Thread(target=self._check, args=(collection_id, query, first), name="recall", daemon=True).start()

    def _check(self, collection_id: str, query: VectorQuery, first: list[str]) -> None:
        try:
            exact = self._ask(collection_id, replace(query, exact=True, with_vectors=()))
            self.add(first, [hit.document_id for hit in exact])
        except Exception as error:  # a check that fails must not look like a bad index, nor end anything
            log.warning("recall.unchecked", collection=collection_id, error=type(error).__name__)
        finally:
            self._busy.release()

    def add(self, found: Sequence[str], exact: Sequence[str]) -> None:
        """Count one comparison: the share of the exact answer that was found."""
        if exact:
            self._samples.append(len(set(found) & set(exact)) / len(exact))
            RECALL.set(self.mean)

    @property
    def mean(self) -> float:
        samples = list(self._samples)
        return sum(samples) / len(samples) if samples else 1.0

    def report(self) -> dict[str, Any]:
        """Mean recall, number of samples, and whether the index finds what it should."""
        enough = len(self._samples) >= MIN_SAMPLES
        low = enough and self.mean < FLOOR
        advice = {"next_step": "rebuild the index of the collection, or search with more candidates"} if low else {}
        return {"recall": self.mean, "samples": len(self._samples), "low": low, "floor": FLOOR, **advice}
