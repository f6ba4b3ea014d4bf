"""From scores to probabilities of relevance: maps that never fall, fitted to judged results. Pure.

Isotonic regression by pooling adjacent violators (Ayer et al., 1955; Zadrozny and Elkan, KDD 2002), or Platt's logistic
curve with his smoothed targets, by the Newton steps of Lin, Lin and Weng (2007). The curve has two parameters and is
the better one for little data (Niculescu-Mizil and Caruana, ICML 2005).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Method = Literal["isotonic", "platt"]
Confidence = Literal["high", "medium", "low", "none"]
LEVELS: tuple[tuple[float, Confidence], ...] = ((0.7, "high"), (0.4, "medium"), (0.15, "low"), (0.0, "none"))
"""Smallest relevance of each level."""
ENOUGH_FOR_ISOTONIC = 1_000
"""Judged results; fewer get the curve."""
FOLDS = 5
Pairs = Sequence[tuple[float, bool]]
"""Score and whether the result is relevant."""


def confidence(relevance: float) -> Confidence:
    return next(name for least, name in LEVELS if relevance >= least)


@dataclass(frozen=True, slots=True)
class Calibration:
    """A map from scores to [0, 1]."""

    method: Method
    knots: tuple[tuple[float, float], ...] = ()
    """Isotonic: (score, relevance), both ascending; linear between them, flat beyond."""
    slope: float = 0.0
    intercept: float = 0.0
    """Platt: 1 / (1 + exp(-(slope * score + intercept)))."""

    def relevance(self, score: float) -> float:
        if self.method == "platt":
            return _logistic(self.slope * score + self.intercept)
        scores, values = zip(*self.knots, strict=True)
        return float(np.interp(score, scores, values))

    def tell(self, items: Sequence[dict[str, Any]], hits: Sequence[Any]) -> Confidence:
        """Give every result its `relevance` and `confidence`; the confidence of the best one, `none` without results.

        `hits` have the scores, in the order of `items`.
        """
        best = 0.0
        for item, hit in zip(items, hits, strict=True):
            value = self.relevance(hit.score) if math.isfinite(hit.score) else 0.0
            item["relevance"], item["confidence"] = round(value, 6), confidence(value)
            best = max(best, value)
        return confidence(best)

    def as_dict(self) -> dict[str, Any]:
        if self.method == "platt":
            return {"method": self.method, "slope": self.slope, "intercept": self.intercept}
        return {"method": self.method, "knots": [list(knot) for knot in self.knots]}


def calibration_of(stored: Mapping[str, Any], version: int) -> Calibration | None:
    """The map that was fitted for a version of a retriever; None for another version: its scores mean other things."""
    if stored.get("retriever_version") != version:
        return None
    fitted = stored["map"]
    if fitted["method"] == "platt":
        return Calibration("platt", (), fitted["slope"], fitted["intercept"])
    return Calibration("isotonic", tuple((score, value) for score, value in fitted["knots"]))


def fit(pairs: Pairs, method: Literal["auto", "isotonic", "platt"] = "auto") -> Calibration:
    """The map of these judged results. Needs at least one relevant and one that is not."""
    if method == "auto":
        method = "isotonic" if len(pairs) >= ENOUGH_FOR_ISOTONIC else "platt"
    return _isotonic(pairs) if method == "isotonic" else _platt(pairs)


def pool_adjacent_violators(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The sequence that never falls and is nearest to `values` by weighted squares. Linear time."""
    blocks: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(values, weights, strict=True):
        mean, total, length = float(value), float(weight), 1
        while blocks and blocks[-1][0] >= mean:
            before, held, count = blocks.pop()
            mean = (before * held + mean * total) / (held + total)
            total, length = total + held, length + count
        blocks.append((mean, total, length))
    return [mean for mean, _, length in blocks for _ in range(length)]


