"""Every built-in stage passes the public contract suite, and does what its page says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import pytest

from mediatheca.kernel.errors import ValidationError
from mediatheca.stages import Stage
from mediatheca.stages.attribute_filter import attribute_filter
from mediatheca.stages.feature_search import feature_search
from mediatheca.stages.limit import limit
from mediatheca.stages.sort_attribute import sort_attribute
from mediatheca.stages.sort_relevance import sort_relevance
from mediatheca.testing.stages import TEXT_URI, StageSuite


class TestFeatureSearch(StageSuite):
    stage = feature_search
    parameters: ClassVar[dict[str, Any]] = {"searches": [{"feature_uri": TEXT_URI, "query": "red fox"}]}


class TestFusedSearch(StageSuite):
    stage = feature_search
    parameters: ClassVar[dict[str, Any]] = {
        "searches": [{"feature_uri": TEXT_URI, "query": "red"}, {"query": "fox", "lexical": True}]
    }


class TestGroupedSearch(StageSuite):
    stage = feature_search
    parameters: ClassVar[dict[str, Any]] = {
        "searches": [{"feature_uri": TEXT_URI, "query": "red fox"}],
        "group_by": {"field": "price"},
        "facets": ["price", "tags"],
    }


class TestAttributeFilter(StageSuite):
    stage = attribute_filter
    parameters: ClassVar[dict[str, Any]] = {"field": "price", "operator": "gte", "value": 2}


class TestSortAttribute(StageSuite):
    stage = sort_attribute
    parameters: ClassVar[dict[str, Any]] = {"field": "price", "direction": "asc"}


class TestSortRelevance(StageSuite):
    stage = sort_relevance


class TestLimit(StageSuite):
    stage = limit
    parameters: ClassVar[dict[str, Any]] = {"limit": 2}


def suite_of(stage: Stage, parameters: dict[str, Any]) -> StageSuite:
    suite = StageSuite()
    suite.stage, suite.parameters = stage, parameters
    return suite


def after(stage: Stage, parameters: dict[str, Any]) -> list[str]:
    """Document ids that a stage leaves of a search for `red fox`."""
    return [document["document_id"] for document in suite_of(stage, parameters).run(StageSuite.rows)["documents"]]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"limit": 2}, ["a", "b"]),
        ({"limit": 2, "offset": 3}, ["d"]),
        ({"limit": 10_000, "offset": 10_000}, []),
    ],
)
def test_limit_cuts_and_never_fails(parameters, expected):
    assert after(limit, parameters) == expected


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"field": "price", "direction": "asc"}, ["b", "a", "c", "d"]),
        ({"field": "price"}, ["a", "b", "c", "d"]),
        ({"sort_field": "price", "order": "asc", "null_handling": "first"}, ["c", "d", "b", "a"]),
        (
            {"sort": [{"field": "text", "direction": "asc"}, {"field": "price", "direction": "asc"}]},
            ["d", "b", "a", "c"],
        ),
        ({"field": "created_at"}, ["a", "b", "c", "d"]),
        ({"field": "nowhere.at.all"}, ["a", "b", "c", "d"]),
        ({}, ["a", "b", "c", "d"]),
    ],
)
def test_sort_attribute_orders_by_value_and_keeps_the_rest(parameters, expected):
    assert after(sort_attribute, parameters) == expected


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, ["a", "b", "c", "d"]),
        ({"direction": "asc"}, ["d", "c", "a", "b"]),
        ({"score_field": "price"}, ["a", "b", "c", "d"]),
        ({"score_field": "price", "missing_score": "top", "order": "asc"}, ["c", "d", "b", "a"]),
        ({"score_field": "price", "missing_score": "preserve", "order": "asc"}, ["b", "a", "c", "d"]),
        ({"score_field": "text"}, ["a", "b", "c", "d"]),
        ({"normalize": True}, ["a", "b", "c", "d"]),
    ],
)
def test_sort_relevance_orders_by_a_score_wherever_it_is(parameters, expected):
    assert after(sort_relevance, parameters) == expected


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"field": "price", "operator": "gte", "value": 2}, ["a"]),
        ({"AND": [{"field": "price", "operator": "exists", "value": True}]}, ["a", "b"]),
        ({"conditions": {"field": "price", "operator": "is_null"}}, ["c", "d"]),
        ({"conditions": {"NOT": [{"price": 3}, {"price": 1}]}}, ["c", "d"]),
        ({"field": "text", "value": "RED FOX"}, []),
        ({"field": "text", "value": "RED FOX", "case_insensitive": True}, ["a", "b"]),
        ({"field": "price", "operator": "gt", "value": "many"}, []),
        ({"price": 3}, ["a"]),
        ({"filters": {"tags": "x"}}, ["c"]),
    ],
)
def test_attribute_filter_takes_every_spelling(parameters, expected):
    assert after(attribute_filter, parameters) == expected


def test_attribute_filter_compares_fields_of_a_document_with_each_other():
    class Searched(StageSuite):
        stage = replace(attribute_filter, starts=False)
        parameters: ClassVar[dict[str, Any]] = {"field": "price", "value": "{{DOC.cap}}"}

    rows = [{"document_id": name, "text": "red", "price": 3, "cap": cap} for name, cap in (("a", 3), ("b", 4))]
    assert [document["document_id"] for document in Searched().run(rows)["documents"]] == ["a"]
    with pytest.raises(ValidationError, match="DOC is not known before"):
        suite_of(attribute_filter, Searched.parameters).run(rows)


def test_attribute_filter_lists_at_most_a_thousand_of_a_collection_and_says_so():
    rows = [{"document_id": f"d{n:04}", "text": "red", "price": n % 2} for n in range(2100)]
    body = suite_of(attribute_filter, {"field": "price", "value": 1}).run(rows)
    assert body["pagination"]["total"] == 1000
    assert body["limits"] == [
        {"name": "scroll", "requested": 1050, "applied": 1000, "ceiling": 1000, "stage": "under test"}
    ]
