"""How far the vectors of a collection have moved: the mean of new ones against the mean of earlier ones."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from mediatheca.flows.indexing import stored_vectors
from mediatheca.flows.services import Services
from mediatheca.kernel.clock import wire_time
from mediatheca.kernel.filters import Filter, Leaf
from mediatheca.kernel.join import unit_rows
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.tx import Record

SAMPLE = 20_000
"""Vectors of each side that are looked at: the first ones in storage order."""
FEWEST = 10


@dataclass(frozen=True, slots=True)
class Drift:
    """`distance`: 1 - cosine of the two means, from 0 to 2."""

    distance: float
    recent: int
    earlier: int


def drift_of(services: Services, scope: Scope, collection: Record, since: datetime) -> Drift | None:
    """The drift of the first dense vector index since a time; None: there is too little to compare."""
    index = next((entry for entry in stored_vectors(collection.body) if not entry.sparse and not entry.multi), None)
    if index is None or services.indexer.unwritten(collection.id):
        return None
    moment = wire_time(since)
    sides = [
        _mean(services, scope, collection.id, index, Leaf("_internal.created_at", operator, moment))
        for operator in ("gte", "lt")
    ]
    (new, recent), (old, earlier) = sides
    if recent < FEWEST or earlier < FEWEST:
        return None
    lengths = float(np.linalg.norm(new) * np.linalg.norm(old))
    cosine = float(new @ old) / lengths if lengths else 0.0
    return Drift(1.0 - cosine, recent, earlier)


def _mean(services: Services, scope: Scope, collection_id: str, index: Any, keep: Filter) -> tuple[Any, int]:
    total, count = np.zeros(index.dimensions), 0
    dead = services.indexer.tombstones(scope, collection_id)
    for page in services.documents.vectors(collection_id, index, filter=keep, tombstones=dead):
        rows = page.vectors[: SAMPLE - count]
        total += unit_rows(np.asarray(rows, np.float32)).sum(axis=0)
        count += len(rows)
        if count >= SAMPLE:
            break
    return total / max(count, 1), count
