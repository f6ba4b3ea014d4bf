"""Algorithms that are told how many groups to make. Pure."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np

from mediatheca.kernel.clustering import Fit, Matrix, as_labels, distinct_rows, trivial
from mediatheca.kernel.clustering.reduction import pca

Covariance: TypeAlias = Literal["full", "tied", "diag", "spherical"]
MANY_STARTS = 20_000
"""Up to so many rows k-means begins `n_init` times; above, once: the runs differ little, and each takes long."""
IN_BATCHES = 200_000
"""From so many rows on k-means goes through them in batches (Sculley, WWW 2010)."""
BATCH = 4_096
MIXTURE_DIMENSIONS = 50


def kmeans(
    matrix: Matrix,
    clusters: int,
    *,
    seed: int,
    n_init: int | Literal["auto"] = "auto",
    max_iter: int = 300,
    tol: float = 1e-4,
    init: Literal["k-means++", "random"] = "k-means++",
) -> Fit:
    """Lloyd's algorithm from k-means++ seeds (Arthur, Vassilvitskii, SODA 2007)."""
    from sklearn import cluster

    if (done := trivial(matrix)) is not None:
        return done
    count, notes = _possible(matrix, clusters)
    if count == 1:
        return Fit(np.zeros(len(matrix), np.int32), None, notes)
    if len(matrix) > MANY_STARTS and n_init != "auto" and n_init > 1:
        notes.append(f"k-means began once, not {n_init} times: there are more than {MANY_STARTS:,} vectors")
        n_init = 1
    if len(matrix) > IN_BATCHES:
        notes.append(f"k-means went through the vectors in batches: there are more than {IN_BATCHES:,}")
        model: Any = cluster.MiniBatchKMeans(
            count, init=init, max_iter=min(max_iter, 100), batch_size=BATCH, random_state=seed, n_init=3,
            reassignment_ratio=0.0,
        )  # fmt: skip
    else:
        model = cluster.KMeans(count, init=init, n_init=n_init, max_iter=max_iter, tol=tol, random_state=seed)
    return Fit(as_labels(model.fit_predict(matrix)), None, notes)


def agglomerative(
    matrix: Matrix,
    clusters: int | None,
    *,
    linkage: Literal["ward", "average", "complete", "single"] = "ward",
    metric: Literal["euclidean", "cosine"] = "euclidean",
    distance_threshold: float | None = None,
) -> Fit:
    """Groups joined bottom up until so many are left, or until the nearest two are further apart than the threshold."""
    from sklearn import cluster

    if (done := trivial(matrix)) is not None:
        return done
    notes: list[str] = []
    if distance_threshold is None:
        clusters, notes = min(clusters or 2, len(matrix)), []
    else:
        clusters = None
    model = cluster.AgglomerativeClustering(
        clusters, metric=metric, linkage=linkage, distance_threshold=distance_threshold
    )
    return Fit(as_labels(model.fit_predict(matrix)), None, notes)


def spectral(
    matrix: Matrix,
    clusters: int,
    *,
    seed: int,
    affinity: Literal["rbf", "nearest_neighbors", "cosine"] = "rbf",
    gamma: float = 1.0,
    neighbours: int = 10,
    n_init: int = 10,
) -> Fit:
    """K-means on eigenvectors of the graph of likenesses (Ng, Jordan, Weiss, NIPS 2001)."""
    from sklearn import cluster

    if (done := trivial(matrix)) is not None:
        return done
    count, notes = _possible(matrix, clusters)
    if count == 1 or count >= len(matrix):
        return Fit(as_labels(np.arange(len(matrix)) if count > 1 else np.zeros(len(matrix))), None, notes)
    common: dict[str, Any] = {"random_state": seed, "n_init": n_init, "assign_labels": "kmeans"}
    if affinity == "nearest_neighbors":
        graph = _symmetric_neighbours(matrix, min(neighbours, len(matrix) - 1), notes)
    elif affinity == "cosine":
        graph = ((1.0 + np.clip(matrix @ matrix.T, -1.0, 1.0)) / 2.0).astype(np.float64)
    else:
        graph = _rbf(matrix, gamma)
    model = cluster.SpectralClustering(count, affinity="precomputed", **common)
    return Fit(as_labels(model.fit_predict(graph)), None, notes)


def _rbf(matrix: Matrix, gamma: float) -> Any:
    squares = (matrix**2).sum(axis=1)
    found = squares[:, None] + squares[None, :]
    found -= 2.0 * (matrix @ matrix.T)
    np.maximum(found, 0.0, out=found)
    found *= -gamma
    return np.exp(found, out=found).astype(np.float64)


def _symmetric_neighbours(matrix: Matrix, neighbours: int, notes: list[str]) -> Any:
    """The graph of nearest neighbours. Parts without any edge between them are joined by edges of almost no weight, or
    the eigenvectors would not be unique."""
    from scipy.sparse import csgraph, csr_matrix
    from sklearn.neighbors import kneighbors_graph

    graph = kneighbors_graph(matrix, neighbours, include_self=True)
    graph = 0.5 * (graph + graph.T)
    parts, member = csgraph.connected_components(graph, directed=False)
    if parts == 1:
        return graph
    notes.append(f"the graph of {neighbours} neighbours falls into {parts} parts, which were joined weakly")
    first = np.array([np.flatnonzero(member == part)[0] for part in range(parts)])
    weak = np.full(parts - 1, 1e-6)
    chain = csr_matrix((weak, (first[:-1], first[1:])), shape=graph.shape)
    return graph + chain + chain.T


def gaussian_mixture(
    matrix: Matrix,
    components: int,
    *,
    seed: int,
    covariance: Covariance = "full",
    reg_covar: float = 1e-6,
    max_iter: int = 100,
    n_init: int = 1,
    tol: float = 1e-3,
) -> Fit:
    """Expectation maximisation of a mixture of normal distributions.

    Full covariances of hundreds of dimensions cannot be told from a few thousand vectors: they are fitted on the first
    principal components, which the notes say.
    """
    from sklearn import mixture

    if (done := trivial(matrix)) is not None:
        return done
    count, notes = _possible(matrix, components)
    points, dimensions = matrix, matrix.shape[1]
    if covariance in ("full", "tied") and dimensions > MIXTURE_DIMENSIONS:
        kept = max(2, min(MIXTURE_DIMENSIONS, len(matrix) // (4 * count)))
        points = pca(matrix, kept).points
        notes.append(f"{covariance} covariances were fitted on the first {points.shape[1]} principal components")
    model = mixture.GaussianMixture(
        count, covariance_type=covariance, reg_covar=max(reg_covar, 1e-6), max_iter=max_iter, n_init=n_init, tol=tol,
        random_state=seed, init_params="kmeans",
    )  # fmt: skip
    labels = model.fit_predict(points.astype(np.float64))
    certain = model.predict_proba(points.astype(np.float64)).max(axis=1)
    return Fit(as_labels(labels), certain.astype(np.float32), notes)


def _possible(matrix: Matrix, wanted: int) -> tuple[int, list[str]]:
    """At most as many groups as there are different rows, and a note where that is fewer."""
    if wanted * 50 < len(matrix):  # so many equal rows would be a strange collection: not worth the look
        return wanted, []
    count = min(wanted, distinct_rows(matrix))
    return count, [f"{wanted} clusters were asked for, {count} different vectors are there"] if count < wanted else []
