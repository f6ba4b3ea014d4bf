"""HDBSCAN."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mediatheca.clusterers import Clusterer, ClusterParams
from mediatheca.kernel.clustering import Fit, Matrix
from mediatheca.kernel.clustering import hdbscan as algorithm


class HDBSCANParams(ClusterParams):
    min_cluster_size: int = Field(5, ge=2, le=100_000)
    min_samples: int | None = Field(None, ge=1, le=1_000)
    cluster_selection_epsilon: float = Field(0.0, ge=0)
    cluster_selection_method: Literal["eom", "leaf"] = "eom"
    max_cluster_size: int | None = Field(None, ge=2)
    allow_single_cluster: bool = False


def _fit(vectors: Matrix, params: HDBSCANParams, seed: int) -> Fit:
    settings = algorithm.Settings(
        params.min_cluster_size, params.min_samples, params.cluster_selection_method, params.cluster_selection_epsilon,
        params.allow_single_cluster, params.max_cluster_size,
    )  # fmt: skip
    return algorithm.hdbscan(vectors, settings)


hdbscan = Clusterer(
    "hdbscan", HDBSCANParams, "density", "quadratic", 100_000, 200_000, False, _fit,
    "Dense regions of any number and shape; what lies between them is noise.", row_copies=3.0,
)  # fmt: skip
