"""DBSCAN."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mediatheca.clusterers import Clusterer, ClusterParams
from mediatheca.kernel.clustering import Fit, Matrix, density, unit_rows


class DBSCANParams(ClusterParams):
    eps: float = Field(0.5, gt=0)
    min_samples: int = Field(5, ge=1, le=100_000)
    metric: Literal["euclidean", "cosine"] = "euclidean"


def _fit(vectors: Matrix, params: DBSCANParams, seed: int) -> Fit:
    if params.metric == "cosine":  # of unit rows: |a - b|² = 2 (1 - cos)
        return density.dbscan(unit_rows(vectors), (2.0 * params.eps) ** 0.5, params.min_samples)
    return density.dbscan(vectors, params.eps, params.min_samples)


dbscan = Clusterer(
    "dbscan", DBSCANParams, "density", "quadratic", 50_000, 100_000, False, _fit,
    "What reaches each other over distances of at most eps; the rest is noise.", row_copies=3.0,
)  # fmt: skip
