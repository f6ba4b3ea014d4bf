"""Every clusterer of this package keeps the contract."""

from __future__ import annotations

import pytest

from mediatheca.clusterers import Clusterer
from mediatheca.kernel.discovery import discover
from mediatheca.testing.clusterers import ClustererSuite

CLUSTERERS = {entry.name: entry for entry in discover("mediatheca.clusterers", Clusterer)}


@pytest.mark.parametrize("name", sorted(CLUSTERERS))
class TestClusterers(ClustererSuite):
    @pytest.fixture
    def clusterer(self, name):
        return CLUSTERERS[name]

    @pytest.fixture
    def parameters(self, name, groups):
        given = {"counted": {"n_clusters": groups}, "density": {}}[CLUSTERERS[name].kind]
        return given | {"dbscan": {"eps": 0.4}, "leiden": {"n_neighbors": 10}}.get(name, {})


def test_all_algorithms_of_the_wire_are_there_but_one():
    wire = "kmeans dbscan hdbscan agglomerative spectral gaussian_mixture mean_shift optics leiden auto"
    assert sorted(CLUSTERERS) == sorted(wire.split())
