"""Algorithms, identities, figures and layouts of clusters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediatheca.kernel import layout
from mediatheca.kernel.cluster_identity import PREFIX, cluster_id, identify
from mediatheca.kernel.cluster_metrics import adjusted_rand, degenerate, quality, size_entropy
from mediatheca.kernel.clustering import NOISE, density, distinct_rows, partition, renumbered, unit_rows
from mediatheca.kernel.clustering import hdbscan as hdbscan_module
from mediatheca.kernel.clustering import leiden as leiden_module
from mediatheca.kernel.clustering.reduction import pca, whiten

NONE = np.zeros(0, np.int32)


def blobs(rows: int = 400, dimensions: int = 16, groups: int = 5, seed: int = 0):
    generator = np.random.default_rng(seed)
    centres = unit_rows(generator.normal(size=(groups, dimensions)).astype(np.float32))
    truth = np.arange(rows) % groups
    noise = generator.normal(scale=0.25 / dimensions**0.5, size=(rows, dimensions))
    return unit_rows((centres[truth] + noise).astype(np.float32)), truth


def scattered(seed: int):
    """Groups of different size and density, and noise between them."""
    generator = np.random.default_rng(seed)
    groups = [
        generator.normal(loc=generator.uniform(-6, 6, 4), scale=generator.uniform(0.2, 0.8), size=(count, 4))
        for count in generator.integers(40, 160, 6)
    ]
    return np.concatenate([*groups, generator.uniform(-8, 8, (80, 4))]).astype(np.float32)


# ---- algorithms


def test_dbscan_is_that_of_scikit_learn():
    from sklearn.cluster import DBSCAN

    points = scattered(1)
    for eps in (0.2, 0.5, 1.0):
        ours = density.dbscan(points, eps, 5).labels
        theirs = DBSCAN(eps=eps, min_samples=5).fit_predict(points)
        assert ((ours == NOISE) == (theirs == NOISE)).all()
        assert adjusted_rand(ours, theirs) > 0.99


def test_optics_is_that_of_scikit_learn():
    from sklearn.cluster import OPTICS

    points = scattered(2)[::3]
    assert adjusted_rand(density.optics(points, min_samples=5).labels, OPTICS(min_samples=5).fit_predict(points)) > 0.99


def test_hdbscan_over_all_neighbours_is_that_of_scikit_learn():
    from mediatheca.kernel.clustering.condensed import Selection, condense, select

    for seed in range(3):
        points = scattered(seed)
        for smallest, method in ((5, "eom"), (15, "eom"), (15, "leaf")):
            exact = hdbscan_module.hdbscan(points, hdbscan_module.Settings(smallest, method=method))
            tree = hdbscan_module.spanning_tree(points, len(points), smallest)
            linkage = hdbscan_module.single_linkage(*tree, len(points))
            ours = select(condense(*linkage, smallest=smallest), Selection(method))
            assert adjusted_rand(exact.labels, ours.labels) > 0.99
            assert (ours.probabilities <= 1).all()


def test_hdbscan_over_near_neighbours_is_nearly_that_of_scikit_learn():
    for seed in range(3):
        points = scattered(seed)
        exact = hdbscan_module.hdbscan(points, hdbscan_module.Settings(15))
        graph = hdbscan_module.hdbscan(points, hdbscan_module.Settings(15), exact=1)
        assert adjusted_rand(exact.labels, graph.labels) > 0.95
        assert "graph of nearest neighbours" in graph.notes[0]


def test_a_region_below_epsilon_is_not_split():
    points = np.concatenate([np.random.default_rng(0).normal(loc=at, scale=0.05, size=(60, 2)) for at in (0, 0.6, 9)])
    whole = hdbscan_module.hdbscan(points.astype(np.float32), hdbscan_module.Settings(10, epsilon=2.0), exact=1)
    parts = hdbscan_module.hdbscan(points.astype(np.float32), hdbscan_module.Settings(10), exact=1)
    assert (whole.labels.max() + 1, parts.labels.max() + 1) == (2, 3)


@pytest.mark.parametrize("objective", ["RBConfiguration", "modularity", "CPM"])
def test_leiden_finds_communities_and_a_higher_resolution_makes_more(objective):
    points, truth = blobs()
    low = 0.02 if objective == "CPM" else 1.0
    found = leiden_module.leiden(points, seed=1, neighbours=15, objective=objective, resolution=low).labels
    assert adjusted_rand(found, truth) > 0.95
    if objective != "modularity":
        finer = leiden_module.leiden(points, seed=1, neighbours=15, objective=objective, resolution=low * 20).labels
        assert finer.max() > found.max()


def test_leiden_says_what_is_too_small():
    points, _ = blobs(100, groups=4)
    odd = unit_rows(-points[:3])
    fit = leiden_module.leiden(np.concatenate([points, odd]), seed=1, neighbours=2, min_cluster_size=10)
    assert (fit.labels == NOISE).any()
    assert "are noise" in fit.notes[0]


def test_mean_shift_finds_the_peaks():
    points, truth = blobs(300, groups=3)
    fit = density.mean_shift(points)
    assert adjusted_rand(fit.labels, truth) > 0.99
    assert "bandwidth was estimated" in fit.notes[0]


def test_parts_of_a_graph_are_joined_and_said():
    points, truth = blobs(120, groups=3)
    fit = partition.spectral(points, 3, seed=1, affinity="nearest_neighbors", neighbours=5)
    assert adjusted_rand(fit.labels, truth) > 0.99
    assert "joined weakly" in fit.notes[0]


def test_more_clusters_than_different_vectors_are_not_made():
    points = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    fit = partition.kmeans(points, 8, seed=1)
    assert len(set(fit.labels.tolist())) == 3
    assert "3 different vectors" in fit.notes[0]
    assert distinct_rows(points) == 3


def test_groups_are_numbered_as_they_appear():
    assert renumbered(np.array([7, NOISE, 2, 7, 0], np.int32)).tolist() == [0, NOISE, 1, 0, 2]
    assert renumbered(np.array([NOISE, NOISE], np.int32)).tolist() == [NOISE, NOISE]


# ---- fewer dimensions


def test_principal_components_are_those_of_the_singular_value_decomposition():
    points = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32) * np.array(
        [5, 3, 1, 1, 1, 1], np.float32
    )
    found = pca(points, 2)
    _, values, right = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    assert np.allclose(np.abs(found.components), np.abs(right[:2].T), atol=1e-3)
    assert found.explained == pytest.approx(float((values[:2] ** 2).sum() / (values**2).sum()), abs=1e-3)
    assert np.allclose(found.project(points), found.points, atol=1e-4)
    assert pca(points, 99).points.shape == (200, 6)


def test_whitened_dimensions_are_uncorrelated():
    points = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32) @ np.random.default_rng(1).normal(
        size=(4, 4)
    )
    assert np.allclose(np.cov(whiten(points.astype(np.float32)).T), np.eye(4), atol=1e-2)


# ---- identities


def test_a_cluster_keeps_its_id_when_most_of_its_members_stay():
    old = np.repeat(np.arange(3), 40).astype(np.int32)
    new = np.array([2, 0, 1])[old].astype(np.int32)  # numbered otherwise
    new[:6] = 0  # and a few moved
    empty = np.zeros((3, 2), np.float32)
    found = identify(new, old, empty, ["cl_4", "cl_0", "cl_2"], empty, 5)
    assert found.ids == ["cl_0", "cl_2", "cl_4"]
    assert found.kept == [True, True, True]
    assert (found.next_number, found.compared) == (5, "members")


def test_a_split_cluster_keeps_its_id_in_the_larger_half_and_numbers_are_not_given_again():
    old = np.zeros(100, np.int32)
    new = np.array([0] * 40 + [1] * 60, np.int32)
    empty = np.zeros((2, 2), np.float32)
    found = identify(new, old, empty, ["cl_0"], empty[:1], 7)
    assert found.ids == ["cl_7", "cl_0"]
    assert found.next_number == 8


def test_without_shared_documents_centres_decide():
    old = np.eye(3, 4, dtype=np.float32)
    new = old[[2, 0]] + 0.01
    found = identify(NONE, NONE, new, ["cl_0", "cl_1", "cl_2"], old, 3)
    assert (found.ids, found.compared) == (["cl_2", "cl_0"], "centroids")
    other = identify(NONE, NONE, np.eye(2, 7, dtype=np.float32), ["cl_0"], old[:1], 3)
    assert (other.ids, other.compared) == (["cl_3", "cl_4"], "none")


@given(st.lists(st.integers(-1, 4), min_size=60, max_size=90), st.randoms())
@settings(max_examples=50, deadline=None)
def test_ids_are_never_given_twice(old, chance):
    new = [chance.randint(-1, 5) if chance.random() < 0.3 else label for label in old]
    found = identify(
        np.array(new, np.int32), np.array(old, np.int32), np.zeros((6, 2), np.float32),
        [cluster_id(number) for number in range(5)], np.zeros((5, 2), np.float32), 5,
    )  # fmt: skip
    assert len(set(found.ids)) == 6
    assert all(int(ident.removeprefix(PREFIX)) < found.next_number for ident in found.ids)


# ---- figures


def test_agreement_is_that_of_scikit_learn():
    from sklearn.metrics import adjusted_rand_score

    generator = np.random.default_rng(0)
    for _ in range(20):
        one, other = generator.integers(-1, 5, 60), generator.integers(0, 4, 60)
        assert adjusted_rand(one, other) == pytest.approx(adjusted_rand_score(one, other))
    assert adjusted_rand(np.array([0]), np.array([3])) == 1.0


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ([-1, -1], "all_noise"),
        ([0, 0, -1], "single_cluster"),
        (list(range(30)), "all_singletons"),
        ([0] * 95 + [1] * 5, "dominant_cluster"),
        ([0] * 50 + [1] * 50, None),
    ],
)
def test_a_clustering_that_says_nothing_is_told(labels, why):
    assert degenerate(np.array(labels, np.int32)) == why


def test_figures_tell_good_from_bad():
    points, truth = blobs()
    good = quality(points, truth.astype(np.int32), 1)
    bad = quality(points, np.random.default_rng(0).integers(0, 5, len(points)).astype(np.int32), 1)
    assert good["silhouette_score"] > 0.5 > bad["silhouette_score"]
    assert good["davies_bouldin_index"] < bad["davies_bouldin_index"]
    assert quality(points, np.zeros(len(points), np.int32), 1) == {}
    assert size_entropy(np.array([5, 5, 5])) == pytest.approx(1.0)
    assert size_entropy(np.array([9])) == 0.0


# ---- layouts


def test_a_layout_that_was_turned_mirrored_and_scaled_is_laid_back():
    generator = np.random.default_rng(0)
    before = generator.normal(size=(50, 2)).astype(np.float32)
    turn = np.array([[0, 1], [1, 0]])
    after = (before @ turn * 3 + 7).astype(np.float32)
    aligned = layout.align(after, np.arange(30), before[:30])
    assert np.allclose(aligned, before, atol=1e-3)
    assert layout.align(np.zeros((5, 2), np.float32), np.arange(5), before[:5]).tolist() == [[0, 0]] * 5


def test_layouts_are_not_registered_without_cause():
    assert "only 3 documents" in layout.why_not(3, 2, 2)
    assert "3 dimensions" in layout.why_not(300, 2, 3)
    assert layout.why_not(20, 2, 2) == ""
