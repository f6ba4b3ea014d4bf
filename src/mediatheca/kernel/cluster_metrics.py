"""How good a clustering is, and how like another one. Pure; scikit-learn inside functions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.clustering import NOISE, Floats, Labels, Matrix

SAMPLE = 5_000
"""Vectors that silhouettes are measured on: they need all pairs."""
DOMINANT = 0.9


def adjusted_rand(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """Agreement of two groupings of the same things beyond chance: 1 equal, 0 chance (Hubert, Arabie 1985)."""
    if len(one) < 2:
        return 1.0
    _, rows = np.unique(one, return_inverse=True)
    _, columns = np.unique(other, return_inverse=True)
    width = int(columns.max()) + 1
    cells = np.bincount(rows.astype(np.int64) * width + columns, minlength=(int(rows.max()) + 1) * width)
    table = cells.reshape(-1, width).astype(np.float64)
    pairs = float((table * (table - 1)).sum()) / 2
    rows_pairs = float((table.sum(axis=1) * (table.sum(axis=1) - 1)).sum()) / 2
    column_pairs = float((table.sum(axis=0) * (table.sum(axis=0) - 1)).sum()) / 2
    total = len(one) * (len(one) - 1) / 2
    expected, most = rows_pairs * column_pairs / total, (rows_pairs + column_pairs) / 2
    return 1.0 if most == expected else (pairs - expected) / (most - expected)


def size_entropy(sizes: npt.NDArray[Any]) -> float:
    """Of the sizes of the clusters: 1 all equal, 0 one holds everything."""
    held = sizes[sizes > 0]
    if len(held) < 2:
        return 0.0
    shares = held / held.sum()
    return float(-(shares * np.log(shares)).sum() / math.log(len(held)))


def degenerate(labels: Labels) -> str | None:
    """Why the clustering says nothing: `all_noise`, `single_cluster`, `all_singletons`, `dominant_cluster`; or None."""
    clustered = labels[labels != NOISE]
    if not len(clustered):
        return "all_noise"
    sizes = np.bincount(clustered)
    sizes = sizes[sizes > 0]
    if len(sizes) == 1:
        return "single_cluster"
    if (sizes == 1).sum() >= DOMINANT * len(sizes) and len(sizes) >= DOMINANT * len(clustered):
        return "all_singletons"
    return "dominant_cluster" if sizes.max() >= DOMINANT * len(clustered) else None


def quality(matrix: Matrix, labels: Labels, seed: int) -> dict[str, float]:
    """`silhouette_score`, `davies_bouldin_index`, `calinski_harabasz_score` over what is no noise; those that exist."""
    from sklearn import metrics

    kept = np.flatnonzero(labels != NOISE)
    groups = len(np.unique(labels[kept]))
    if groups < 2 or groups >= len(kept):
        return {}
    points, own = matrix[kept], labels[kept]
    found = {"calinski_harabasz_score": metrics.calinski_harabasz_score(points, own)}
    found["davies_bouldin_index"] = metrics.davies_bouldin_score(points, own)
    some = _sample(own, seed)
    if 2 <= len(np.unique(own[some])) < len(some):
        found["silhouette_score"] = metrics.silhouette_score(points[some], own[some])
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}


def _sample(labels: Labels, seed: int) -> npt.NDArray[np.intp]:
    """At most `SAMPLE` rows, of every cluster its share and at least two."""
    if len(labels) <= SAMPLE:
        return np.arange(len(labels))
    generator = np.random.default_rng(seed)
    share = SAMPLE / len(labels)
    chosen = []
    for number in np.unique(labels):
        own = np.flatnonzero(labels == number)
        chosen.append(generator.choice(own, min(len(own), max(2, round(len(own) * share))), replace=False))
    return np.sort(np.concatenate(chosen))


def centroids_of(matrix: Matrix, labels: Labels, count: int) -> Matrix:
    """Mean vector of clusters 0 to `count` - 1, shape (count, dimensions)."""
    found = np.zeros((count, matrix.shape[1]), np.float32)
    for number in range(count):
        own = labels == number
        if own.any():
            found[number] = matrix[own].mean(axis=0)
    return found


def cosines_to(matrix: Matrix, labels: Labels, centroids: Matrix) -> Floats:
    """Cosine of every row (unit length) to the centre of its own cluster; 0 for noise."""
    lengths = np.linalg.norm(centroids, axis=1, keepdims=True)
    centres = centroids / np.where(lengths > 0, lengths, 1.0)
    found = np.zeros(len(matrix), np.float32)
    own = labels != NOISE
    if own.any():
        found[own] = np.einsum("ij,ij->i", matrix[own], centres[labels[own]])
    return np.clip(found, -1.0, 1.0)
