"""The contract of clusterers, as tests: subclass `ClustererSuite` and give it a clusterer.

```python
class TestMine(ClustererSuite):
    @pytest.fixture
    def clusterer(self): return my_clusterer

    @pytest.fixture
    def parameters(self, groups): return {"n_clusters": groups}   # what makes it find so many
```
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mediatheca.clusterers import Clusterer
from mediatheca.kernel.cluster_metrics import adjusted_rand
from mediatheca.kernel.clustering import NOISE, Fit, Labels, Matrix, unit_rows

GROUPS = 4
ROWS = 240
DIMENSIONS = 24


def planted(rows: int = ROWS, groups: int = GROUPS, seed: int = 0) -> tuple[Matrix, Labels]:
    """Rows of unit length around `groups` far directions, and which group each is of."""
    generator = np.random.default_rng(seed)
    centres = np.eye(groups, DIMENSIONS, dtype=np.float32)
    truth = (np.arange(rows) % groups).astype(np.int32)
    spread = generator.normal(scale=0.2 / DIMENSIONS**0.5, size=(rows, DIMENSIONS))
    return unit_rows((centres[truth] + spread).astype(np.float32)), truth


class ClustererSuite:
    """What every clusterer promises. Fixtures to give: `clusterer`, `parameters`."""

    @pytest.fixture
    def groups(self) -> int:
        return GROUPS

    def fit(self, clusterer: Clusterer, parameters: dict[str, Any], matrix: Matrix) -> Fit:
        before = matrix.copy()
        fit = clusterer.fit(matrix, clusterer.params.model_validate(parameters), 42)
        assert (matrix == before).all()
        assert fit.labels.dtype == np.int32
        assert fit.labels.shape == (len(matrix),)
        assert fit.labels.min(initial=0) >= NOISE
        return fit

    def test_planted_groups_are_recovered(self, clusterer: Clusterer, parameters: dict[str, Any]) -> None:
        matrix, truth = planted()
        fit = self.fit(clusterer, parameters, matrix)
        assert adjusted_rand(fit.labels, truth) >= 0.95
        if fit.probabilities is not None:
            assert fit.probabilities.shape == (len(matrix),)
            assert float(fit.probabilities.min()) >= 0
            assert float(fit.probabilities.max()) <= 1

    def test_the_same_vectors_get_the_same_labels(self, clusterer: Clusterer, parameters: dict[str, Any]) -> None:
        matrix = unit_rows(np.random.default_rng(3).normal(size=(120, 8)).astype(np.float32))
        first, second = (self.fit(clusterer, parameters, matrix) for _ in range(2))
        assert first.labels.tolist() == second.labels.tolist()

    def test_every_row_has_a_cluster_where_that_is_promised(
        self, clusterer: Clusterer, parameters: dict[str, Any]
    ) -> None:
        matrix = unit_rows(np.random.default_rng(5).normal(size=(90, 8)).astype(np.float32))
        fit = self.fit(clusterer, parameters, matrix)
        assert not clusterer.assigns_all or fit.labels.min() >= 0

    @pytest.mark.parametrize("rows", [1, 2, 3, 7])
    def test_few_rows_do_no_harm(self, clusterer: Clusterer, parameters: dict[str, Any], rows: int) -> None:
        self.fit(clusterer, parameters, np.eye(8, dtype=np.float32)[:rows])

    def test_equal_rows_are_one_cluster_or_noise(self, clusterer: Clusterer, parameters: dict[str, Any]) -> None:
        same = np.repeat(np.eye(8, dtype=np.float32)[:1], 40, axis=0)
        assert len(set(self.fit(clusterer, parameters, same).labels.tolist())) == 1

    def test_rows_of_zeros_do_no_harm(self, clusterer: Clusterer, parameters: dict[str, Any]) -> None:
        matrix, _ = planted(60)
        matrix[::7] = 0
        self.fit(clusterer, parameters, matrix)

    def test_it_says_what_it_is(self, clusterer: Clusterer) -> None:
        assert clusterer.name.isidentifier()
        assert clusterer.summary
        assert 2 <= clusterer.cap <= clusterer.hard_cap <= 1_000_000
        assert clusterer.params.model_validate({}).model_dump(mode="json")
        assert clusterer.memory_mb(10, 8) < clusterer.memory_mb(10_000, 384)
        fitting = clusterer.rows_within(1_000, 384)
        assert clusterer.memory_mb(fitting, 384) <= 1_000
