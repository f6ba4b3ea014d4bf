"""K-means."""

from __future__ import annotations

from typing import Literal

from pydantic import AliasChoices, Field

from mediatheca.clusterers import MILLION, Clusterer, ClusterParams
from mediatheca.kernel.clustering import Fit, Matrix, partition


class KMeansParams(ClusterParams):
    n_clusters: int = Field(8, ge=2, le=1000, validation_alias=AliasChoices("n_clusters", "num_clusters", "k"))
    max_iter: int = Field(300, ge=1, le=10_000)
    n_init: int = Field(10, ge=1, le=100)
    tol: float = Field(1e-4, ge=0)
    init: Literal["k-means++", "random"] = "k-means++"


def _fit(vectors: Matrix, params: KMeansParams, seed: int) -> Fit:
    return partition.kmeans(
        vectors, params.n_clusters, seed=seed, n_init=params.n_init, max_iter=params.max_iter, tol=params.tol,
        init=params.init,
    )  # fmt: skip


kmeans = Clusterer(
    "kmeans", KMeansParams, "counted", "linear", MILLION, MILLION, True, _fit,
    "As many round clusters as you say; every document belongs to one.", row_copies=2.5,
)  # fmt: skip
