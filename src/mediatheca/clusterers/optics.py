"""OPTICS."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mediatheca.clusterers import Clusterer, ClusterParams
from mediatheca.kernel.clustering import Fit, Matrix, density


class OPTICSParams(ClusterParams):
    min_samples: int = Field(5, ge=2, le=10_000)
    xi: float = Field(0.05, gt=0, lt=1)
    max_eps: float | None = Field(None, gt=0)
    min_cluster_size: int | None = Field(None, ge=2)
    cluster_method: Literal["xi", "dbscan"] = "xi"
    eps: float | None = Field(None, gt=0)


def _fit(vectors: Matrix, params: OPTICSParams, seed: int) -> Fit:
    return density.optics(
        vectors, min_samples=params.min_samples, xi=params.xi, max_eps=params.max_eps,
        min_cluster_size=params.min_cluster_size, method=params.cluster_method, eps=params.eps,
    )  # fmt: skip


optics = Clusterer(
    "optics", OPTICSParams, "density", "quadratic", 20_000, 50_000, False, _fit,
    "Like DBSCAN for clusters of different densities.", row_copies=3.0,
)  # fmt: skip
