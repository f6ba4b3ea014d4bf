"""JSON Schemas that callers write."""

from __future__ import annotations

import pytest

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.json_schema import check_schema, nesting, problems

DEEP: dict = {"type": "object"}
for _ in range(40):
    DEEP = {"type": "object", "properties": {"x": DEEP}}


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ([], "must be a JSON Schema object"),
        ({}, "must be a JSON Schema object"),
        ({"type": "nope"}, "is no JSON Schema"),
        ({"pattern": "(?=look)"}, "is no JSON Schema"),
        ({"$ref": "http://127.0.0.1:9/x"}, "outside of the schema"),
        ({"$ref": "file:///etc/passwd"}, "outside of the schema"),
        ({"description": "x" * 70_000}, "at most 65,536"),
        (DEEP, "deeper than 32"),
    ],
)
def test_what_is_no_schema_is_refused_at_its_place(schema, message):
    with pytest.raises(ValidationError, match=message) as raised:
        check_schema(schema, "output_schema")
    assert raised.value.errors[0].loc == ("output_schema",)


def test_problems_name_their_places_and_end_at_five():
    schema = {"type": "object", "properties": {"a": {"items": {"type": "integer"}}}, "required": ["b"]}
    check_schema(schema, "x")
    assert problems(schema, {"a": [1], "b": 1}) == []
    found = problems(schema, {"a": ["x"] * 20})
    assert len(found) == 5
    assert any(entry.startswith("a.0: ") for entry in found)


def test_references_in_a_circle_and_patterns_that_explode_do_no_harm():
    circle = {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}]}, "b": {"$ref": "#/$defs/a"}}}
    check_schema(circle, "x")
    problems(circle, {"x": 1})
    assert problems({"type": "string", "pattern": "^(a+)+$"}, "a" * 100_000 + "b")


def test_nesting_counts_levels_up_to_its_limit():
    assert nesting(1, 5) == 1
    assert nesting({"a": [1]}, 5) == 3
    deep: list = []
    for _ in range(100):
        deep = [deep]
    assert nesting(deep, 5) == 6
