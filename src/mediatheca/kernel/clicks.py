"""What clicks say when people look at the top first: the rate of each place, and what another ranking would have got.

Position-based model (Craswell et al., WSDM 2008): a result is clicked when it is looked at, which depends on its place
only, and is liked, which depends on the result only. The look is taken as (place + 1)^-exponent; fitted to
click-through rates it also holds that better results stand higher, and so is the steepest curve there can be.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mediatheca.kernel.significance import RESAMPLES

MAX_EXPONENT = 2.0
MIN_CLICKS = 20
"""Fewer do not make a curve."""
CAP = 10.0
"""Largest weight of one click: a deep one that moves to the top would outweigh everything."""
_Z = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Page:
    """One answer as somebody saw it."""

    places: Mapping[str, int]
    """Document → its place, 0-based over all pages."""
    clicked: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Place:
    """How often a place was shown and clicked."""

    position: int
    impressions: int
    clicks: int

    def as_dict(self) -> dict[str, Any]:
        low, high = wilson(self.clicks, self.impressions)
        shown = {"position": self.position, "impressions": self.impressions, "clicks": self.clicks}
        return {**shown, "ctr": self.clicks / self.impressions, "confidence_interval": [low, high]}


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """95 % score interval of a share (Wilson, 1927)."""
    share, z = successes / trials, _Z
    middle = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    below = 1 + z * z / trials
    return max(0.0, (middle - spread) / below), min(1.0, (middle + spread) / below)


def click_curve(pages: Iterable[Page]) -> list[Place]:
    """Click-through by position, the top first."""
    shown: Counter[int] = Counter()
    clicked: Counter[int] = Counter()
    for page in pages:
        shown.update(page.places.values())
        clicked.update(place for ident, place in page.places.items() if ident in page.clicked)
    return [Place(place, shown[place], clicked[place]) for place in sorted(shown)]


def fitted_exponent(curve: Sequence[Place]) -> float | None:
    """The exponent of the curve of looks: log(ctr) over log(place + 1), each place weighted by its clicks.

    None where there are fewer than 20 clicks or two places with any.
    """
    used = [place for place in curve if place.clicks]
    if len(used) < 2 or sum(place.clicks for place in used) < MIN_CLICKS:
        return None
    x = np.log([place.position + 1 for place in used])
    y = np.log([place.clicks / place.impressions for place in used])
    weights = np.asarray([place.clicks for place in used], dtype=np.float64)
    middle_x, middle_y = np.average(x, weights=weights), np.average(y, weights=weights)
    below = float(np.sum(weights * (x - middle_x) ** 2))
    slope = float(np.sum(weights * (x - middle_x) * (y - middle_y))) / below
    return min(MAX_EXPONENT, max(0.0, -slope))


def looks(place: int, exponent: float) -> float:
    """How likely a place is looked at, against the first one."""
    return float((place + 1) ** -exponent)


@dataclass(frozen=True, slots=True)
class Sums:
    """Of one answer: weighted clicks, exposure that the new ranking gives to what was shown, and to everything."""

    clicks: float
    exposure: float
    wanted: float


def replayed(page: Page, ranking: Sequence[str], exponent: float) -> Sums:
    """What the clicks on an answer count for, had `ranking` been shown instead."""
    ranks = {ident: place for place, ident in reversed(list(enumerate(ranking)))}
    clicks = exposure = 0.0
    for ident, place in page.places.items():
        if ident in ranks:
            look = looks(ranks[ident], exponent)
            exposure += look
            if ident in page.clicked:
                clicks += min(CAP, look / looks(place, exponent))
    depth = min(len(ranks), len(page.places))
    return Sums(clicks, exposure, math.fsum(looks(place, exponent) for place in range(depth)))


def snips(sums: Sequence[Sums]) -> float | None:
    """Clicks per look at a result, self-normalised inverse propensity scoring (Swaminathan and Joachims, NIPS 2015).

    The clicks are weighted by looks(new place) / looks(old place); the sum of the weights of all looks, seen and unseen
    ones alike, is in expectation the new exposure, by which they are divided. None without any.
    """
    exposure = math.fsum(entry.exposure for entry in sums)
    return math.fsum(entry.clicks for entry in sums) / exposure if exposure else None


def snips_difference(
    first: Sequence[Sums], second: Sequence[Sums], *, seed: int = 0, level: float = 0.95
) -> tuple[float, float] | None:
    """Bootstrap interval over answers of snips(first) - snips(second), which are of the same answers."""
    table = np.asarray(
        [(a.clicks, a.exposure, b.clicks, b.exposure) for a, b in zip(first, second, strict=True)], dtype=np.float64
    ).reshape(-1, 4)
    if len(table) < 2:
        return None
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(RESAMPLES):
        clicks_a, looks_a, clicks_b, looks_b = table[generator.integers(0, len(table), len(table))].sum(axis=0)
        if looks_a and looks_b:
            found.append(clicks_a / looks_a - clicks_b / looks_b)
    if not found:
        return None
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
