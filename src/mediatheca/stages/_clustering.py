"""The algorithms of the `cluster` stage: vectors in, a cluster number a vector out. Every one with a fixed seed.

They are those of the clusterers (`mediatheca.kernel.clustering`), with parameters that suit the few hundred documents
of a search.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from mediatheca.kernel.clustering import NOISE, Fit, Labels, Matrix, distinct_rows, renumbered
from mediatheca.kernel.clustering.density import dbscan, reach
from mediatheca.kernel.clustering.hdbscan import Settings, hdbscan
from mediatheca.kernel.clustering.leiden import leiden
from mediatheca.kernel.clustering.partition import agglomerative, gaussian_mixture, kmeans, spectral
from mediatheca.kernel.extras import require

Algorithm: TypeAlias = Literal["hdbscan", "kmeans", "dbscan", "agglomerative", "spectral", "gaussian_mixture", "leiden"]
COUNTED = ("kmeans", "agglomerative", "spectral", "gaussian_mixture")
"""Those that are told how many clusters to make."""
SEED = 0
OUTLIER = NOISE


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
    distinct = distinct_rows(vectors)
    if distinct == 1 or len(vectors) < 2:
        return np.zeros(len(vectors), np.int32)
    if algorithm in COUNTED:
        count = min(clusters, distinct)
        found = _counted(vectors, algorithm, count) if count > 1 else Fit(np.zeros(len(vectors), np.int32))
    else:
        found = _by_density(vectors, algorithm, max(2, min(smallest, len(vectors) // 3)))
    return renumbered(found.labels)


def _counted(vectors: Matrix, algorithm: Algorithm, clusters: int) -> Fit:
    if algorithm == "kmeans":
        return kmeans(vectors, clusters, seed=SEED)
    if algorithm == "agglomerative":
        return agglomerative(vectors, clusters, metric="cosine", linkage="average")
    if algorithm == "spectral":
        return spectral(vectors, clusters, seed=SEED, affinity="cosine")
    # full covariances of hundreds of dimensions cannot be told from a few documents
    return gaussian_mixture(vectors, clusters, seed=SEED, covariance="diag", reg_covar=1e-4, max_iter=300)


def _by_density(vectors: Matrix, algorithm: Algorithm, smallest: int) -> Fit:
    if algorithm == "hdbscan":
        return hdbscan(vectors, Settings(smallest))
    if algorithm == "leiden":
        return leiden(vectors, seed=SEED, neighbours=max(2, min(15, len(vectors) // 4)), min_cluster_size=smallest)
    return dbscan(vectors, reach(vectors, smallest), smallest)
