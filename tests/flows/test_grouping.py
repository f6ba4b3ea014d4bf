"""The parts of a cluster run that need no server: limits, samples, spaces, layouts, labels, figures of files."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from mediatheca.clusterers import Clusterer
from mediatheca.clusterers._work import Step, TaskOptions, by_size, cluster_vectors, combine, layout, reduce
from mediatheca.flows.grouping import artifacts, config
from mediatheca.flows.grouping.attributes import key_of
from mediatheca.flows.grouping.export import as_csv, stratified
from mediatheca.flows.grouping.fitting import nearest, representatives
from mediatheca.flows.grouping.labels import unique
from mediatheca.flows.grouping.prepare import RefusedError, chosen, limit_of
from mediatheca.flows.grouping.space import _one, find_space
from mediatheca.jobs.compute_tasks.keywords import common_words
from mediatheca.kernel.clustering import NOISE, Fit, unit_rows
from mediatheca.kernel.discovery import discover
from mediatheca.kernel.errors import NotEnabledError, PayloadTooLargeError, ValidationError
from mediatheca.stores.db.tx import Record

KNOWN = {entry.name: entry for entry in discover("mediatheca.clusterers", Clusterer)}


def index(name: str, dimensions: int = 4, **more):
    entry = {"name": name, "feature_uri": f"mixpeek://{name}@v1/out", "dimensions": dimensions, "metric": "cosine"}
    return {**entry, "multi": False, "model": "m", "weights": "w", "modalities": ["text"], "sparse": False, **more}


def collection(name: str, *indexes):
    return Record("collection", f"col_{name}", name, {"vector_indexes": list(indexes)})


def stored(**raw):
    return config.vector_config(raw, KNOWN)


# ---- limits


def test_what_does_not_fit_into_memory_is_refused_with_a_size_that_does():
    with pytest.raises(RefusedError) as refused:
        limit_of(KNOWN["agglomerative"], 384, 50_000, 4_096, 60_000)
    words = refused.value.message.split("sample_size to at most ")[1].split(",")
    fitting = int(words[0] + words[1]) if words[1][:3].isdigit() else int(words[0])
    assert limit_of(KNOWN["agglomerative"], 384, fitting, 4_096, 60_000) == fitting
    assert "MEDIATHECA_WORKER_MEMORY_MB" in refused.value.message


def test_without_a_wish_as_many_are_clustered_as_fit():
    assert limit_of(KNOWN["agglomerative"], 384, None, 1_000, 60_000) < 20_000
    assert limit_of(KNOWN["kmeans"], 384, None, 4_096, 100_000) >= 100_000
    assert limit_of(KNOWN["hdbscan"], 384, None, 4_096, 10) == 100_000
    with pytest.raises(RefusedError, match="at most 0"):
        limit_of(KNOWN["kmeans"], 384, None, 100, 10)


def test_a_sample_is_the_same_in_every_run_and_about_its_share():
    ids = [f"doc{number}" for number in range(4_000)]
    first = [ident for ident in ids if chosen(42, ident, 0.25)]
    assert first == [ident for ident in ids if chosen(42, ident, 0.25)]
    assert 900 < len(first) < 1_100
    assert set(first) <= {ident for ident in ids if chosen(42, ident, 0.5)}
    assert first != [ident for ident in ids if chosen(43, ident, 0.25)]


# ---- spaces


def test_several_features_are_put_side_by_side_by_weight():
    one, other = np.eye(2, 3, dtype=np.float32) * 5, np.eye(2, 2, dtype=np.float32)[::-1]
    found = combine([one, other], [3, 1], True)
    assert np.allclose((found**2).sum(axis=1), 1)
    assert np.allclose(found[0, :3], np.array([1, 0, 0]) * 0.75**0.5)
    assert np.allclose(combine([one], [], False), one)


def test_a_space_is_the_same_model_in_every_collection():
    both = index("a"), index("b", 6)
    space = find_space([collection("x", *both), collection("y", *both)], stored(feature_uris=["b", "a"]))
    assert (space.dimensions, space.weights) == (10, (1.0, 1.0))
    assert [i.name for i in space.indexes[1]] == ["b", "a"]
    with pytest.raises(ValidationError, match="different models"):
        find_space([collection("x", index("a")), collection("y", index("a", 5))], stored(feature_uris=["a"]))
    with pytest.raises(ValidationError, match="sparse"):
        find_space([collection("x", index("a", 0, sparse=True))], stored(feature_uris=["a"]))
    with pytest.raises(ValidationError, match="no dense vectors"):
        find_space([collection("x")], stored())
    weighted = stored(feature_uris=["a", "b"], feature_weights={"b": 2})
    assert find_space([collection("x", *both)], weighted).weights == (1.0, 2.0)


def test_tokens_become_one_vector():
    tokens = np.array([[1, 0], [1, 0.1], [0, 9]], np.float32)
    assert np.allclose(_one(tokens, "mean"), tokens.mean(axis=0))
    assert np.allclose(_one(tokens, "median"), [1, 0.1])
    assert np.allclose(_one(tokens, "medoid"), [1, 0.1])
    assert _one(tokens[:0], "mean").tolist() == [0, 0]


# ---- computing


def test_clusters_are_numbered_from_the_largest_on():
    fit = by_size(Fit(np.array([5, 5, 2, NOISE, 2, 2, 9], np.int32)))
    assert fit.labels.tolist() == [1, 1, 0, NOISE, 0, 0, 2]
    assert by_size(Fit(np.array([NOISE, NOISE], np.int32))).labels.tolist() == [NOISE, NOISE]


def test_steps_are_done_in_order_and_told():
    points = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    found, notes = reduce(points, [Step(method="whitening"), Step(method="pca", n_components=3), Step(method="none")])
    assert found.shape == (50, 3)
    assert "pca kept 3 dimensions" in notes[0]
    drawn, _ = reduce(points, [Step(method="tsne", n_components=2)])
    assert drawn.shape == (50, 2)


def test_everything_of_a_run_is_computed_and_noise_has_no_centre():
    points = np.concatenate([np.eye(2, 6, dtype=np.float32).repeat(20, axis=0), -np.ones((1, 6), np.float32)])
    points += np.random.default_rng(0).normal(scale=0.01, size=points.shape).astype(np.float32)
    options = TaskOptions(clusterer="dbscan", params={"eps": 0.2}, vis_components=3)
    arrays, told = cluster_vectors({"vectors_0": points}, options, KNOWN["dbscan"], lambda share, step: None)
    assert sorted(np.bincount(arrays["labels"] + 1).tolist()) == [1, 20, 20]
    assert arrays["centroids"].shape == (2, 6)
    assert arrays["coordinates"].shape == (41, 3)
    assert arrays["cosines"][-1] == 0
    assert (arrays["radii"] > 0.9).all()
    assert told["metrics"]["noise_ratio"] == pytest.approx(1 / 41)
    again, info = layout(unit_rows(points), options, {k: v for k, v in arrays.items() if k.startswith("layout")}, 1)
    assert info == {"transformed": True}
    assert np.allclose(again["coordinates"], arrays["coordinates"], atol=1e-4)


def test_the_nearest_centre_is_found_if_it_is_near_enough():
    points = np.array([[1, 0], [0, 2], [-1, -1]], np.float32)
    labels, cosines = nearest(points, np.eye(2, dtype=np.float32) * 7, 0.5)
    assert labels.tolist() == [0, 1, NOISE]
    assert cosines[:2].tolist() == [1, 1]
    labels, _ = nearest(points, np.eye(2, dtype=np.float32), np.array([0.5, 1.1], np.float32))
    assert labels.tolist() == [0, NOISE, NOISE]
    assert nearest(points, np.zeros((0, 2), np.float32), None)[0].tolist() == [NOISE] * 3


# ---- files


def members(*rows):
    documents, clusters, cosines = zip(*rows, strict=True)
    ones = np.ones(len(rows))
    return artifacts.member_table(documents, ["c"] * len(rows), clusters, np.array(cosines), ones, True)


def test_members_nearest_to_the_centre_stand_for_the_cluster():
    table = members(("a", "cl_0", 0.5), ("b", "cl_0", 0.9), ("c", "cl_1", 0.1), ("d", "cl_-1", 0.0))
    found = representatives(table, 1)
    assert {ident: entry[0]["document_id"] for ident, entry in found.items()} == {"cl_0": "b", "cl_1": "c"}
    assert artifacts.counts_of(table) == {"cl_0": 2, "cl_1": 1, "cl_-1": 1}


def test_a_sample_of_points_has_every_cluster():
    clusters = ["cl_0"] * 900 + ["cl_1"] * 99 + ["cl_2"]
    rows = stratified(clusters, 50)
    assert len(rows) <= 50
    assert {clusters[row] for row in rows} == {"cl_0", "cl_1", "cl_2"}
    assert stratified(clusters, 5_000).tolist() == list(range(1_000))


def test_csv_holds_no_formulas_and_not_too_much():
    text = as_csv(pa.table({"document_id": ["=cmd()", "plain"], "n": [1, -2]}))
    assert text.splitlines() == ["document_id,n", "'=cmd(),1", "plain,-2"]
    with pytest.raises(PayloadTooLargeError, match="format=parquet"):
        as_csv(pa.table({"n": np.zeros(100_001)}))


# ---- names


def test_names_are_made_unique():
    found = [{"label": "Foxes"}, {"label": "foxes"}, {"label": "Foxes"}, {"label": "Owls"}]
    unique(found)
    assert [entry["label"] for entry in found] == ["Foxes", "foxes (2)", "Foxes (3)", "Owls"]


def test_words_that_are_everywhere_are_no_names_in_any_language():
    groups = [[f"der {animal} und der wald", f"der {animal} im tal"] for animal in ("fuchs", "wal", "bär", "dachs")]
    assert "der" in common_words(groups)
    assert "fuchs" not in common_words(groups)
    assert common_words(groups[:2]) == ()


def test_values_of_attributes_are_texts():
    rules = {"attributes": ["a.b", "c"], "aggregation_method": "most_frequent"}
    assert key_of({"a": {"b": True}, "c": ["x", "y", "y"]}, rules) == ("true", "y")
    assert key_of({"a": {"b": 3}, "c": []}, rules) == ()
    assert key_of({"a": {"b": None}, "c": "x"}, rules) == ()
    assert key_of({"a.b": 1.5, "c": ["x", "y"]}, {**rules, "aggregation_method": "last"}) == ("1.5", "y")
    assert key_of({"a": {"b": {"c": 1}}, "c": 1}, rules) == ()


# ---- configuration


def test_features_have_many_spellings():
    uri = "mixpeek://text_extractor@v1/x"
    assert stored(feature_uri=uri)["feature_uris"] == [uri]
    parts = {"feature_extractor_name": "text_extractor", "version": "v1", "output_name": "x"}
    assert stored(**parts)["feature_uris"] == [uri]
    assert stored(algorithm="kmeans", kmeans_parameters={"n_clusters": 4})["params"]["n_clusters"] == 4
    assert (
        stored(clustering_method="hdbscan", algorithm_params={"min_cluster_size": 9})["params"]["min_cluster_size"] == 9
    )
    again = stored(**stored(clustering_method="kmeans", algorithm_params={"k": 7}))
    assert again["params"]["n_clusters"] == 7


@pytest.mark.parametrize(
    "raw", [{"response_shape": "json"}, {"candidate_labels": []}, {"candidate_labels": ["x"] * 256}, {"max_samples": 0}]
)
def test_wrong_labelling_is_refused(raw):
    with pytest.raises(ValidationError):
        config.labeling(raw)


def test_what_is_not_built_in_names_what_is():
    with pytest.raises(NotEnabledError, match="hdbscan"):
        stored(clustering_method="evoc")
    with pytest.raises(NotEnabledError, match="dbscan"):
        stored(face_cluster_merge={"cosine": 0.5})
    assert stored(face_cluster_merge={"enabled": False})["clustering_method"] == "hdbscan"
