"""Fewer dimensions: principal components, whitening, UMAP and t-SNE. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.clustering import Matrix
from mediatheca.kernel.extras import require


@dataclass(frozen=True, slots=True)
class Projection:
    """Points in fewer dimensions, and how to put further ones among them: `(vector - mean) @ components`."""

    points: Matrix
    mean: npt.NDArray[np.float32]
    components: Matrix
    """Shape (dimensions, kept)."""
    explained: float
    """Share of the variance that is kept."""

    def project(self, matrix: Matrix) -> Matrix:
        return np.asarray((matrix - self.mean) @ self.components, np.float32)


def _spectrum(matrix: Matrix) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Mean, variances (descending) and directions. The sign of a direction is that of its largest entry: the same
    data give the same picture on every machine."""
    mean = matrix.mean(axis=0, dtype=np.float64)
    centred = (matrix - mean.astype(np.float32)).astype(np.float32)
    covariance = (centred.T @ centred).astype(np.float64) / max(len(matrix) - 1, 1)
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    largest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.where(vectors[largest, np.arange(vectors.shape[1])] < 0, -1.0, 1.0)
    return mean, values, vectors


def pca(matrix: Matrix, kept: int) -> Projection:
    """The `kept` directions of largest variance; at most as many as there are dimensions."""
    mean, values, vectors = _spectrum(matrix)
    components = np.ascontiguousarray(vectors[:, : min(kept, matrix.shape[1])], np.float32)
    total = float(values.sum())
    share = float(values[: components.shape[1]].sum() / total) if total > 0 else 1.0
    narrow = mean.astype(np.float32)
    return Projection(np.asarray((matrix - narrow) @ components, np.float32), narrow, components, min(share, 1.0))


def whiten(matrix: Matrix, floor: float = 1e-5) -> Matrix:
    """Uncorrelated dimensions of variance 1. `floor`: variances below it are taken for it, in the place of noise that
    would be blown up."""
    mean, values, vectors = _spectrum(matrix)
    scaled = vectors / np.sqrt(np.maximum(values, max(floor, 1e-12)))
    return np.asarray((matrix - mean.astype(np.float32)) @ scaled.astype(np.float32), np.float32)


def umap(
    matrix: Matrix, kept: int, *, seed: int, neighbours: int = 30, min_dist: float = 0.0, metric: str = "cosine"
) -> Matrix:
    """McInnes, Healy, Melville (2018).

    Raises:
        UnavailableError: umap-learn is not installed.
    """
    require("UMAP", "layout", "umap")
    from umap import UMAP

    spread = min(neighbours, max(2, len(matrix) - 1))
    model = UMAP(
        n_components=kept, n_neighbors=spread, min_dist=min_dist, metric=metric, random_state=seed, n_jobs=1,
        init="random" if len(matrix) <= kept + 1 else "spectral",
    )  # fmt: skip
    return np.asarray(model.fit_transform(matrix), np.float32)


def tsne(matrix: Matrix, kept: int, *, seed: int, perplexity: float = 30.0, learning_rate: float = 200.0) -> Matrix:
    """Van der Maaten, Hinton (2008); at most three dimensions, over the first 50 principal components."""
    from sklearn.manifold import TSNE

    points = pca(matrix, 50).points if matrix.shape[1] > 50 else matrix
    model = TSNE(
        n_components=min(kept, 3), perplexity=max(1.0, min(perplexity, (len(matrix) - 1) / 3)), random_state=seed,
        learning_rate=learning_rate, init="pca" if len(matrix) > 3 else "random",
    )  # fmt: skip
    return np.asarray(model.fit_transform(points), np.float32)
