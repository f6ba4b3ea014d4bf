"""Algorithms that find the number of groups themselves, by where vectors lie close together. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.clustering import NOISE, Fit, Floats, Labels, Matrix, as_labels, trivial

BLOCK = 1_024
"""Rows compared with all others at a time: memory is this times the number of rows."""


def reach(matrix: Matrix, smallest: int) -> float:
    """A radius for DBSCAN: what nine of ten vectors need to reach their `smallest`-th nearest, themselves counted.

    Source: the k-distance graph of Ester, Kriegel, Sander, Xu (KDD 1996).
    """
    place = min(smallest, len(matrix)) - 1
    nearest = [np.sqrt(np.partition(found, place, axis=1)[:, place]) for _, found in _squares(matrix, matrix)]
    return max(float(np.quantile(np.concatenate(nearest), 0.9)), 1e-3)


def dbscan(matrix: Matrix, eps: float, min_samples: int) -> Fit:
    """Ester, Kriegel, Sander, Xu (KDD 1996), in memory linear in the number of vectors whatever the radius.

    A core has `min_samples` vectors (itself counted) within `eps`; cores that reach each other are one group. What is
    no core belongs to the group of its nearest core within `eps`.
    """
    if (done := trivial(matrix)) is not None:
        return done
    radius = np.float32(eps * eps)
    counts = np.concatenate([(found <= radius).sum(axis=1) for _, found in _squares(matrix, matrix)])
    labels = np.full(len(matrix), NOISE, np.int32)
    core = np.flatnonzero(counts >= min_samples)
    number = 0
    for seed in core.tolist():
        if labels[seed] == NOISE:
            _spread(matrix, core, labels, seed, number, radius)
            number += 1
    _borders(matrix, core, labels, radius)
    return Fit(labels)


def _spread(
    matrix: Matrix, core: npt.NDArray[np.intp], labels: Labels, seed: int, number: int, radius: np.float32
) -> None:
    """Give `number` to every core that is reached from `seed` over cores."""
    labels[seed] = number
    waiting = np.array([seed])
    while len(waiting):
        block, waiting = waiting[:BLOCK], waiting[BLOCK:]
        left = core[labels[core] == NOISE]
        if not len(left):
            return
        near = (squared(matrix[block], matrix[left]) <= radius).any(axis=0)
        labels[left[near]] = number
        waiting = np.concatenate([waiting, left[near]])


def _borders(matrix: Matrix, core: npt.NDArray[np.intp], labels: Labels, radius: np.float32) -> None:
    left = np.flatnonzero(labels == NOISE)
    if not len(core) or not len(left):
        return
    for start, found in _squares(matrix[left], matrix[core]):
        nearest = found.argmin(axis=1)
        near = found[np.arange(len(found)), nearest] <= radius
        rows = left[start : start + len(found)]
        labels[rows[near]] = labels[core[nearest[near]]]


def optics(
    matrix: Matrix,
    *,
    min_samples: int = 5,
    xi: float = 0.05,
    max_eps: float | None = None,
    min_cluster_size: int | None = None,
    method: Literal["xi", "dbscan"] = "xi",
    eps: float | None = None,
) -> Fit:
    """Ankerst, Breunig, Kriegel, Sander (SIGMOD 1999); the groups are cut from the ordering by scikit-learn."""
    from sklearn.cluster import cluster_optics_dbscan, cluster_optics_xi

    if (done := trivial(matrix)) is not None:
        return done
    samples = max(2, min(min_samples, len(matrix)))
    order, reachability, core, before = _ordering(matrix, samples, np.inf if max_eps is None else max_eps)
    if method == "dbscan":
        wide = eps if eps is not None else float(np.quantile(core[np.isfinite(core)], 0.9))
        found = cluster_optics_dbscan(reachability=reachability, core_distances=core, ordering=order, eps=wide)
        return Fit(as_labels(found))
    with np.errstate(divide="ignore", invalid="ignore"):  # equal vectors have a reachability of 0
        found, _ = cluster_optics_xi(
            reachability=reachability, predecessor=before, ordering=order, min_samples=samples, xi=xi,
            min_cluster_size=min_cluster_size,
        )  # fmt: skip
    return Fit(as_labels(found))


def _ordering(matrix: Matrix, samples: int, farthest: float) -> tuple[Any, Any, Any, Any]:
    """Every vector after the one it is reached from most easily: order, reachability, core distance, predecessor."""
    size = len(matrix)
    core = np.concatenate([np.partition(f, samples - 1, axis=1)[:, samples - 1] for _, f in _squares(matrix, matrix)])
    core = np.sqrt(core).astype(np.float64)
    core[core > farthest] = np.inf
    reachability, before = np.full(size, np.inf), np.full(size, -1)
    waiting = np.full(size, np.finfo(np.float64).max)  # reachability of what has no place yet; infinite: it has one
    order = np.zeros(size, np.int64)
    lengths = (matrix**2).sum(axis=1)
    for place in range(size):
        point = int(waiting.argmin())
        order[place], waiting[point] = point, np.inf
        if not np.isfinite(core[point]):
            continue
        found = lengths + lengths[point] - 2.0 * (matrix @ matrix[point])
        distance = np.sqrt(np.maximum(found, 0.0)).astype(np.float64)
        reached = np.maximum(distance, core[point])
        better = np.flatnonzero((reached < reachability) & (distance <= farthest) & np.isfinite(waiting))
        reachability[better] = waiting[better] = reached[better]
        before[better] = point
    return order, reachability, core, before


def mean_shift(
    matrix: Matrix,
    *,
    bandwidth: float | None = None,
    quantile: float = 0.1,
    cluster_all: bool = True,
    max_iter: int = 300,
) -> Fit:
    """Comaniciu, Meer (PAMI 2002) with a flat kernel: every vector climbs to a mode of the density.

    Without a bandwidth: the mean distance within which a vector has the share `quantile` of all.
    """
    if (done := trivial(matrix)) is not None:
        return done
    notes = []
    if bandwidth is None:
        share = max(1, min(len(matrix) - 1, round(len(matrix) * quantile)))
        reached = [np.sqrt(np.partition(found, share, axis=1)[:, share]) for _, found in _squares(matrix, matrix)]
        bandwidth = max(float(np.concatenate(reached).mean()), 1e-3)
        notes.append(f"the bandwidth was estimated as {bandwidth:.4f}")
    modes = _modes(matrix, np.float32(bandwidth), max_iter)
    labels = np.full(len(matrix), NOISE, np.int32)
    for start, found in _squares(matrix, modes):
        nearest = found.argmin(axis=1)
        near = found[np.arange(len(found)), nearest] <= bandwidth**2
        labels[start : start + len(found)] = nearest if cluster_all else np.where(near, nearest, NOISE)
    return Fit(labels, None, notes)


def _modes(matrix: Matrix, bandwidth: np.float32, max_iter: int) -> Matrix:
    """Where the vectors end, the densest first; of ends within one bandwidth only the densest."""
    points, counts = matrix.copy(), np.zeros(len(matrix))
    moving = np.arange(len(matrix))
    for _ in range(max_iter):
        still = []
        for start in range(0, len(moving), BLOCK):
            rows = moving[start : start + BLOCK]
            inside = (squared(points[rows], matrix) <= bandwidth**2).astype(np.float32)
            counts[rows] = inside.sum(axis=1)
            moved = (inside @ matrix) / np.maximum(counts[rows], 1.0)[:, None].astype(np.float32)
            far = ((moved - points[rows]) ** 2).sum(axis=1) > (1e-3 * bandwidth) ** 2
            points[rows] = moved
            still.append(rows[far])
        moving = np.concatenate(still)
        if not len(moving):
            break
    kept: list[int] = []
    for row in np.argsort(-counts, kind="stable").tolist():
        if not kept or float(squared(points[row : row + 1], points[kept]).min()) > bandwidth**2:
            kept.append(row)
    return points[kept]


def squared(left: Matrix, right: Matrix) -> Floats:
    """Squared Euclidean distances, shape (left, right)."""
    found: Floats = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None, :]
    found -= 2.0 * (left @ right.T)
    return np.maximum(found, 0.0, out=found)


def _squares(left: Matrix, right: Matrix) -> Iterator[tuple[int, Floats]]:
    """Blocks of `squared`, each with its first row."""
    for start in range(0, len(left), BLOCK):
        yield start, squared(left[start : start + BLOCK], right)
