"""Which algorithm fits, by the size of the collection."""

from __future__ import annotations

from pydantic import AliasChoices, Field

from mediatheca.clusterers import MILLION, Clusterer, ClusterParams
from mediatheca.kernel.clustering import NOISE, Fit, Matrix, partition
from mediatheca.kernel.clustering import hdbscan as algorithm

DENSITY_ROWS = 100_000
MOSTLY_NOISE = 0.5


class AutoParams(ClusterParams):
    n_clusters: int | None = Field(
        None, ge=2, le=1000, validation_alias=AliasChoices("n_clusters", "num_clusters"),
        description="Given: k-means with so many.",
    )  # fmt: skip
    min_cluster_size: int | None = Field(None, ge=2)


def _fit(vectors: Matrix, params: AutoParams, seed: int) -> Fit:
    """K-means where the number is given or the collection is large; else HDBSCAN, and k-means where it finds little."""
    rows = len(vectors)
    guess = max(2, min(50, round((rows / 2) ** 0.5)))
    if params.n_clusters is not None:
        return _kmeans(vectors, params.n_clusters, seed, "the number of clusters is given")
    if rows > DENSITY_ROWS:
        return _kmeans(vectors, guess, seed, f"{rows:,} vectors are many for HDBSCAN; the number is √(n/2), 50 at most")
    smallest = params.min_cluster_size or max(2, min(50, rows // 100))
    fit = algorithm.hdbscan(vectors, algorithm.Settings(smallest))
    noise = float((fit.labels == NOISE).mean()) if rows else 0.0
    if int(fit.labels.max(initial=NOISE)) < 1 or noise > MOSTLY_NOISE:
        return _kmeans(vectors, guess, seed, f"HDBSCAN left {noise:.0%} as noise; the number is √(n/2), 50 at most")
    fit.notes.insert(0, f"auto chose hdbscan with min_cluster_size {smallest}: it leaves {noise:.0%} as noise")
    return fit


def _kmeans(vectors: Matrix, clusters: int, seed: int, why: str) -> Fit:
    fit = partition.kmeans(vectors, clusters, seed=seed, n_init=3)
    fit.notes.insert(0, f"auto chose kmeans with {clusters} clusters: {why}")
    return fit


auto = Clusterer(
    "auto", AutoParams, "density", "linear", MILLION, MILLION, False, _fit,
    "HDBSCAN where it finds something, else k-means; the run says which and why.", row_copies=3.0,
)  # fmt: skip
