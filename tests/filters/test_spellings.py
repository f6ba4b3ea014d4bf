"""Every spelling of the wire, the limits, and errors that name the place."""

from __future__ import annotations

from typing import Any

import pytest
from filter_strategies import leaves, trees
from hypothesis import given, settings

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.filters import MAX_DEPTH, MAX_ITEMS, MAX_LEAVES, And, Leaf, Not, Or, parse_filter, to_wire

A, B, C = Leaf("a", "eq", 1), Leaf("b", "gte", 2), Leaf("c", "in", ("x", "y"))
A_RAW = {"field": "a", "operator": "eq", "value": 1}


@pytest.mark.parametrize(
    ("raw", "parsed"),
    [
        (None, None), ({}, None), ([], None), ({"AND": []}, None), ({"OR": []}, None), ({"NOT": []}, None),
        ({"AND": [{}]}, None), ({"OR": [{}, A_RAW]}, None), ({"NOT": {}}, None),
        (A_RAW, A), ({"field": "a", "value": 1}, A), ([A_RAW], A), ({"AND": [A_RAW]}, A), ({"and": A_RAW}, A),
        ({"a": 1}, A), ({"a": 1, "b": {"gte": 2}}, And((A, B))), ({"b": {"$gte": 2}}, B), ({"b": {">=": 2}}, B),
        ({"c": ["x", "y"]}, C), ({"c": {"$in": ["x", "y"]}}, C), ({"field": "c", "value": ["x", "y"]}, C),
        ({"OR": [A_RAW, {"b": {"gte": 2}}]}, Or((A, B))), ({"$or": [{"a": 1}, {"b": {"$gte": 2}}]}, Or((A, B))),
        ({"NOT": A_RAW}, Not(A)), ({"not": [A_RAW]}, Not(A)),
        ({"$nor": [{"a": 1}, {"b": {"gte": 2}}]}, Not(Or((A, B)))),
        ({"AND": [A_RAW], "b": {"gte": 2}}, And((A, B))),
        ({"operator": "and", "conditions": [A_RAW, {"b": {"gte": 2}}]}, And((A, B))),
        ({"operator": "OR", "conditions": [A_RAW, {"b": {"gte": 2}}]}, Or((A, B))), ({"conditions": A_RAW}, A),
        ({"must": [{"key": "a", "match": {"operator": "eq", "value": 1}}]}, A),
        ({"must": [{"key": "a", "match": {"value": 1}}]}, A),
        ({"should": [{"key": "c", "match": {"any": ["x", "y"]}}]}, C),
        ({"must_not": [{"key": "b", "range": {"gte": 2, "lt": None}}]}, Not(B)),
        ({"must": [{"is_empty": {"key": "a"}}]}, Leaf("a", "is_null", True)),
        ({"field": "a", "operator": "exists"}, Leaf("a", "exists", True)), ({"a": None}, Leaf("a", "eq", None)),
        ({"items[].sku": "x"}, Leaf("items.sku", "eq", "x")), ({"key": "v"}, Leaf("key", "eq", "v")),
        ({"a": "X", "case_sensitive": True}, Leaf("a", "eq", "X", True)),
        ({"AND": [{"a": "X"}], "case_sensitive": True}, Leaf("a", "eq", "X", True)),
        ({"AND": [{"field": "a", "value": "X", "case_sensitive": False}], "case_sensitive": True},
         Leaf("a", "eq", "X")),
        ({"field": "a", "operator": "exists", "value": "false"}, Leaf("a", "exists", False)),
        ({"a": {"in": 5}}, Leaf("a", "in", (5,))),
        ({"field": "p", "operator": "geo_radius", "value": {"center": {"lat": 1, "lng": 2}, "radius": 5}},
         Leaf("p", "geo_radius", {"lat": 1.0, "lon": 2.0, "radius_m": 5.0})),
    ],
)  # fmt: skip
def test_a_spelling_is_understood(raw: Any, parsed: Any) -> None:
    assert parse_filter(raw) == parsed


