"""Gaussian mixtures."""

from __future__ import annotations

from typing import Literal

from pydantic import AliasChoices, Field

from mediatheca.clusterers import Clusterer, ClusterParams
from mediatheca.kernel.clustering import Fit, Matrix, partition


class GaussianMixtureParams(ClusterParams):
    n_components: int = Field(
        1, ge=1, le=1000, validation_alias=AliasChoices("n_components", "n_clusters", "num_clusters")
    )
    covariance_type: Literal["full", "tied", "diag", "spherical"] = "full"
    reg_covar: float = Field(1e-6, ge=0)
    max_iter: int = Field(100, ge=1, le=10_000)
    n_init: int = Field(1, ge=1, le=100)
    tol: float = Field(1e-3, gt=0)


def _fit(vectors: Matrix, params: GaussianMixtureParams, seed: int) -> Fit:
    return partition.gaussian_mixture(
        vectors, params.n_components, seed=seed, covariance=params.covariance_type, reg_covar=params.reg_covar,
        max_iter=params.max_iter, n_init=params.n_init, tol=params.tol,
    )  # fmt: skip


gaussian_mixture = Clusterer(
    "gaussian_mixture", GaussianMixtureParams, "counted", "linear", 100_000, 500_000, True, _fit,
    "Overlapping normal distributions; tells how surely a document belongs to its own.", row_copies=5.0,
)  # fmt: skip
