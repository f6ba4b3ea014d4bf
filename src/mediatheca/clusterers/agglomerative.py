"""Agglomerative clustering."""

from __future__ import annotations

from typing import Literal

from pydantic import AliasChoices, Field, model_validator

from mediatheca.clusterers import Clusterer, ClusterParams
from mediatheca.kernel.clustering import Fit, Matrix, partition


class AgglomerativeParams(ClusterParams):
    n_clusters: int | None = Field(2, ge=2, le=1000, validation_alias=AliasChoices("n_clusters", "num_clusters"))
    linkage: Literal["ward", "average", "complete", "single"] = "ward"
    affinity: Literal["euclidean", "cosine"] = Field("euclidean", validation_alias=AliasChoices("affinity", "metric"))
    distance_threshold: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _ward(self) -> AgglomerativeParams:
        if self.linkage == "ward" and self.affinity != "euclidean":
            raise ValueError("linkage 'ward' needs the euclidean metric; use average, complete or single with cosine")
        return self


def _fit(vectors: Matrix, params: AgglomerativeParams, seed: int) -> Fit:
    return partition.agglomerative(
        vectors, params.n_clusters, linkage=params.linkage, metric=params.affinity,
        distance_threshold=params.distance_threshold,
    )  # fmt: skip


agglomerative = Clusterer(
    "agglomerative", AgglomerativeParams, "counted", "quadratic", 20_000, 50_000, True, _fit,
    "Joined bottom up, to a number of clusters or up to a distance.", pair_bytes=8.0,
)  # fmt: skip
