"""The `aggregate` and `temporal` stages, and the functions they share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage_runs import STEADY, ids, rows_of, run, told

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.statistics import correlation, histogram, percentile, variance
from mediatheca.kernel.time_windows import next_window, window_name, window_start
from mediatheca.stages.aggregate import aggregate
from mediatheca.stages.temporal import temporal
from mediatheca.testing.stages import StageSuite

ROWS = rows_of(
    *(0.9, 0.8, 0.7, 0.6),
    price=[1, 2, 3, None],
    weight=[2, 4, 6, 8],
    brand=["x", "y", "x", None],
    tags=[["p", "q"], ["p"], None, []],
    created=["2026-01-15T10:00:00Z", "2026-02-20T00:00:00Z", "2026-02-01T00:00:00Z", "2026-04-30T23:59:59Z"],
)


class TestAggregate(StageSuite):
    stage = aggregate
    parameters: ClassVar[dict[str, Any]] = {"aggregations": [{"function": "avg", "field": "price", "alias": "price"}]}


class TestAggregateWithDocuments(StageSuite):
    stage = aggregate
    parameters: ClassVar[dict[str, Any]] = {
        "aggregations": [{"function": "count", "alias": "n"}],
        "group_by": ["price"],
        "include_documents": True,
    }


class TestTemporal(StageSuite):
    stage = temporal
    parameters: ClassVar[dict[str, Any]] = {"time_field": "created_at", "window": "month", "include_documents": True}


def value(function: str, rows: Any = ROWS, **more: Any) -> Any:
    body = run("aggregate", {"aggregations": [{"function": function, "alias": "it", **more}]}, rows)
    assert body["documents"] == []
    return body["aggregations"]["results"][0]["metrics"]["it"]


@pytest.mark.parametrize(
    ("function", "more", "expected"),
    [
        ("count", {}, 4),
        ("count", {"field": "price"}, 3),
        ("count_distinct", {"field": "brand"}, 2),
        ("cardinality", {"field": "tags"}, 2),
        ("sum", {"field": "price"}, 6),
        ("avg", {"field": "price"}, 2.0),
        ("min", {"field": "price"}, 1),
        ("max", {"field": "price"}, 3),
        ("first", {"field": "brand"}, "x"),
        ("last", {"field": "brand"}, "x"),
        ("collect", {"field": "brand"}, ["x", "y", "x"]),
        ("collect_distinct", {"field": "brand"}, ["x", "y"]),
        ("percentile", {"field": "weight"}, 5.0),
        ("percentile", {"field": "weight", "percentile_value": 100}, 8.0),
        ("stddev", {"field": "price"}, 1.0),
        ("variance", {"field": "price"}, 1.0),
        ("correlation", {"field": "price", "field_b": "weight"}, pytest.approx(1.0)),
        ("correlation", {"field": "price", "field_b": "nowhere"}, None),
        ("variance", {"field": "nowhere"}, None),
        ("sum", {"field": "nowhere"}, 0),
        ("avg", {"field": "nowhere"}, None),
        ("histogram", {"field": "weight", "interval": 5}, [{"from": 0, "count": 2}, {"from": 5, "count": 2}]),
        ("max", {"field": "score"}, 0.9),
    ],
)
def test_every_function_gives_its_value(function, more, expected):
    assert value(function, **more) == expected


def test_frequencies_count_elements_and_pairs():
    assert value("frequency", field="tags") == [
        {"value": "p", "count": 2, "share": pytest.approx(2 / 3)},
        {"value": "q", "count": 1, "share": pytest.approx(1 / 3)},
    ]
    assert value("frequency", field="brand", top_k=1) == [{"value": "x", "count": 2, "share": pytest.approx(2 / 3)}]
    assert value("co_occurrence", field="brand", field_b="tags") == [
        {"values": ["x", "p"], "count": 1},
        {"values": ["x", "q"], "count": 1},
        {"values": ["y", "p"], "count": 1},
    ]


def test_groups_are_rows_sorted_and_limited():
    parameters = {
        "aggregations": [{"type": "avg", "field": "price", "name": "price"}, {"function": "count", "alias": "n"}],
        "group_by": "brand",
        "sort_by": "n",
        "limit": 2,
    }
    body = run("aggregate", parameters, ROWS)
    assert body["aggregations"] == {
        "results": [
            {"group": {"brand": "x"}, "metrics": {"price": 2.0, "n": 2}},
            {"group": {"brand": "y"}, "metrics": {"price": 2.0, "n": 1}},
        ],
        "total_groups": 3,
        "total_documents": 4,
    }
    assert told(body)["aggregations"] == body["aggregations"]
    assert "diagnostics" not in body


def test_dates_are_grouped_by_their_window():
    group = {"field": "created", "alias": "quarter", "date_trunc": "quarter"}
    body = run("aggregate", {"aggregations": [{"function": "count", "alias": "n"}], "group_by": [group]}, ROWS)
    found = {row["group"]["quarter"]: row["metrics"]["n"] for row in body["aggregations"]["results"]}
    assert found == {"2026-01-01T00:00:00Z": 3, "2026-04-01T00:00:00Z": 1}


def test_several_percentiles_in_one_entry():
    entry = {"type": "percentiles", "field": "weight", "percentiles": [50, 75], "name": "w"}
    rows = run("aggregate", {"aggregations": [entry]}, ROWS)["aggregations"]["results"]
    assert rows[0]["metrics"] == {"w_50": 5.0, "w_75": 6.5}


def test_no_documents_have_a_neutral_value():
    parameters = {
        "aggregations": [{"function": "count", "alias": "n"}, {"function": "avg", "field": "p", "alias": "a"}]
    }
    body = run("aggregate", parameters, [])
    assert body["aggregations"]["results"] == [{"group": {}, "metrics": {"n": 0, "a": None}}]
    assert run("aggregate", {**parameters, "group_by": ["p"]}, [])["aggregations"]["results"] == []


def test_documents_go_on_where_asked():
    parameters = {"aggregations": [{"function": "count", "alias": "n"}], "include_documents": True}
    assert ids(run("aggregate", parameters, ROWS)) == ["a", "b", "c", "d"]


def test_what_is_no_number_is_an_error_that_names_the_document():
    with pytest.raises(ValidationError, match=r"'brand' of document 'a' is 'x'; sum needs numbers") as refused:
        value("sum", field="brand")
    assert refused.value.errors[0].loc[-3:] == ("aggregations", 0, "field")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "aggregations: is required"),
        ({"aggregations": []}, "aggregations: is required"),
        ({"aggregations": [{"function": "mode", "alias": "x"}]}, "aggregations.0.function"),
        ({"aggregations": [{"function": "sum", "alias": "x"}]}, "field is required for sum"),
        ({"aggregations": [{"function": "correlation", "field": "x"}]}, "field_b is required"),
        ({"aggregations": [{"function": "histogram", "field": "x"}]}, "interval is required"),
        ({"aggregations": [{"function": "count", "alias": "n"}] * 2}, "two results are called 'n'"),
        ({"aggregations": [{"function": "count", "alias": "n"}], "sort_by": "m"}, "sort_by 'm' is none"),
        ({"aggregations": [{"function": "count", "alias": "b"}], "group_by": ["a.b"]}, "two results are called 'b'"),
        ({"aggregations": [{"function": "percentile", "field": "x", "percentile_value": 101}]}, "percentile_value"),
        ({"aggregations": [{"function": "count"}], "limit": 1001}, "limit"),
    ],
)
def test_wrong_aggregations_are_refused(parameters, message):
    with pytest.raises(ValidationError, match=message) as refused:
        run("aggregate", parameters, ROWS)
    assert refused.value.errors[0].loc[:4] == ("stages", 1, "config", "parameters")


@STEADY
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30), st.floats(0, 100))
def test_statistics_agree_with_numpy(numbers, percent):
    assert percentile(numbers, percent) == pytest.approx(float(np.percentile(numbers, percent)), rel=1e-9, abs=1e-6)
    assert variance(numbers) == pytest.approx(float(np.var(numbers, ddof=1)), rel=1e-6, abs=1e-6)
    assert sum(bucket["count"] for bucket in histogram(numbers, 1000.0)) == len(numbers)
    assert correlation(list(zip(numbers, numbers, strict=True))) in (None, pytest.approx(1.0))


def windows(parameters: dict[str, Any], rows: Any = ROWS) -> list[dict[str, Any]]:
    body = run("temporal", {"time_field": "created", "window": "month", **parameters}, rows)
    return body["aggregations"]["results"]


def test_windows_come_in_order_with_their_change():
    assert [(row["window"][:7], row["metrics"], row["change_percent"]) for row in windows({})] == [
        ("2026-01", {"count": 1}, {"count": None}),
        ("2026-02", {"count": 2}, {"count": 100.0}),
        ("2026-04", {"count": 1}, {"count": -50.0}),
    ]
    assert [row["window"][:7] for row in windows({"sort_order": "desc", "limit": 1})] == ["2026-04"]


def test_empty_windows_can_be_filled_and_a_change_from_nothing_is_null():
    rows = windows({"fill_empty": True, "aggregations": [{"function": "sum", "field": "price", "alias": "sales"}]})
    assert [row["metrics"]["sales"] for row in rows] == [1, 5, 0, 0]
    assert [row["change_percent"]["sales"] for row in rows] == [None, 400.0, -100.0, None]


def test_drift_is_flagged_from_its_threshold_on():
    parameters = {
        "time_field": "created",
        "window": "quarter",
        "aggregations": [{"function": "avg", "field": "weight", "alias": "w"}],
        "drift": {"enabled": True, "metric": "w", "threshold": 50},
    }
    made = run("temporal", parameters, ROWS)["aggregations"]
    assert made["drift"] == [{"window": "2026-04-01T00:00:00Z", "metric": "w", "change_percent": 100.0}]
    assert [row["drift"] for row in made["results"]] == [False, True]


def test_a_day_begins_where_the_time_zone_says():
    rows = rows_of(0.9, 0.8, at=["2026-03-28T23:30:00Z", "2026-03-29T22:30:00Z"])
    found = windows({"time_field": "at", "window": "day", "timezone": "Europe/Zurich", "fill_empty": True}, rows)
    assert [row["window"] for row in found] == ["2026-03-29T00:00:00+01:00", "2026-03-30T00:00:00+02:00"]


def test_documents_without_a_time_are_counted_and_left_out():
    rows = rows_of(0.9, 0.8, 0.7, 0.6, created=["2026-01-01", "soon", None, 7])
    made = run("temporal", {"time_field": "created", "window": "year"}, rows)["aggregations"]
    assert (made["total_documents"], made["without_time"]) == (1, 3)
    assert made["results"][0]["window"] == "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"window": "day"}, "time_field: is required"),
        ({"time_field": "t"}, "window: is required"),
        ({"time_field": "t", "window": "decade"}, "window"),
        ({"time_field": "t", "window": "day", "timezone": "Mars/Base"}, "is not a time zone"),
        ({"time_field": "t", "window": "day", "timezone": "../../etc/passwd"}, "is not a time zone"),
        ({"time_field": "t", "window": "day", "aggregations": []}, "aggregations"),
        ({"time_field": "t", "window": "day", "aggregations": [{"function": "stddev", "field": "x"}]}, "not available"),
        ({"time_field": "t", "window": "day", "drift": {"enabled": True, "metric": "x"}}, "drift.metric 'x'"),
    ],
)
def test_wrong_windows_are_refused(parameters, message):
    with pytest.raises(ValidationError, match=message):
        run("temporal", parameters, ROWS)


@STEADY
@given(
    st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)),
    st.sampled_from(["year", "quarter", "month", "week", "day", "hour", "minute", "second"]),
    st.sampled_from(["UTC", "Europe/Zurich", "America/New_York"]),
)
def test_windows_follow_each_other_without_gaps(moment, unit, zone):
    at = moment.replace(tzinfo=UTC).astimezone(ZoneInfo(zone))
    start = window_start(at, unit)
    after = next_window(start, unit)
    assert start.timestamp() <= at.timestamp() < after.timestamp()
    assert window_start(after, unit).timestamp() == after.timestamp()
    assert datetime.fromisoformat(window_name(start)).timestamp() == pytest.approx(start.timestamp(), abs=1)