@pytest.mark.parametrize(
    ("raw", "place", "word"),
    [
        ("x", "filters", "object"), (5, "filters", "object"), ({"AND": ["x"]}, "filters.AND.0", "object"),
        ({"AND": [A_RAW, {"field": "a", "operator": "near", "value": 1}]}, "filters.AND.1.operator", "near"),
        ({"a": {"near": 1}}, "filters.a.near", "operator"), ({"a": {}}, "filters.a", "value"),
        ({"field": "a", "operator": "gt", "value": True}, "filters.value", "bool"),
        ({"a": {"gt": None}}, "filters.a.gt", "number"), ({"a": {"gt": [1]}}, "filters.a.gt", "list"),
        ({"field": "a"}, "filters.value", "required"), ({"field": "", "value": 1}, "filters.value", "path"),
        ({"field": 5, "value": 1}, "filters.field", "path"), ({"a": {"eq": {"b": 1}}}, "filters.a.eq", "dict"),
        ({"field": "a", "value": {"type": "dynamic", "field": "inputs.x"}}, "filters.value", "inputs.x"),
        ({"a": float("nan")}, "filters.a", "nan"), ({"a": {"lt": float("inf")}}, "filters.a.lt", "inf"),
        ({"a": {"regex": "("}}, "filters.a.regex", "RE2"), ({"a": {"text": 5}}, "filters.a.text", "string"),
        ({"a": "\ud800"}, "filters.a", "Unicode"), ({"a\ud800": 1}, "filters", "path"),
        ({"x" * 513: 1}, "filters", "512"),
        ({"a": {"exists": "yes"}}, "filters.a.exists", "true or false"), ({5: 1}, "filters.5", "strings"),
        ({"a": 1, "case_sensitive": "no"}, "filters.case_sensitive", "true or false"),
        ({"operator": "xor", "conditions": []}, "filters.operator", "and, or, not"),
        ({"a": {"in": [1, {}]}}, "filters.a.in.1", "dict"),
        ({"a": {"geo_radius": {"lat": 1}}}, "filters.a.geo_radius", "radius_m"),
        ({"a": {"geo_bounding_box": {"top_left": {"lat": 1, "lon": 1}}}}, "filters.a.geo_bounding_box", "bottom_right"),
        ({"a": {"geo_polygon": [{"lat": 1, "lon": 1}] * 2}}, "filters.a.geo_polygon", "points"),
        ({"a": {"geo_radius": {"lat": 91, "lon": 0, "radius_m": 1}}}, "filters.a.geo_radius", "degrees"),
    ],
)  # fmt: skip
def test_an_error_names_the_place_and_what_is_wrong(raw: Any, place: str, word: str) -> None:
    with pytest.raises(ValidationError) as caught:
        parse_filter(raw)
    [error] = caught.value.errors
    assert ".".join(map(str, error.loc)).startswith(place)
    assert word in error.msg


def test_another_root_is_named_in_errors() -> None:
    with pytest.raises(ValidationError, match=r"stages\.0\.pre_filters\.a\.gt"):
        parse_filter({"a": {"gt": True}}, path="stages.0.pre_filters")


def _nested(levels: int, name: str = "AND") -> Any:
    raw: Any = A_RAW
    for _ in range(levels):
        raw = {name: [raw]}
    return raw


def test_ten_levels_are_accepted_and_eleven_refused() -> None:
    assert parse_filter(_nested(MAX_DEPTH - 1)) == A
    for raw in (_nested(MAX_DEPTH), _nested(5000, "NOT")):
        with pytest.raises(ValidationError, match="deeper than 10"):
            parse_filter(raw)
    hostile: Any = []
    for _ in range(5000):
        hostile = [hostile]
    with pytest.raises(ValidationError, match="deeper than 10"):
        parse_filter(hostile)


def test_two_hundred_conditions_and_a_thousand_items_are_the_limit() -> None:
    assert parse_filter({"OR": [{"a": n} for n in range(MAX_LEAVES)]}) is not None
    with pytest.raises(ValidationError, match="at most 200"):
        parse_filter({"OR": [{"a": n} for n in range(MAX_LEAVES + 1)]})
    assert parse_filter({"a": list(range(MAX_ITEMS))}) is not None
    with pytest.raises(ValidationError, match="at most 1,000"):
        parse_filter({"a": list(range(MAX_ITEMS + 1))})


@given(trees(leaves))
@settings(max_examples=200, derandomize=True, database=None, deadline=None)
def test_the_canonical_spelling_reads_back_the_same(raw: dict[str, Any]) -> None:
    parsed = parse_filter(raw)
    assert parsed is not None
    assert parse_filter(to_wire(parsed)) == parsed
