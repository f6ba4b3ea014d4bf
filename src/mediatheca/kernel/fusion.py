"""Joining several rankings into one. Pure functions over (key, score) lists; higher is always better.

Ranks are 1-based; a key absent from a ranking adds nothing. Order is total: fused score, then the place in the earliest
ranking, then the best raw score, then the key.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Generic, Literal, TypeAlias, TypeVar

Key = TypeVar("Key", bound=Hashable)
Strategy: TypeAlias = Literal["rrf", "dbsf", "weighted", "max", "minmax"]
RRF_K = 60


@dataclass(slots=True)
class Fused(Generic[Key]):
    """One key of the result: its score, and per ranking (by position) rank, raw score and contribution."""

    key: Key
    score: float = 0.0
    ranks: dict[int, int] = field(default_factory=dict)
    raw: dict[int, float] = field(default_factory=dict)
    contributions: dict[int, float] = field(default_factory=dict)


Ranking: TypeAlias = Sequence[tuple[Key, float]]


def fuse(
    strategy: Strategy,
    rankings: Sequence[Ranking[Key]],
    weights: Sequence[float] | None = None,
    *,
    k: int = RRF_K,
    normalize: frozenset[int] = frozenset(),
    limit: int | None = None,
) -> list[Fused[Key]]:
    """Fuse rankings, each best first.

    Args:
        weights: one a ranking, relative; 1.0 where not given. `max` ignores them.
        k: the constant of `rrf`.
        normalize: rankings whose raw scores have another scale (BM25); `weighted` takes them min–max scaled.
        limit: how many are wanted; None for all.

    Sources: rrf: Cormack, Clarke, Büttcher (SIGIR 2009). dbsf: (s - (μ - 3σ)) / 6σ with the sample σ of the ranking,
    clipped to [0, 1]; 0.5 when σ is 0 or there is one score.
    """
    weights = weights or [1.0] * len(rankings)
    found: dict[Key, Fused[Key]] = {}
    for position, (ranking, weight) in enumerate(zip(rankings, weights, strict=True)):
        parts = _contributions(strategy, [score for _, score in ranking], weight, k, position in normalize)
        for rank, ((key, score), part) in enumerate(zip(ranking, parts, strict=True), start=1):
            entry = found.get(key)
            if entry is None:
                entry = found[key] = Fused(key)
            if position in entry.ranks:
                continue
            entry.ranks[position], entry.raw[position], entry.contributions[position] = rank, score, part
    combine: Callable[..., float] = max if strategy == "max" else sum
    for entry in found.values():
        entry.score = combine(entry.contributions.values())
    return _ordered(list(found.values()), len(rankings), len(found) if limit is None else limit)


def _contributions(strategy: Strategy, scores: list[float], weight: float, k: int, normalize: bool) -> list[float]:
    if strategy == "rrf":
        return [weight / (k + rank) for rank in range(1, len(scores) + 1)]
    if strategy == "max":
        return scores
    if strategy == "dbsf":
        return [weight * value for value in dbsf_scale(scores)]
    scaled = min_max(scores) if strategy == "minmax" or normalize else scores
    return [weight * value for value in scaled]


def _ordered(entries: list[Fused[Key]], count: int, limit: int) -> list[Fused[Key]]:
    """The first `limit` by score; only their equal scores are worth the price of comparing everything else."""
    entries.sort(key=lambda entry: entry.score, reverse=True)
    absent = math.inf

    def among_equals(entry: Fused[Key]) -> tuple[object, ...]:
        ranks = tuple(entry.ranks.get(position, absent) for position in range(count))
        return (ranks, -max(entry.raw.values()), entry.key)

    ordered: list[Fused[Key]] = []
    for _, equals in groupby(entries, key=lambda entry: entry.score):
        if len(ordered) >= limit:
            break
        run = list(equals)
        ordered.extend(run if len(run) == 1 else sorted(run, key=among_equals))
    return ordered[:limit]


def min_max(scores: Sequence[float]) -> list[float]:
    """Scaled to [0, 1]; equal scores, or a single one, become 1."""
    if not scores:
        return []
    low, high = min(scores), max(scores)
    return [1.0] * len(scores) if high == low else [(score - low) / (high - low) for score in scores]


def dbsf_scale(scores: Sequence[float]) -> list[float]:
    """Distribution-based scaling: the range μ ± 3σ mapped to [0, 1] and clipped."""
    count = len(scores)
    mean = math.fsum(scores) / count if count else 0.0
    sigma = math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / (count - 1)) if count > 1 else 0.0
    if sigma == 0.0:
        return [0.5] * count
    return [min(1.0, max(0.0, (score - (mean - 3 * sigma)) / (6 * sigma))) for score in scores]
