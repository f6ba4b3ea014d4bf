"""Scores brought to a known scale: min–max, z-score, softmax, length. Pure; the order of scores never changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

from mediatheca.kernel import fusion

Method: TypeAlias = Literal["min_max", "z_score", "softmax", "l2"]


def normalise(
    method: Method, scores: Sequence[float], low: float | None = None, high: float | None = None
) -> list[float]:
    """The scores, rescaled. `low` and `high` are for `min_max`: the ends of the scale where they are known."""
    if method == "min_max":
        return min_max(scores, low, high)
    return {"z_score": z_score, "softmax": softmax, "l2": l2}[method](scores)


def min_max(scores: Sequence[float], low: float | None = None, high: float | None = None) -> list[float]:
    """Scaled to [0, 1] between the lowest and the highest score, or between given ends, then clipped.

    Equal scores, or a single one, become 1 where no ends are given.
    """
    if (low is None and high is None) or not scores:
        return fusion.min_max(scores)
    bottom = min(scores) if low is None else low
    top = max(scores) if high is None else high
    if top <= bottom:
        bar = top if low is None else bottom
        return [1.0 if score >= bar else 0.0 for score in scores]
    return [min(1.0, max(0.0, (score - bottom) / (top - bottom))) for score in scores]


def z_score(scores: Sequence[float]) -> list[float]:
    """Distance from the mean in standard deviations (of the population); equal scores become 0."""
    if not scores:
        return []
    mean = math.fsum(scores) / len(scores)
    sigma = math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / len(scores))
    return [(score - mean) / sigma if sigma else 0.0 for score in scores]


def softmax(scores: Sequence[float]) -> list[float]:
    """Shares that add up to 1."""
    if not scores:
        return []
    top = max(scores)
    powers = [math.exp(score - top) for score in scores]
    total = math.fsum(powers)
    return [power / total for power in powers]


def l2(scores: Sequence[float]) -> list[float]:
    """Divided by the length of the vector of scores; zeros stay."""
    length = math.hypot(*scores)
    return [score / length if length else 0.0 for score in scores]
