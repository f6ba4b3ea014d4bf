"""What an evaluation of an alert found."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from mediatheca.kernel.search import Hit
from mediatheca.stores.db.tx import Record


@dataclass(frozen=True, slots=True)
class Match:
    """A document that matches an alert. `features`: search → the score it gave."""

    hit: Hit
    score: float
    features: Mapping[str, float] = field(default_factory=dict)

    @property
    def document_id(self) -> str:
        return self.hit.document_id

    @property
    def content_key(self) -> str:
        """Of what the document says: the same again is no news."""
        content = orjson.dumps([self.hit.payload], option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS, default=repr)
        return hashlib.blake2b(content, digest_size=16).hexdigest()


@dataclass(slots=True)
class AlertMatches:
    """One evaluation of one alert."""

    alert: Record
    collection_id: str
    """Whose new documents were looked at; empty: a run as a whole."""
    matches: list[Match] = field(default_factory=list)
    """Best first."""
    sources: list[str] = field(default_factory=list)
    """The documents that its inputs were read from."""
    error: str = ""
    next_step: str = ""
    duration_ms: float = 0.0
    ran: bool = False
    """The retriever itself was run."""


def shown_score(score: float, *, bounded: bool) -> float:
    """A score as clients read it, from 0 to 1. `bounded`: it is a cosine or the like; others are squeezed."""
    return max(0.0, min(1.0, score)) if bounded else max(0.0, score) / (1.0 + max(0.0, score))


def match_view(match: Match, *, bounded: bool) -> dict[str, Any]:
    """One match as an execution shows it."""
    hit = match.hit
    return {
        "document_id": hit.document_id,
        "collection_id": hit.collection_id,
        "asset_id": hit.system.get("root_object_id") or hit.system.get("object_id") or None,
        "score": shown_score(match.score, bounded=bounded),
        "raw_score": match.score,
        "matched_features": dict(match.features),
        "metadata": hit.payload,
    }
