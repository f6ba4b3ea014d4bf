"""Inputs: declared in two forms, coerced where nothing is lost, refused by name."""

from __future__ import annotations

import pytest

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.inputs import InputField, coerce, parse_input_schema


def test_both_forms_of_the_schema_mean_the_same():
    flat = parse_input_schema({"query": {"type": "string", "required": True}, "n": {"type": "integer", "default": 3}})
    wrapped = parse_input_schema(
        {
            "type": "object",
            "properties": {"query": {"type": "string"}, "n": {"type": "integer", "default": 3}},
            "required": ["query"],
        }
    )
    assert flat == wrapped
    assert parse_input_schema(None).fields == {}


def test_an_input_called_properties_is_not_a_wrapper():
    schema = parse_input_schema({"properties": {"type": "string"}, "query": {"type": "string"}})
    assert set(schema.fields) == {"properties", "query"}


def test_every_wrong_field_of_a_schema_is_named_with_a_suggestion():
    with pytest.raises(ValidationError) as caught:
        parse_input_schema({"a": {"type": "strng"}, "b": {}, "c": {"type": "integer", "default": "many"}})
    assert "did you mean 'string'" in caught.value.message
    assert [error.loc for error in caught.value.errors] == [
        ("input_schema", "a", "type"),
        ("input_schema", "b", "type"),
        ("input_schema", "c", "default"),
    ]


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        ("string", 5, "5"),
        ("text", "x" * 100_000, "x" * 100_000),
        ("integer", "5", 5),
        ("integer", 5.0, 5),
        ("number", "1.5", 1.5),
        ("float", 2, 2),
        ("boolean", "True", True),
        ("boolean", 0, False),
        ("array", "one", ["one"]),
        ("object", {"a": 1}, {"a": 1}),
        ("date", "2026-01-31", "2026-01-31"),
        ("datetime", "2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"),
        ("image", {"url": "https://x/y.jpg"}, "https://x/y.jpg"),
        ("video", "s3://b/k", "s3://b/k"),
        ("document_reference", {"collection_id": "c", "document_id": "d"}, {"collection_id": "c", "document_id": "d"}),
    ],
)
def test_values_are_coerced_where_nothing_is_lost(kind, given, expected):
    assert coerce(given, InputField(kind)) == expected


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("string", ["a"]),
        ("string", True),
        ("integer", 5.5),
        ("integer", True),
        ("integer", "five"),
        ("integer", "9" * 5000),
        ("integer", 10**30),
        ("integer", 1e30),
        ("integer", "9" * 25),
        ("number", "inf"),
        ("number", float("nan")),
        ("boolean", "maybe"),
        ("array", {"a": 1}),
        ("object", []),
        ("date", "31.1.2026"),
        ("datetime", "noon"),
        ("image", ""),
        ("image", {"url": "a", "base64": "b"}),
        ("document_reference", {"collection_id": "c"}),
    ],
)
def test_other_values_are_refused_and_shown(kind, given):
    with pytest.raises(ValueError, match=r"must be .*, got"):
        coerce(given, InputField(kind))


def test_items_and_properties_are_checked_too():
    schema = parse_input_schema(
        {
            "ids": {"type": "array", "items": {"type": "integer"}},
            "o": {"type": "object", "properties": {"n": "integer"}},
        }
    )
    assert schema.check({"ids": ["1", 2], "o": {"n": "3", "x": 4}}).values == {"ids": [1, 2], "o": {"n": 3, "x": 4}}
    with pytest.raises(ValidationError, match=r"inputs\.ids"):
        schema.check({"ids": ["x"]})


def test_missing_and_wrong_inputs_are_all_named():
    schema = parse_input_schema({"q": {"type": "string", "required": True}, "n": {"type": "integer", "enum": [1, 2]}})
    with pytest.raises(ValidationError) as caught:
        schema.check({"n": 3})
    assert {error.loc for error in caught.value.errors} == {("inputs", "q"), ("inputs", "n")}


def test_a_null_is_not_given_and_defaults_are_reported():
    schema = parse_input_schema({"n": {"type": "integer", "default": "7"}, "q": {"type": "string"}})
    report = schema.check({"n": None, "q": None, "x": 1}, {"n", "q"})
    assert report.values == {"n": 7, "x": 1}
    assert report.inferred == {"n": 7}
    assert report.provided == ["n", "q", "x"]
    assert report.ignored == ["x"]


@pytest.mark.parametrize(
    "schema",
    [{"query": {"type": "string", "required": True}}, {"query": {"type": "text"}, "n": {"type": "integer"}}, None],
)
def test_one_text_under_another_name_is_taken_for_the_one_that_is_missing(schema):
    report = parse_input_schema(schema).check({"query_text": "fox"}, {"query"})
    assert report.values["query"] == "fox"
    assert report.inferred == {"query": "fox"}
    assert report.ignored == []
    assert "query_text" in report.warnings[0]


@pytest.mark.parametrize("given", [{"a": "x", "b": "y"}, {"a": 5}, {}, {"query": "there", "a": "x"}])
def test_nothing_is_guessed_when_it_is_not_clear(given):
    report = parse_input_schema({"query": {"type": "string"}}).check(given, {"query"})
    assert report.warnings == []
    assert report.values.get("query") == given.get("query")
