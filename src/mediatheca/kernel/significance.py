"""Whether a difference between two systems on the same queries is more than luck. Pure; random parts take a seed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

RESAMPLES = 1_000
_TINY = 1e-300


def paired_t(deltas: Sequence[float]) -> float | None:
    """Two-sided p-value of Student's paired t-test on per-query differences; None for fewer than two.

    All differences the same: 1 when they are 0, else 0.
    """
    count = len(deltas)
    if count < 2:
        return None
    mean = math.fsum(deltas) / count
    variance = math.fsum((delta - mean) ** 2 for delta in deltas) / (count - 1)
    if variance <= 1e-30:
        return 1.0 if abs(mean) < 1e-15 else 0.0
    t = mean / math.sqrt(variance / count)
    freedom = count - 1
    return incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22)."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast on the other side
        return 1.0 - front * _fraction(b, a, 1 - x) / b
    return front * _fraction(a, b, x) / a


def _fraction(a: float, b: float, x: float) -> float:
    """Lentz's method for the fraction of the incomplete beta function."""
    c, d = 1.0, 1.0 / _away(1.0 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 300):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 / _away(1.0 + term * d)
            c = _away(1.0 + term / c)
            value *= d * c
        if abs(d * c - 1.0) < 1e-15:
            break
    return value


def _away(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def randomisation(deltas: Sequence[float], *, seed: int = 0, resamples: int = 10_000) -> float | None:
    """Two-sided p-value of Fisher's randomisation test: how often random signs give a mean as far from 0.

    The test of choice for retrieval (Smucker, Allan, Carterette, CIKM 2007). None for fewer than two queries.
    """
    if len(deltas) < 2:
        return None
    values = np.abs(np.asarray(deltas, dtype=np.float64))
    observed = abs(math.fsum(deltas))
    generator = np.random.default_rng(seed)
    reached, done = 0, 0
    while done < resamples:  # in blocks: ten thousand queries must not take a gigabyte
        block = min(resamples - done, max(1, 2_000_000 // len(values)))
        signs = generator.integers(0, 2, (block, len(values)), dtype=np.int8) * 2 - 1
        reached += int(np.count_nonzero(np.abs(signs @ values) >= observed - 1e-12))
        done += block
    return (reached + 1) / (resamples + 1)


def interval(
    values: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES, level: float = 0.95
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the mean; None without values."""
    if not values:
        return None
    sample = np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(seed)
    means = [float(sample[generator.integers(0, len(sample), len(sample))].mean()) for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def percentile(values: Sequence[float], share: float) -> float:
    """Linear between the nearest ranks; 0 without values."""
    return float(np.quantile(np.asarray(values, dtype=np.float64), share)) if values else 0.0
