"""Which cluster of a new run is which cluster of the run before. Pure.

Two clusters are the same when they share members; where the runs have hardly a document in common, when their centres
point the same way. A cluster that is the same keeps its id, and with it whatever people called it; numbers of clusters
that are gone are never given again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.clustering import NOISE, Labels, Matrix, unit_rows

PREFIX = "cl_"
NOISE_ID = "cl_-1"
MIN_SHARED = 50
"""Documents in both runs, from which on members decide, not centres."""
SAME_MEMBERS = 0.25
"""Jaccard index of the shared documents, from which on two clusters are the same."""
SAME_DIRECTION = 0.9
"""Cosine of the centres, likewise."""


@dataclass(frozen=True, slots=True)
class Identities:
    """`ids[i]` is the id of cluster `i` of the new run; `kept[i]` tells whether it is of the run before."""

    ids: list[str]
    kept: list[bool]
    next_number: int
    compared: str
    """members, centroids, or none: there was nothing to compare with."""


def cluster_id(number: int) -> str:
    return f"{PREFIX}{number}"


def identify(
    new: Labels,
    old: Labels,
    centroids: Matrix,
    old_ids: Sequence[str],
    old_centroids: Matrix,
    next_number: int,
) -> Identities:
    """Ids for clusters 0, 1, … of a new run.

    Args:
        new: of the documents that both runs know, the cluster of the new one, -1 for none.
        old: the same documents, as positions in `old_ids`.
        centroids: shape (clusters, dimensions). `old_centroids` may have other dimensions: then they are not compared.
        next_number: the lowest number that no cluster ever had.
    """
    count = len(centroids)
    pairs, compared = _alike(new, old, centroids, old_centroids, count, len(old_ids))
    taken: dict[int, int] = {}
    used: set[int] = set()
    for row, column in pairs:
        if row not in taken and column not in used:
            taken[row] = column
            used.add(column)
    ids = []
    for row in range(count):
        if row in taken:
            ids.append(old_ids[taken[row]])
        else:
            ids.append(cluster_id(next_number))
            next_number += 1
    return Identities(ids, [row in taken for row in range(count)], next_number, compared)


def _alike(
    new: Labels, old: Labels, centroids: Matrix, old_centroids: Matrix, rows: int, columns: int
) -> tuple[list[tuple[int, int]], str]:
    """Pairs of a new and an old cluster that may be the same, the most alike first; and what was compared."""
    if not rows or not columns:
        return [], "none"
    if len(new) >= MIN_SHARED:
        found, values = overlap(new, old, rows, columns)
        return _ordered(found, values, SAME_MEMBERS), "members"
    if centroids.shape[1] == old_centroids.shape[1]:
        cosine = unit_rows(centroids) @ unit_rows(old_centroids).T
        near = np.argwhere(cosine >= SAME_DIRECTION)
        return _ordered(near, cosine[near[:, 0], near[:, 1]], SAME_DIRECTION), "centroids"
    return [], "none"


def _ordered(pairs: npt.NDArray[np.int64], values: npt.NDArray[Any], least: float) -> list[tuple[int, int]]:
    order = np.argsort(-values, kind="stable")
    return [(int(pairs[at, 0]), int(pairs[at, 1])) for at in order.tolist() if values[at] >= least]


def overlap(new: Labels, old: Labels, rows: int, columns: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Pairs of clusters with common documents, shape (pairs, 2), and the Jaccard index of each."""
    both = (new != NOISE) & (old != NOISE)
    codes, together = np.unique(new[both] * np.int64(columns) + old[both], return_counts=True)
    pairs = np.stack(np.divmod(codes, columns), axis=1).astype(np.int64)
    one = np.bincount(new[new != NOISE], minlength=rows)[pairs[:, 0]]
    other = np.bincount(old[old != NOISE], minlength=columns)[pairs[:, 1]]
    return pairs, np.asarray(together / np.maximum(one + other - together, 1), np.float64)
