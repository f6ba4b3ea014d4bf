"""Queries against one collection, and the hits that come back."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from mediatheca.kernel.documents import Vector
from mediatheca.kernel.filters import Filter


@dataclass(slots=True)
class Hit:
    """One result of a search. `payload` is the user's; `system` holds lineage, object ids and timestamps."""

    document_id: str
    collection_id: str
    score: float
    payload: dict[str, Any]
    system: dict[str, Any]
    vectors: dict[str, Vector] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    """What each scoring stage gave it: `feature_search`, `rrf`, `per_feature` (feature URI → raw score), …"""


@dataclass(frozen=True, slots=True)
class VectorQuery:
    """Nearest documents to `vector` on the index `using`."""

    using: str
    vector: Vector
    limit: int
    filter: Filter | None = None
    min_score: float | None = None
    exact: bool = False
    exclude: Collection[str] = ()
    with_vectors: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class TextQuery:
    """BM25 over the indexed text fields (`fields` empty: all of them)."""

    text: str
    limit: int
    fields: Collection[str] = ()
    filter: Filter | None = None
