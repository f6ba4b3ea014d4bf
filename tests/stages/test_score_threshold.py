"""The `score_threshold` stage."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from stage_runs import ids, rows_of, run, told

from mediatheca.kernel.errors import ValidationError
from mediatheca.stages.score_threshold import score_threshold
from mediatheca.testing.stages import StageSuite

ROWS = rows_of(0.9, 0.5, 0.2, rating=[None, 4, "high"])


class TestScoreThreshold(StageSuite):
    stage = score_threshold
    parameters: ClassVar[dict[str, Any]] = {"min_score": 0.2}


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"min_score": 0.5}, ["a", "b"]),
        ({"min_score": 0.5, "comparison": "gt"}, ["a"]),
        ({"threshold": "0.5"}, ["a", "b"]),
        ({"min_score": -5}, ["a", "b", "c"]),
        ({"min_score": 3, "score_field": "rating"}, ["b"]),
        ({"min_score": 3, "score_field": "rating", "missing_score": "keep"}, ["a", "b", "c"]),
        ({"min_score": 0, "score_field": "nowhere"}, []),
    ],
)
def test_documents_below_the_bar_are_dropped_in_their_order(parameters, expected):
    assert ids(run("score_threshold", parameters, ROWS)) == expected


def test_it_says_when_nothing_was_good_enough():
    body = run("score_threshold", {"min_score": 2}, ROWS)
    assert (ids(body), body["status"]) == ([], "completed")
    assert told(body) == {
        "min_score": 2.0,
        "top_score": 0.9,
        "missing_score": 0,
        "dropped": 3,
        "all_below_threshold": True,
    }
    assert told(run("score_threshold", {"min_score": 0.9}, ROWS))["all_below_threshold"] is False
    assert told(run("score_threshold", {"min_score": 0.5}, []))["all_below_threshold"] is False


def test_a_threshold_on_rank_fusion_is_warned_about():
    rows = [{"document_id": "a", "score": 0.03, "scores": {"rrf": 0.03}}]
    assert "tell ranks" in run("score_threshold", {"min_score": 0.5}, rows)["warnings"][0]
    assert run("score_threshold", {"min_score": 0.5, "score_field": "scores.rrf"}, rows)["warnings"] == []


def test_the_older_name_and_templates_work():
    parameters = {"min_score": "{{INPUT.bar}}"}
    assert ids(run("score_filter", parameters, ROWS, inputs={"bar": 0.5})) == ["a", "b"]
    with pytest.raises(ValidationError, match="min_score: is required"):
        run("score_filter", parameters, ROWS)


@pytest.mark.parametrize(
    ("parameters", "place"),
    [
        ({}, "min_score"),
        ({"min_score": "high"}, "min_score"),
        ({"min_score": float("nan")}, "min_score"),
        ({"min_score": 1, "comparison": "lt"}, "comparison"),
        ({"min_score": 1, "score_field": ""}, "score_field"),
    ],
)
def test_wrong_parameters_are_refused_at_their_place(parameters, place):
    with pytest.raises(ValidationError) as refused:
        run("score_threshold", parameters, ROWS)
    assert refused.value.errors[0].loc == ("stages", 1, "config", "parameters", place)
