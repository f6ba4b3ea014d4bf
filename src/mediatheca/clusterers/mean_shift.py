"""Mean shift."""

from __future__ import annotations

from pydantic import AliasChoices, Field

from mediatheca.clusterers import Clusterer, ClusterParams
from mediatheca.kernel.clustering import Fit, Matrix, density


class MeanShiftParams(ClusterParams):
    bandwidth: float | None = Field(None, gt=0)
    bandwidth_quantile: float = Field(0.1, gt=0, le=1, validation_alias=AliasChoices("bandwidth_quantile", "quantile"))
    cluster_all: bool = True
    max_iter: int = Field(300, ge=1, le=1000)


def _fit(vectors: Matrix, params: MeanShiftParams, seed: int) -> Fit:
    return density.mean_shift(
        vectors, bandwidth=params.bandwidth, quantile=params.bandwidth_quantile, cluster_all=params.cluster_all,
        max_iter=params.max_iter,
    )  # fmt: skip


mean_shift = Clusterer(
    "mean_shift", MeanShiftParams, "density", "quadratic", 10_000, 20_000, False, _fit,
    "Every document climbs to a peak of the density; one cluster a peak.", row_copies=4.0,
)  # fmt: skip
