"""UMAP is not ours: what is looked at is that our call of it works with the version that is installed."""

from __future__ import annotations

import warnings

import numpy as np

from mediatheca.kernel.clustering.reduction import umap


def test_umap_keeps_groups_apart_and_gives_the_same_points_for_the_same_seed() -> None:
    random = np.random.default_rng(1)
    centres = random.normal(size=(2, 32))
    matrix = np.concatenate([centre + random.normal(scale=0.05, size=(40, 32)) for centre in centres])
    with warnings.catch_warnings():  # it says that TensorFlow is not here
        warnings.simplefilter("ignore")
        points, again = (umap(matrix.astype(np.float32), 2, seed=7, neighbours=10) for _ in range(2))
    assert points.shape == (80, 2)
    assert np.array_equal(points, again)
    middle = points.reshape(2, 40, 2).mean(axis=1)
    spread = np.linalg.norm(points.reshape(2, 40, 2) - middle[:, None], axis=2).max()
    assert np.linalg.norm(middle[0] - middle[1]) > 2 * spread
