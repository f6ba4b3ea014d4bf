"""Spectral clustering."""

from __future__ import annotations

from typing import Literal

from pydantic import AliasChoices, Field

from mediatheca.clusterers import Clusterer, ClusterParams
from mediatheca.kernel.clustering import Fit, Matrix, partition


class SpectralParams(ClusterParams):
    n_clusters: int = Field(8, ge=2, le=1000, validation_alias=AliasChoices("n_clusters", "num_clusters"))
    affinity: Literal["rbf", "nearest_neighbors", "cosine"] = "rbf"
    gamma: float = Field(1.0, gt=0)
    n_neighbors: int = Field(10, ge=2, le=1000)
    n_init: int = Field(10, ge=1, le=100)


def _fit(vectors: Matrix, params: SpectralParams, seed: int) -> Fit:
    return partition.spectral(
        vectors, params.n_clusters, seed=seed, affinity=params.affinity, gamma=params.gamma,
        neighbours=params.n_neighbors, n_init=params.n_init,
    )  # fmt: skip


spectral = Clusterer(
    "spectral", SpectralParams, "counted", "quadratic", 5_000, 20_000, True, _fit,
    "Clusters of any shape, by the eigenvectors of the graph of likenesses.", pair_bytes=24.0,
)  # fmt: skip
