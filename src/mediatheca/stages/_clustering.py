"""The algorithms of the `cluster` stage: vectors in, a cluster number a vector out. Every one with a fixed seed."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.extras import require

Algorithm: TypeAlias = Literal["hdbscan", "kmeans", "dbscan", "agglomerative", "spectral", "gaussian_mixture"]
Labels: TypeAlias = npt.NDArray[np.int64]
Matrix: TypeAlias = npt.NDArray[np.float32]
COUNTED = ("kmeans", "agglomerative", "spectral", "gaussian_mixture")
"""Those that are told how many clusters to make."""
SEED = 0
OUTLIER = -1


def require_sklearn() -> None:
    """
    Raises:
        UnavailableError: scikit-learn is not installed.
    """
    require("the cluster stage", "stages", "sklearn")


def label(vectors: Matrix, algorithm: Algorithm, clusters: int, smallest: int) -> Labels:
    """A number from 0 for every vector, -1 for outliers, numbered in the order of their first vector.

    Args:
        vectors: unit length, shape (items, dimensions), at least one.
        clusters: how many to make, for the algorithms that are told.
        smallest: members of a cluster at least, for those that find the number themselves.
    """
    distinct = len(np.unique(vectors, axis=0))
    if distinct == 1 or len(vectors) < 2:
        return np.zeros(len(vectors), np.int64)
    if algorithm in COUNTED:
        found = _counted(vectors, algorithm, min(clusters, distinct))
    else:
        found = _by_density(vectors, algorithm, max(2, min(smallest, len(vectors) // 3)))
    return _renumbered(np.asarray(found, np.int64))


def _counted(vectors: Matrix, algorithm: Algorithm, clusters: int) -> Any:
    from sklearn import cluster, mixture

    if clusters == 1:
        return np.zeros(len(vectors), np.int64)
    if algorithm == "kmeans":
        return cluster.KMeans(clusters, n_init="auto", random_state=SEED).fit_predict(vectors)
    if algorithm == "agglomerative":
        return cluster.AgglomerativeClustering(clusters, metric="cosine", linkage="average").fit_predict(vectors)
    if algorithm == "spectral":
        if clusters >= len(vectors):
            return np.arange(len(vectors))
        affinity = (1.0 + np.clip(vectors @ vectors.T, -1.0, 1.0)) / 2.0
        model = cluster.SpectralClustering(clusters, affinity="precomputed", random_state=SEED, assign_labels="kmeans")
        return model.fit_predict(affinity.astype(np.float64))
    # full covariances of hundreds of dimensions cannot be told from a few documents
    model = mixture.GaussianMixture(
        clusters, covariance_type="diag", reg_covar=1e-4, max_iter=300, random_state=SEED, init_params="kmeans"
    )
    return model.fit_predict(vectors.astype(np.float64))


def _by_density(vectors: Matrix, algorithm: Algorithm, smallest: int) -> Any:
    from sklearn import cluster

    if algorithm == "hdbscan":
        return cluster.HDBSCAN(min_cluster_size=smallest, allow_single_cluster=False, copy=True).fit_predict(vectors)
    return cluster.DBSCAN(eps=_reach(vectors, smallest), min_samples=smallest).fit_predict(vectors)


def _reach(vectors: Matrix, smallest: int) -> float:
    """The radius of DBSCAN: what nine of ten vectors need to reach their `smallest`-th nearest, themselves counted.

    Source: the k-distance graph of Ester, Kriegel, Sander, Xu (KDD 1996).
    """
    squares = np.maximum(2.0 - 2.0 * (vectors @ vectors.T), 0.0)
    nearest = np.sqrt(np.partition(squares, smallest - 1, axis=1)[:, smallest - 1])
    return max(float(np.quantile(nearest, 0.9)), 1e-3)


def _renumbered(found: Labels) -> Labels:
    names: dict[int, int] = {OUTLIER: OUTLIER}
    for value in found.tolist():
        names.setdefault(value, len(names) - 1)
    return np.asarray([names[value] for value in found.tolist()], np.int64)
