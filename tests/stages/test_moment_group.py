"""The `moment_group` stage."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage_runs import STEADY, ids, rows_of, run, told

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.moments import Span, in_seconds, merge
from mediatheca.stages.moment_group import moment_group
from mediatheca.testing.stages import StageSuite

FRAMES = rows_of(
    *(0.9, 0.8, 0.7, 0.6, 0.5),
    object=["v1", "v1", "v2", "v1", "v2"],
    start_ms=[10_000, 1_000, 5_000, 2_500, None],
    end_ms=[12_000, 2_000, 6_000, 4_000, None],
)


class TestMomentGroup(StageSuite):
    stage = moment_group


class TestMomentsOnly(StageSuite):
    stage = moment_group
    parameters: ClassVar[dict[str, Any]] = {"output_mode": "moments_only", "time_field": "price"}


def test_ranges_that_lie_close_are_one_moment():
    body = run("moment_group", {}, FRAMES)
    assert ids(body) == ["a", "c"]
    assert body["documents"][0]["moments"] == [
        {
            "start_ms": 10_000,
            "end_ms": 12_000,
            "duration_ms": 2_000,
            "score": 0.9,
            "match_count": 1,
            "document_ids": ["a"],
        },
        {
            "start_ms": 1_000,
            "end_ms": 4_000,
            "duration_ms": 3_000,
            "score": 0.8,
            "match_count": 2,
            "document_ids": ["b", "d"],
        },
    ]
    assert told(body) == {"parents": 2, "moments": 3, "time_field": "start_ms", "without_time": 1}
    assert "1 documents have no time" in body["warnings"][0]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"merge_tolerance_ms": 0}, [0.9, 0.8, 0.6]),
        ({"merge_tolerance_ms": 60_000}, [0.9]),
        ({"score_strategy": "sum"}, [0.8 + 0.6, 0.9]),
        ({"score_strategy": "avg"}, [0.9, 0.7]),
        ({"max_moments_per_parent": 1}, [0.9]),
        ({"min_score": 0.85}, [0.9]),
        ({"min_score": 5}, []),
    ],
)
def test_merging_scoring_and_cutting(parameters, expected):
    found = run("moment_group", parameters, FRAMES)["documents"]
    first = next(shown for shown in found if shown["source_object_id"] == "v1")
    assert [moment["score"] for moment in first["moments"]] == pytest.approx(expected)


def test_moments_can_be_documents_of_their_own():
    body = run("moment_group", {"output_mode": "moments_only"}, FRAMES)
    assert ids(body) == ["moment_v1_10000_12000", "moment_v1_1000_4000", "moment_v2_5000_6000"]
    assert [shown["score"] for shown in body["documents"]] == [0.9, 0.8, 0.7]
    assert body["documents"][1]["document_ids"] == ["b", "d"]
    assert body["documents"][1]["_internal"]["_ref"]["document_id"] == "b"


def test_chunks_of_the_query_are_matches_of_their_own():
    chunks = [{"start_ms": 0, "end_ms": 1000, "score": 0.4}, {"start_ms": 9000, "end_ms": 9500, "score": 0.95}]
    body = run("moment_group", {}, rows_of(0.5, object=["v"], query_chunks=[chunks]))
    assert [(m["start_ms"], m["score"]) for m in body["documents"][0]["moments"]] == [(9000, 0.95), (0, 0.4)]


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"start_time": [1.5, 2.5]}, "start_time"),
        ({"start_time": [10, 20], "end_time": [15, 25]}, "start_time"),
        ({"metadata": [{"start_seconds": 1, "end_seconds": 2}, {"start_seconds": 3, "end_seconds": 4}]}, None),
    ],
)
def test_seconds_are_recognised(fields, path):
    body = run("moment_group", {"merge_tolerance_ms": 0}, rows_of(0.9, 0.8, object=["v", "v"], **fields))
    starts = sorted(moment["start_ms"] for moment in body["documents"][0]["moments"])
    assert starts[0] in (1500, 10_000, 1000)
    assert told(body)["time_field"] == (path or "metadata.start_seconds")


def test_the_unit_can_be_said():
    rows = rows_of(0.9, object=["v"], start_time=[10], end_time=[20])
    for unit, start in (("ms", 10), ("s", 10_000)):
        moments = run("moment_group", {"time_unit": unit}, rows)["documents"][0]["moments"]
        assert moments[0]["start_ms"] == start


def test_documents_without_a_parent_stay_apart():
    assert ids(run("moment_group", {"parent_field": "nowhere"}, FRAMES)) == ["a", "b", "c", "d", "e"]


@STEADY
@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 20)), max_size=20), st.integers(0, 10))
def test_moments_lie_apart_and_lose_no_match(pairs, tolerance):
    spans = [Span(start, start + length, 1.0, str(place)) for place, (start, length) in enumerate(pairs)]
    moments = merge(spans, tolerance)
    assert sum(len(moment.scores) for moment in moments) == len(spans)
    for earlier, later in pairwise(moments):
        assert later.start_ms > earlier.end_ms + tolerance


def test_units_by_name_and_size():
    assert in_seconds("a.start_s", [(1e6, 2e6)])
    assert not in_seconds("start_ms", [(0.5, 1)])
    assert in_seconds("start", [(0, 8), (8, 16)])
    assert not in_seconds("start", [(0, 8000), (8000, 16_000)])
    assert in_seconds("frame", [(1, 1), (2, 2)])
    assert not in_seconds("frame", [(1000, 1000), (2000, 2000)])


@pytest.mark.parametrize(
    ("parameters", "place"),
    [
        ({"merge_tolerance_ms": 60_001}, "merge_tolerance_ms"),
        ({"max_moments_per_parent": 0}, "max_moments_per_parent"),
        ({"score_strategy": "best"}, "score_strategy"),
        ({"output_mode": "list"}, "output_mode"),
    ],
)
def test_wrong_parameters_are_refused_at_their_place(parameters, place):
    with pytest.raises(ValidationError) as refused:
        run("moment_group", parameters, FRAMES)
    assert refused.value.errors[0].loc == ("stages", 1, "config", "parameters", place)
