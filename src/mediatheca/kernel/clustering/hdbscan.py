"""HDBSCAN: groups as dense regions that persist over many densities, and noise between them. Pure.

Source: Campello, Moulavi, Sander (PAKDD 2013); McInnes, Healy (2017). Few vectors go through scikit-learn's exact
version. From `EXACT` on the spanning tree is made of the graph of nearest neighbours instead of all pairs: edges
between near vectors are exact; parts that none of them joins are joined by the shortest edge of their facing sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.clustering import NOISE, Fit, Matrix, as_labels, trivial
from mediatheca.kernel.clustering.condensed import Selection, condense, select
from mediatheca.kernel.clustering.density import squared
from mediatheca.kernel.clustering.reduction import pca

EXACT = 5_000
DIMENSIONS = 50
"""Principal components that more than `EXACT` vectors are reduced to first: in hundreds of dimensions all distances
are alike, and neighbours take ten times as long."""
NEIGHBOURS = 16
FACING = 256
"""Vectors of each of two parts among which the shortest edge is looked for."""

Edges = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Settings:
    min_cluster_size: int = 5
    min_samples: int | None = None
    """Neighbours that make a density; the smallest size of a cluster where it is not given."""
    method: Literal["eom", "leaf"] = "eom"
    epsilon: float = 0.0
    """Groups that part below this distance stay one."""
    allow_single: bool = False
    max_cluster_size: int | None = None


def hdbscan(matrix: Matrix, settings: Settings, *, exact: int = EXACT) -> Fit:
    if (done := trivial(matrix)) is not None:
        return done
    if len(matrix) < max(2, settings.min_cluster_size):
        return Fit(np.full(len(matrix), NOISE, np.int32), np.zeros(len(matrix), np.float32))
    return _exact(matrix, settings) if len(matrix) <= exact else _by_graph(matrix, settings)


def _exact(matrix: Matrix, settings: Settings) -> Fit:
    from sklearn import cluster

    model = cluster.HDBSCAN(
        min_cluster_size=settings.min_cluster_size,
        min_samples=min(settings.min_samples or settings.min_cluster_size, len(matrix)),
        cluster_selection_method=settings.method,
        cluster_selection_epsilon=settings.epsilon,
        allow_single_cluster=settings.allow_single,
        max_cluster_size=settings.max_cluster_size,
        copy=True,
    )
    labels = as_labels(model.fit_predict(matrix))
    return Fit(np.maximum(labels, NOISE), np.asarray(model.probabilities_, np.float32))


def _by_graph(matrix: Matrix, settings: Settings) -> Fit:
    notes = [f"more than {EXACT:,} vectors: HDBSCAN went by the graph of nearest neighbours"]
    points = matrix
    if matrix.shape[1] > DIMENSIONS:
        reduced = pca(matrix, DIMENSIONS)
        points = reduced.points
        notes.append(f"over {DIMENSIONS} principal components with {reduced.explained:.0%} of the variance")
    samples = settings.min_samples or settings.min_cluster_size
    tree = spanning_tree(points, max(NEIGHBOURS, samples + 1), samples)
    condensed = condense(*single_linkage(*tree, len(points)), smallest=settings.min_cluster_size)
    found = select(
        condensed,
        Selection(settings.method, settings.epsilon, settings.allow_single, settings.max_cluster_size),
    )
    return Fit(found.labels, found.probabilities, notes)


def spanning_tree(points: Matrix, neighbours: int, samples: int) -> Edges:
    """Edges of a minimum spanning tree of mutual reachability distances, the shortest first: from, to, length."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
    from sklearn.neighbors import NearestNeighbors

    size = len(points)
    neighbours = min(neighbours, size)
    found, near = NearestNeighbors(n_neighbors=neighbours, algorithm="brute").fit(points).kneighbors(points)
    core = found[:, min(samples, neighbours) - 1].astype(np.float64)
    start = np.repeat(np.arange(size), neighbours - 1)
    end = near[:, 1:].ravel()
    length = np.maximum(np.maximum(core[start], core[end]), found[:, 1:].ravel())
    # an edge of length 0 would be none
    graph = csr_matrix((np.maximum(length, 1e-12), (start, end)), shape=(size, size))
    tree = minimum_spanning_tree(graph).tocoo()
    edges = tree.row.astype(np.int64), tree.col.astype(np.int64), tree.data.astype(np.float64)
    parts, member = connected_components(graph, directed=False)
    if parts > 1:
        bridges = _bridges(points, core, member, parts)
        edges = tuple(np.concatenate(pair) for pair in zip(edges, bridges, strict=True))  # type: ignore[assignment]
    order = np.argsort(edges[2], kind="stable")
    return edges[0][order], edges[1][order], edges[2][order]


def _bridges(points: Matrix, core: npt.NDArray[np.float64], member: Any, parts: int) -> Edges:
    """Edges that join the parts of the graph, along the spanning tree of their centres."""
    from scipy.sparse.csgraph import minimum_spanning_tree

    order = np.argsort(member, kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(member, minlength=parts))[:-1])
    centres = np.stack([points[group].mean(axis=0) for group in groups]).astype(np.float32)
    tree = minimum_spanning_tree(np.sqrt(squared(centres, centres)) + 1e-9).tocoo()
    rows = []
    for left, right in zip(tree.row.tolist(), tree.col.tolist(), strict=True):
        one = _facing(points, groups[left], centres[right])
        other = _facing(points, groups[right], centres[left])
        between = np.sqrt(squared(points[one], points[other]))
        reachable = np.maximum(between, np.maximum(core[one][:, None], core[other][None, :]))
        at = np.unravel_index(int(reachable.argmin()), reachable.shape)
        rows.append((one[at[0]], other[at[1]], max(float(reachable[at]), 1e-12)))
    start, end, length = zip(*rows, strict=True)
    return np.array(start, np.int64), np.array(end, np.int64), np.array(length, np.float64)


def _facing(points: Matrix, group: npt.NDArray[np.intp], target: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    if len(group) <= FACING:
        return group
    distances = ((points[group] - target) ** 2).sum(axis=1)
    return group[np.argpartition(distances, FACING)[:FACING]]


def single_linkage(
    start: npt.NDArray[np.int64], end: npt.NDArray[np.int64], length: npt.NDArray[np.float64], size: int
) -> tuple[list[int], list[int], list[float], list[int]]:
    """The dendrogram of a spanning tree whose edges are sorted: left and right node, distance, size of every merge.

    Node numbers: the points, then merge `i` is `size + i`.
    """
    parent = list(range(2 * size - 1))
    sizes = [1] * size + [0] * (size - 1)
    left, right = [0] * (size - 1), [0] * (size - 1)
    for merge, (one, other) in enumerate(zip(start.tolist(), end.tolist(), strict=True)):
        one, other, made = _root(parent, one), _root(parent, other), size + merge
        left[merge], right[merge] = one, other
        parent[one] = parent[other] = made
        sizes[made] = sizes[one] + sizes[other]
    return left, right, length.tolist(), sizes


def _root(parent: list[int], node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node
