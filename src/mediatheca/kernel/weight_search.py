"""Which weights of a linear fusion rank judged documents best: every candidate is tried on every query. Pure.

Candidates are fixed beforehand (a grid, or seeded draws), so that choosing on some queries and measuring on the others
costs no second search. Equal results go to the candidate nearest to equal weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mediatheca.kernel.fusion import min_max
from mediatheca.kernel.metrics import dcg

Matrix = NDArray[np.float64]
_STEPS = {2: 40, 3: 12}
_DRAWS = 400
FOLDS = 5


def candidates(arms: int, *, low: float, high: float, seed: int = 0) -> Matrix:
    """Weights (candidates x arms) that sum to 1, each within [low, high] before; the first ones are nearest to equal.

    A grid for two or three arms, uniform draws from the simplex for more.
    """
    steps = _STEPS.get(arms)
    if steps is not None:
        whole = [w for w in itertools.product(range(steps + 1), repeat=arms) if sum(w) == steps]
        found = np.asarray(whole, dtype=np.float64) / steps
    else:
        found = np.random.default_rng(seed).dirichlet(np.ones(arms), _DRAWS)
    found = np.clip(np.vstack([np.full((1, arms), 1 / arms), found]), low, high)
    found = np.unique(np.round(found / found.sum(axis=1, keepdims=True), 9), axis=0)
    distance = np.abs(found - 1 / arms).sum(axis=1)
    ordered: Matrix = found[np.argsort(distance, kind="stable")]
    return ordered


@dataclass(frozen=True, slots=True)
class Trial:
    """One judged query: what every arm said of every document that was found."""

    scores: Matrix
    """Documents x arms: min-max scaled over the arm, times the arm's own weight; 0 where it did not find it."""
    gains: Matrix
    """2^grade - 1 of each document."""
    ideal: float
    """DCG of the best ranking at the cut-off."""


def trial(
    found: Mapping[str, Mapping[str, float]], arms: Mapping[str, float], grades: Mapping[str, int], k: int
) -> Trial:
    """`found`: document → arm → raw score; `arms`: arm → its own weight; `grades`: every judgment of the query."""
    ids = list(found)
    columns = []
    for arm, own in arms.items():
        held = {ident: found[ident][arm] for ident in ids if arm in found[ident]}
        scaled = dict(zip(held, min_max(list(held.values())), strict=True))
        columns.append([own * scaled.get(ident, 0.0) for ident in ids])
    scores = np.asarray(columns, dtype=np.float64).T.reshape(len(ids), len(arms))
    gains = np.asarray([2.0 ** grades.get(ident, 0) - 1 for ident in ids], dtype=np.float64)
    return Trial(scores, gains, dcg(sorted(grades.values(), reverse=True)[:k]))


def ndcg_of(one: Trial, weights: Matrix, k: int) -> Matrix:
    """nDCG@k of the query for each candidate (rows of `weights`)."""
    if not one.ideal or not len(one.gains):
        return np.zeros(len(weights))
    fused = one.scores @ weights.T
    order = np.argsort(-fused, axis=0, kind="stable")[:k]
    discounts = 1 / np.log2(np.arange(len(order)) + 2)
    found: Matrix = (one.gains[order] * discounts[:, None]).sum(axis=0) / one.ideal
    return found


def best(values: Matrix) -> int:
    """The candidate (column) with the highest mean over the queries (rows); the first of equals."""
    means = values.mean(axis=0)
    return int(np.flatnonzero(means >= means.max() - 1e-12)[0])


def cross_fitted(values: Matrix, folds: int = FOLDS) -> list[int]:
    """For each query the candidate that is best on the queries of the other folds: nothing is measured on what it was
    chosen by. Query n is in fold n % folds. Needs two queries at least."""
    count = len(values)
    folds = min(folds, count)
    rows = np.arange(count) % folds
    chosen = [best(values[rows != fold]) for fold in range(folds)]
    return [chosen[row] for row in rows]


def named(weights: Matrix, arms: Sequence[str]) -> dict[str, float]:
    return {arm: float(weight) for arm, weight in zip(arms, weights, strict=True)}
