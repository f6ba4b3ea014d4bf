"""Silence in a sound track, by the level of short windows. Streams."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mediatheca.kernel.models import Samples

WINDOW_S = 0.02
MIN_SILENCE_S = 0.3
"""Shorter pauses stand between words."""


def silences(blocks: Iterable[Samples], rate: int, threshold_db: float) -> list[tuple[float, float]]:
    """Start and end, in seconds, of every stretch of at least `MIN_SILENCE_S` below a level.

    Args:
        threshold_db: root mean square of a window against full scale, in decibels (-40 is a hundredth).
    """
    size = max(1, round(WINDOW_S * rate))
    levels = np.concatenate([np.zeros(0, np.float32), *_levels(blocks, size)])
    quiet = levels < 10 ** (threshold_db / 20)
    edges = np.flatnonzero(np.diff(np.concatenate(([False], quiet, [False])).astype(np.int8)))
    spans = ((int(first) * size / rate, int(last) * size / rate) for first, last in edges.reshape(-1, 2))
    return [(start, end) for start, end in spans if end - start >= MIN_SILENCE_S]


def _levels(blocks: Iterable[Samples], size: int) -> Iterable[Samples]:
    """Root mean square of each window; windows go on from one block into the next."""
    left = np.zeros(0, np.float32)
    for block in blocks:
        joined = np.concatenate((left, block))
        whole = len(joined) // size * size
        windows = joined[:whole].reshape(-1, size)
        yield np.sqrt(np.mean(np.square(windows), axis=1))
        left = joined[whole:]
