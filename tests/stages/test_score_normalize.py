"""The `score_normalize` stage."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from stage_runs import NORMALISED, ids, rows_of, run

from mediatheca.kernel.errors import ValidationError
from mediatheca.stages.score_normalize import score_normalize
from mediatheca.testing.stages import StageSuite

ROWS = rows_of(0.92, 0.90, 0.40, rating=[5, "good", None])


class TestScoreNormalize(StageSuite):
    stage = score_normalize


class TestZScore(StageSuite):
    stage = score_normalize
    parameters: ClassVar[dict[str, Any]] = {"method": "z_score", "score_field": "price"}


def scores(body):
    return [shown["score"] for shown in body["documents"]]


@pytest.mark.parametrize(("method", "expected"), NORMALISED)
def test_scores_are_overwritten_and_the_order_is_kept(method, expected):
    body = run("score_normalize", {"method": method}, ROWS)
    assert ids(body) == ["a", "b", "c"]
    assert scores(body) == pytest.approx(expected, abs=1e-6)
    first = body["documents"][0]["scores"]
    assert first == {"original_score": 0.92, "normalized": pytest.approx(expected[0], abs=1e-6)}


def test_an_output_field_leaves_the_score_alone():
    body = run("score_normalize", {"output_field": "metadata.scaled"}, ROWS)
    assert scores(body) == [0.92, 0.90, 0.40]
    assert [shown["metadata"]["scaled"] for shown in body["documents"]] == pytest.approx([1, 0.961538, 0], abs=1e-6)


def test_missing_and_other_values_become_zero():
    body = run("score_normalize", {"score_field": "rating"}, ROWS)
    assert [shown["rating"] for shown in body["documents"]] == [1.0, 0.0, 0.0]
    assert scores(body) == [0.92, 0.90, 0.40]


def test_equal_scores_and_one_document_have_a_defined_value():
    assert scores(run("score_normalize", {}, rows_of(0.3, 0.3))) == [1.0, 1.0]
    assert scores(run("score_normalize", {"method": "z_score"}, rows_of(0.3))) == [0.0]


def test_a_known_scale_keeps_bad_scores_bad():
    assert scores(run("score_normalize", {"min_value": 0, "max_value": 2}, ROWS)) == pytest.approx([0.46, 0.45, 0.2])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"method": "rank"}, "method"),
        ({"method": "l2", "min_value": 0}, "are for method min_max"),
        ({"min_value": 2, "max_value": 1}, "must be less than"),
        ({"output_field": "_internal.x"}, "cannot be written"),
        ({"output_field": "collection_id"}, "cannot be written"),
    ],
)
def test_wrong_parameters_are_refused(parameters, message):
    with pytest.raises(ValidationError, match=message) as refused:
        run("score_normalize", parameters, ROWS)
    assert refused.value.errors[0].loc[:4] == ("stages", 1, "config", "parameters")