def _isotonic(pairs: Pairs) -> Calibration:
    scores, places = np.unique([score for score, _ in pairs], return_inverse=True)
    counts = np.bincount(places)
    means = np.bincount(places, weights=[float(relevant) for _, relevant in pairs]) / counts
    fitted = pool_adjacent_violators(means.tolist(), counts.tolist())
    last = len(fitted) - 1
    ends = [  # the first and the last score of every flat piece say all there is
        (float(score), value)
        for n, (score, value) in enumerate(zip(scores, fitted, strict=True))
        if n in (0, last) or fitted[n - 1] != value or fitted[n + 1] != value
    ]
    return Calibration("isotonic", tuple(ends))


def _logistic(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


def _platt(pairs: Pairs) -> Calibration:
    """Scores are brought to mean 0 and deviation 1 first, so that the steps are good whatever their scale."""
    scores = np.asarray([score for score, _ in pairs], dtype=np.float64)
    truth = np.asarray([relevant for _, relevant in pairs], dtype=bool)
    middle, spread = float(scores.mean()), float(scores.std()) or 1.0
    slope, intercept = _newton((scores - middle) / spread, truth)
    slope = max(slope, 0.0)  # a map never falls: scores that go the wrong way say nothing
    if slope == 0.0:
        share = (float(truth.sum()) + 1) / (len(truth) + 2)
        return Calibration("platt", (), 0.0, math.log(share / (1 - share)))
    return Calibration("platt", (), slope / spread, intercept - slope * middle / spread)


def _newton(x: NDArray[np.float64], truth: NDArray[np.bool_]) -> tuple[float, float]:
    good, bad = int(truth.sum()), int((~truth).sum())
    target = np.where(truth, (good + 1) / (good + 2), 1 / (bad + 2))
    at = np.array([0.0, math.log((good + 1) / (bad + 1))])
    design = np.stack([x, np.ones_like(x)], axis=1)
    loss = _loss(design @ at, target)
    for _ in range(100):
        probability = 1 / (1 + np.exp(-np.clip(design @ at, -500, 500)))
        gradient = design.T @ (probability - target)
        if float(np.abs(gradient).max()) < 1e-9 * len(x):
            break
        curvature = (design * (probability * (1 - probability))[:, None]).T @ design + 1e-10 * np.eye(2)
        step, size = np.linalg.solve(curvature, gradient), 1.0
        while size > 1e-10 and (tried := _loss(design @ (at - size * step), target)) > loss:
            size /= 2
        if size <= 1e-10:
            break
        at, loss = at - size * step, tried
    return float(at[0]), float(at[1])


def _loss(z: NDArray[np.float64], target: NDArray[np.float64]) -> float:
    return float(np.sum(np.logaddexp(0, z) - target * z))


def brier(calibration: Calibration, pairs: Pairs) -> float:
    """Mean squared distance between relevance and truth."""
    return math.fsum((calibration.relevance(score) - relevant) ** 2 for score, relevant in pairs) / len(pairs)


def held_out_brier(groups: Sequence[Pairs], method: Literal["auto", "isotonic", "platt"]) -> float | None:
    """The Brier score over groups (queries) that the map was not fitted to, in five parts; None where a part leaves
    nothing to fit to."""
    total, count = 0.0, 0
    for fold in range(min(FOLDS, len(groups))):
        held = [pair for n, group in enumerate(groups) if n % FOLDS == fold for pair in group]
        rest = [pair for n, group in enumerate(groups) if n % FOLDS != fold for pair in group]
        if len({relevant for _, relevant in rest}) < 2:
            return None
        if held:
            total += brier(fit(rest, method), held) * len(held)
            count += len(held)
    return total / count if count else None


def expected_error(calibration: Calibration, pairs: Pairs, bins: int = 10) -> float:
    """Expected calibration error: how far relevance is from the share of relevant results, over equal bins of it."""
    by_bin: dict[int, list[tuple[float, bool]]] = {}
    for score, relevant in pairs:
        value = calibration.relevance(score)
        by_bin.setdefault(min(bins - 1, int(value * bins)), []).append((value, relevant))
    gaps = (abs(math.fsum(v for v, _ in found) - sum(r for _, r in found)) for found in by_bin.values())
    return math.fsum(gaps) / len(pairs)
