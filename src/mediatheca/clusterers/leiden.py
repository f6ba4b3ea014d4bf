"""Leiden communities of the graph of nearest neighbours."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mediatheca.clusterers import Clusterer, ClusterParams
from mediatheca.kernel.clustering import Fit, Matrix, unit_rows
from mediatheca.kernel.clustering import leiden as algorithm


class LeidenParams(ClusterParams):
    resolution: float = Field(1.0, gt=0, le=1000)
    n_neighbors: int = Field(30, ge=2, le=200)
    metric: Literal["cosine"] = "cosine"
    min_cluster_size: int = Field(0, ge=0)
    objective_function: Literal["RBConfiguration", "modularity", "CPM"] = "RBConfiguration"
    n_iterations: int = Field(2, ge=1, le=20)


def _fit(vectors: Matrix, params: LeidenParams, seed: int) -> Fit:
    return algorithm.leiden(
        unit_rows(vectors), seed=seed, resolution=params.resolution, neighbours=params.n_neighbors,
        objective=params.objective_function, iterations=params.n_iterations, min_cluster_size=params.min_cluster_size,
    )  # fmt: skip


leiden = Clusterer(
    "leiden", LeidenParams, "density", "quadratic", 50_000, 100_000, False, _fit,
    "Communities of the graph of nearest neighbours; a higher resolution makes more of them.", row_copies=8.0,
)  # fmt: skip
