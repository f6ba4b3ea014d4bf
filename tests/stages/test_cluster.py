"""The `cluster` stage, its algorithms and its labels."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from stage_runs import ids, run, told

from mediatheca.kernel.cluster_labels import keywords, words
from mediatheca.kernel.errors import ValidationError
from mediatheca.stages._clustering import label
from mediatheca.stages.cluster import cluster
from mediatheca.testing.stages import TEXT_URI, StageSuite

ALGORITHMS = ["hdbscan", "kmeans", "dbscan", "agglomerative", "spectral", "gaussian_mixture", "leiden"]
TOPICS = {"whale": "the blue whale swims in the ocean", "fox": "the red fox hunts in the forest"}


def topic_rows(each: int = 12) -> list[dict[str, Any]]:
    """Documents of two topics, alternating, their vectors around two far points; the best first."""
    generator = np.random.default_rng(1)
    rows = []
    for number in range(each * 2):
        name = ("whale", "fox")[number % 2]
        centre = np.array([1.0, 0.0, 0.0, 0.0] if name == "whale" else [0.0, 1.0, 0.0, 0.0])
        vector = centre + generator.normal(scale=0.03, size=4)
        rows.append(
            {"document_id": f"{name}{number}", "score": 1 - number / 100, "text": TOPICS[name], "vector": vector}
        )
    return rows


class TestCluster(StageSuite):
    stage = cluster
    parameters: ClassVar[dict[str, Any]] = {"algorithm": "kmeans", "n_clusters": 2}


class TestLabeledCluster(StageSuite):
    stage = cluster
    parameters: ClassVar[dict[str, Any]] = {"output_mode": "labeled"}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_finds_two_far_groups_and_names_them(algorithm):
    body = run("cluster", {"algorithm": algorithm, "n_clusters": 2, "min_cluster_size": 3}, topic_rows())
    real = [shown for shown in body["documents"] if shown["cluster_id"] >= 0]
    assert body["status"] == "completed"
    assert [shown["cluster_id"] for shown in real] == [0, 1]
    for shown, name in zip(real, ("whale", "fox"), strict=True):
        assert {member["document_id"].rstrip("0123456789") for member in shown["members"]} == {name}
        assert name in shown["keywords"]
        assert name in shown["cluster_label"] or shown["cluster_label"].count(",") == 2
        assert shown["member_count"] == len(shown["members"]) >= 8
        assert len(shown["centroid"]) == 64
    assert real[0]["score"] == 1.0
    distances = [member["cluster_score"] for member in real[0]["members"]]
    assert distances == sorted(distances)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_same_vectors_always_get_the_same_labels(algorithm):
    vectors = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert label(vectors, algorithm, 4, 5).tolist() == label(vectors, algorithm, 4, 5).tolist()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_or_equal_vectors_do_no_harm(algorithm, count):
    different = np.eye(3, 8, dtype=np.float32)[:count]
    assert len(label(different, algorithm, 5, 5)) == count
    assert label(np.repeat(different[:1], 7, axis=0), algorithm, 3, 2).tolist() == [0] * 7


def test_documents_can_be_labelled_in_their_order():
    body = run("cluster", {"algorithm": "kmeans", "num_clusters": 2, "output_mode": "labeled"}, topic_rows())
    assert ids(body) == [row["document_id"] for row in topic_rows()]
    assert [shown["cluster_id"] for shown in body["documents"][:4]] == [0, 1, 0, 1]
    assert body["documents"][0]["cluster_size"] == 12


def test_each_cluster_can_be_shown_by_the_document_nearest_to_its_centre():
    body = run("cluster", {"algorithm": "kmeans", "n_clusters": 2, "output_mode": "representatives"}, topic_rows())
    assert [ident.rstrip("0123456789") for ident in ids(body)] == ["whale", "fox"]


def test_outliers_are_cluster_minus_one_and_last():
    rows = [*topic_rows(), {"document_id": "odd", "score": 0.1, "text": "odd", "vector": [0, 0, 0, 0, 1]}]
    body = run("cluster", {"min_cluster_size": 5}, rows)
    last = body["documents"][-1]
    assert (last["document_id"], last["cluster_id"], last["cluster_label"]) == ("cluster_-1", -1, "outliers")
    assert "odd" in [member["document_id"] for member in last["members"]]
    without = run("cluster", {"min_cluster_size": 5, "include_outliers": False}, rows)
    assert told(without)["outliers"] >= 1
    assert all(shown["cluster_id"] >= 0 for shown in without["documents"])


def test_members_are_cut_and_centres_left_out_where_asked():
    parameters = {"algorithm": "kmeans", "n_clusters": 2, "max_members_per_cluster": 3, "include_centroids": False}
    first = run("cluster", parameters, topic_rows())["documents"][0]
    assert (len(first["members"]), first["member_count"]) == (3, 12)
    assert "centroid" not in first


def test_documents_without_a_vector_are_in_no_cluster():
    rows = [*topic_rows(), {"document_id": "bare", "score": 0.1, "text": "bare"}]
    body = run("cluster", {"algorithm": "kmeans", "n_clusters": 2, "output_mode": "labeled"}, rows)
    assert "cluster_id" not in body["documents"][-1]
    assert told(body)["without_vector"] == 1
    none = run("cluster", {}, [{"document_id": "bare", "text": "bare"}])
    assert (ids(none), none["status"]) == (["bare"], "degraded")


def test_no_documents_give_no_clusters():
    body = run("cluster", {}, [])
    assert body["documents"] == []
    assert told(body) == {"algorithm": "hdbscan", "n_clusters": 0, "sizes": [], "outliers": 0}


def test_keywords_are_what_tells_groups_apart():
    found = keywords([["shared red red"], ["shared blue"]], 2)
    assert found == [["red", "shared"], ["blue", "shared"]]
    assert keywords([["the the cat"]], 3, {"the"}) == [["cat"]]
    assert keywords([], 3) == []
    assert keywords([[""], ["x"]], 3) == [[], []]
    assert words("Don't STOP 42 a 狐狸 лиса") == ["don't", "stop", "狐狸", "лиса"]


@pytest.mark.parametrize(
    ("parameters", "place"),
    [
        ({"algorithm": "optics"}, "algorithm"),
        ({"n_clusters": 1}, "n_clusters"),
        ({"min_cluster_size": 101}, "min_cluster_size"),
        ({"output_mode": "tree"}, "output_mode"),
        ({"max_members_per_cluster": 0}, "max_members_per_cluster"),
        ({"feature_uri": "mixpeek://no@v1/x"}, "feature_uri"),
    ],
)
def test_wrong_parameters_are_refused_at_their_place(parameters, place):
    with pytest.raises(ValidationError) as refused:
        run("cluster", {"feature_uri": TEXT_URI, **parameters}, topic_rows(1))
    assert refused.value.errors[0].loc == ("stages", 1, "config", "parameters", place)
