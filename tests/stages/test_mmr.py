"""The `mmr` stage."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from stage_runs import World, document, ids, rows_of, run, told

from mediatheca.flows.retrieve import ExecutionContext
from mediatheca.kernel.documents import VectorIndex
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.filters import parse_filter
from mediatheca.stages import CollectionView
from mediatheca.stages.mmr import mmr
from mediatheca.testing.stages import TEXT_INDEX, TEXT_URI, StageSuite

TWINS = rows_of(0.9, 0.89, 0.5, vector=[[1, 0], [1, 0.01], [0, 1]])


class TestMmr(StageSuite):
    stage = mmr


class TestMmrByFields(StageSuite):
    stage = mmr
    parameters: ClassVar[dict[str, Any]] = {"diversity_fields": ["price", "tags"], "lambda": 0.4}


def test_a_near_copy_falls_behind_what_is_different():
    body = run("mmr", {"lambda": 0.5}, TWINS)
    assert ids(body) == ["a", "c", "b"]
    scores = [shown["score"] for shown in body["documents"]]
    assert scores == sorted(scores, reverse=True)
    assert body["documents"][0]["scores"] == {"original_score": 0.9, "mmr": 0.5}
    assert told(body) == {"mode": "features", "features": [TEXT_URI], "candidates": 3, "lambda": 0.5}


def test_vectors_are_compared_under_a_constraint_too():
    context = ExecutionContext(filter=parse_filter({"shop": "north"}))
    body = run("mmr", {"lambda": 0.5}, [{**row, "shop": "north"} for row in TWINS], context=context)
    assert ids(body) == ["a", "c", "b"]
    assert "without_vector" not in told(body)


def test_relevance_alone_and_diversity_alone_are_the_ends_of_lambda():
    assert ids(run("mmr", {"lambda": 1}, TWINS)) == ["a", "b", "c"]
    assert ids(run("mmr", {"lambda": 0}, TWINS)) == ["a", "c", "b"]


def test_small_fused_scores_weigh_as_much_as_large_ones():
    small = [{**row, "score": row["score"] / 60} for row in TWINS]
    for balance in (0.2, 0.5, 0.8):
        assert ids(run("mmr", {"lambda": balance}, small)) == ids(run("mmr", {"lambda": balance}, TWINS))


def test_lambda_outside_of_its_range_is_clamped_and_said():
    body = run("mmr", {"lambda": 3}, TWINS)
    assert ids(body) == ["a", "b", "c"]
    assert "lambda 3 lies outside" in body["warnings"][0]


@pytest.mark.parametrize("name", ["lambda", "lambda_", "lambda_param"])
def test_older_spellings_are_accepted(name):
    assert ids(run("mmr", {name: 0.5, "top_n": 2}, TWINS)) == ["a", "c"]


@pytest.mark.parametrize("count", [1, 3, 500])
def test_top_k_beyond_what_there_is_gives_everything(count):
    assert len(ids(run("mmr", {"top_k": count}, TWINS))) == min(count, 3)


def test_equal_relevance_is_ordered_by_id():
    rows = rows_of(0.5, 0.5, 0.5, vector=[[1], [1], [1]])
    assert ids(run("mmr", {}, rows[::-1])) == ["a", "b", "c"]


def test_documents_without_a_vector_stay_and_are_counted():
    rows = rows_of(0.9, 0.8, 0.7, vector=[[1, 0], [1, 0], None])
    body = run("mmr", {"lambda": 0.3}, rows)
    assert ids(body) == ["a", "c", "b"]
    assert told(body)["without_vector"] == 1
    none = run("mmr", {"lambda": 0.3}, rows_of(0.7, 0.9, 0.8))
    assert ids(none) == ["b", "c", "a"]


def test_fields_with_equal_values_are_alike():
    rows = rows_of(0.9, 0.8, 0.7, 0.6, brand=["x", "x", "y", None], kind=["k", "k", "k", "k"])
    body = run("mmr", {"lambda": 0.5, "diversity_fields": ["brand"]}, rows)
    assert ids(body) == ["a", "c", "d", "b"]
    weighed = {"diversity_fields": ["brand", "kind"], "diversity_field_weights": {"brand": 0, "kind": 1}, "lambda": 0.5}
    assert ids(run("mmr", weighed, rows)) == ["a", "b", "c", "d"]


def test_several_features_are_weighted():
    features = [{"feature_uri": TEXT_URI, "weight": 0.4}, {"feature_uri": TEXT_INDEX.name, "weight": 0.1}]
    assert ids(run("mmr", {"lambda": 0.5, "diversity_features": features}, TWINS)) == ["a", "c", "b"]


def test_the_score_is_read_and_written_where_asked():
    rows = rows_of(0.1, 0.9, vector=[[1, 0], [0, 1]], extra=[0.9, None])
    body = run("mmr", {"score_field": "extra", "mmr_score_field": "metadata.mmr"}, rows)
    assert ids(body) == ["a", "b"]
    assert body["documents"][0]["metadata"] == {"mmr": pytest.approx(0.7)}
    assert any("no number in 'extra'" in warning for warning in body["warnings"])


def test_vectors_of_two_models_are_never_compared():
    world = World(TWINS)
    other = VectorIndex(TEXT_INDEX.name, TEXT_URI, 64, model="another", weights="sha256:other")
    second = CollectionView("col_2", "second", (other,), {})
    world.searcher.add(second, [document({"document_id": "z", "vector": [1, 0]}, "col_2")])
    body = world.run("mmr", {"lambda": 0.5}, views=[second])
    assert ids(body) == ["a", "b", "c"]
    assert told(body)["without_vector"] == 3


@pytest.mark.parametrize(
    ("parameters", "place"),
    [
        ({"top_k": 0}, "top_k"),
        ({"top_k": 501}, "top_k"),
        ({"lambda": "much"}, "lambda"),
        ({"similarity_metric": "manhattan"}, "similarity_metric"),
        ({"mmr_score_field": "document_id"}, "mmr_score_field"),
        ({"diversity_feature_uri": "mixpeek://nothing@v1/here"}, "diversity_feature_uri"),
        ({"diversity_features": [{"feature_uri": "mixpeek://no@v1/x"}]}, "diversity_features.0.feature_uri"),
        ({"diversity_features": [{"feature_uri": TEXT_URI, "weight": 2}]}, "diversity_features.0.weight"),
    ],
)
def test_wrong_parameters_are_refused_at_their_place(parameters, place):
    with pytest.raises(ValidationError) as refused:
        run("mmr", parameters, TWINS)
    assert ".".join(map(str, refused.value.errors[0].loc)) == f"stages.1.config.parameters.{place}"


@pytest.mark.parametrize(
    "parameters",
    [
        {"diversity_fields": ["x"], "diversity_field_weights": {"y": 1}},
        {"diversity_fields": ["x"], "diversity_field_weights": {"x": -1}},
        {"diversity_features": [{"feature_uri": TEXT_URI, "weight": 0}]},
    ],
)
def test_weights_must_fit_what_they_weigh(parameters):
    with pytest.raises(ValidationError, match="weights"):
        run("mmr", parameters, TWINS)


def test_without_a_search_the_feature_must_be_named():
    assert ids(World(TWINS, tracked=["", TEXT_URI]).run("mmr", {"lambda": 0.5})) == ["a", "c", "b"]
    world = World(TWINS, tracked=[])
    assert ids(world.run("mmr", {"lambda": 0.5})) == ["a", "c", "b"]
    with pytest.raises(ValidationError, match="diversity_feature_uri: is needed"):
        world.run("mmr", {}, views=[CollectionView("col_1", "first", (), {})])
