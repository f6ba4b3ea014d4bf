"""What each operator means, stated case by case; the engines are held to it by test_engines_agree."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime
from typing import Any

import pytest

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.filter_values import fold_shadow, spelled, spellings
from mediatheca.kernel.filters import And, Leaf, Not, Or, all_of, document_view, fields_of, parse_filter

DOC: dict[str, Any] = {
    "title": "Die Straße", "price": 19.5, "year": 2024, "code": "007", "digits": "42", "live": True, "none": None,
    "empty": [], "tags": ["Red", "blue", 7, None], "owner": {"name": "Ann", "age": 30},
    "items": [{"sku": "A1", "qty": 2}, {"sku": "b2", "qty": 9}], "matrix": [[1, 2], [3]],
    "at": "2024-05-01T12:00:00+02:00", "day": "2024-05-01", "spot": {"lat": 52.5, "lon": 13.4},
    "text": "She was drinking green tea, slowly.", "big": 2**60 + 1, "blank": "",
}  # fmt: skip


@pytest.mark.parametrize(
    ("field", "operator", "value"),
    [
        ("title", "eq", "die STRASSE"), ("price", "eq", 19.5), ("year", "eq", 2024.0), ("year", "eq", "2024"),
        ("digits", "eq", 42), ("code", "eq", "007"), ("live", "eq", True), ("tags", "eq", "RED"), ("tags", "eq", 7),
        ("none", "eq", None), ("missing", "eq", None), ("empty", "eq", None), ("owner.name", "eq", "ann"),
        ("items.sku", "eq", "B2"), ("at", "eq", "2024-05-01T10:00:00Z"), ("day", "eq", "2024-05-01T00:00:00"),
        ("missing", "ne", "x"), ("tags", "ne", "green"), ("year", "in", [1, "2024"]), ("year", "in", 2024),
        ("missing", "nin", ["x"]), ("missing", "in", [1, None]), ("tags", "nin", ["green", 8]),
        ("price", "gt", 19), ("price", "lte", 19.5), ("items.qty", "gte", 9), ("at", "gt", "2024-05-01T09:59:59Z"),
        ("at", "lt", "2024-05-01T12:00:00"), ("title", "gt", "DIE"), ("big", "gt", 2**60), ("year", "gt", "5"),
        ("title", "contains", "STRASSE"), ("tags", "contains", "red"), ("tags", "contains", 7),
        ("title", "starts_with", "die s"), ("title", "ends_with", "SSE"), ("title", "regex", "^die"),
        ("title", "regex", "stra.e$"), ("title", "exists", True), ("missing", "exists", False),
        ("none", "exists", False), ("empty", "exists", False), ("blank", "exists", True), ("matrix", "exists", True),
        ("none", "is_null", True), ("missing", "is_null", True), ("title", "is_null", False),
        ("title", "text", "E STR"), ("text", "phrase", "Green TEA slowly"), ("text", "words", "tea drinks"),
        ("spot", "geo_radius", {"lat": 52.52, "lon": 13.4, "radius_m": 3000}),
        ("spot", "geo_bounding_box", {"top_left": {"lat": 53, "lon": 13}, "bottom_right": {"lat": 52, "lon": 14}}),
        ("spot", "geo_bounding_box", {"top_left": {"lat": 53, "lon": 170}, "bottom_right": {"lat": 52, "lon": 14}}),
        ("spot", "geo_polygon", {"points": [{"lat": 52, "lon": 13}, {"lat": 53, "lon": 13}, {"lat": 53, "lon": 14}]}),
    ],
)  # fmt: skip
def test_a_condition_holds(field: str, operator: str, value: Any) -> None:
    assert Leaf(field, operator, value).matches(DOC)
    assert not Not(Leaf(field, operator, value)).matches(DOC)


@pytest.mark.parametrize(
    ("field", "operator", "value"),
    [
        ("live", "eq", 1), ("live", "eq", "true"), ("year", "eq", True), ("code", "eq", 7), ("title", "eq", "straße"),
        ("missing", "eq", "x"), ("missing", "gt", 0), ("missing", "lt", 0), ("live", "gt", 0), ("digits", "gt", 1),
        ("year", "gt", "2023-01-01"), ("title", "gt", "2023-01-01"), ("price", "gt", "a"), ("matrix", "eq", 1),
        ("matrix", "gt", 0), ("tags", "contains", "re"), ("year", "contains", "20"), ("owner", "eq", "Ann"),
        ("year", "in", []), ("items.sku", "eq", "A"), ("items", "eq", "A1"), ("year", "starts_with", "20"),
        ("title", "regex", "^Straße"), ("year", "text", "2024"), ("text", "phrase", "tea green"),
        ("text", "phrase", "..."), ("text", "words", "tea coffee"), ("text", "words", "dr"), ("big", "eq", 2**60),
        ("spot", "geo_radius", {"lat": 52.52, "lon": 13.4, "radius_m": 2000}), ("title.x", "exists", True),
        ("spot.lat", "geo_radius", {"lat": 52.52, "lon": 13.4, "radius_m": 2000}), ("day", "gt", "2024-05-01"),
    ],
)  # fmt: skip
def test_a_condition_does_not_hold_and_never_fails(field: str, operator: str, value: Any) -> None:
    assert not Leaf(field, operator, value).matches(DOC)
    assert Not(Leaf(field, operator, value)).matches(DOC)


def test_case_matters_when_asked() -> None:
    for operator, value in [("eq", "die straße"), ("contains", "DIE"), ("starts_with", "die"), ("regex", "^die")]:
        assert Leaf("title", operator, value).matches(DOC)
        assert not Leaf("title", operator, value, case_sensitive=True).matches(DOC)
    assert Leaf("title", "text", "DIE", case_sensitive=True).matches(DOC), "text never minds case"


def test_identifiers_and_system_fields_are_compared_with_case() -> None:
    view = document_view({}, "Doc_1", "col", {"object_id": "Obj_1", "source": "S3"})
    assert Leaf("document_id", "eq", "Doc_1").matches(view)
    assert not Leaf("document_id", "eq", "doc_1").matches(view)
    assert not Leaf("source_object_id", "eq", "obj_1").matches(view)
    assert not Leaf("_internal.source", "eq", "s3").matches(view)


def test_a_view_shows_system_fields_only_where_the_payload_has_no_value() -> None:
    made = datetime(2024, 1, 1, tzinfo=UTC)
    system = {"created_at": made, "object_id": "obj", "root_object_id": "root"}
    own = document_view({"created_at": "1999-01-01", "document_id": "mine"}, "doc", "col", system, score=0.5)
    assert own["created_at"] == "1999-01-01"
    assert own["document_id"] == "doc"
    assert own["score"] == own["_score"] == 0.5
    bare = document_view({"created_at": None}, "doc", "col", system)
    assert Leaf("created_at", "eq", "2024-01-01").matches(bare)
    assert Leaf("root_object_id", "eq", "root").matches(bare)


def test_regular_expressions_take_linear_time_and_refuse_what_would_not() -> None:
    assert not Leaf("s", "regex", "(a+)+$").matches({"s": "a" * 50_000 + "!"})
    for pattern in ["(", "(?=a)", r"(a)\1", "a{5000}{5000}", "x" * 2000]:
        with pytest.raises(ValidationError, match="s"):
            Leaf("s", "regex", pattern)


def test_a_leaf_travels_to_another_process() -> None:
    leaf = Leaf("title", "regex", "^die")
    assert leaf.matches(DOC)
    assert pickle.loads(pickle.dumps(leaf)) == leaf


def test_the_shadow_holds_only_what_folding_changes() -> None:
    payload = {"a": "X", "b": "x", "c": ["Y", "y", {"k": "Z", "n": 1}], "d": {"e": ["q"]}, "f": 5, "g": [["ß"]]}
    assert fold_shadow(payload) == {"a": "x", "c": ["y", {"k": "z"}], "g": [["ss"]]}


@pytest.mark.parametrize(
    "text", ["007", "1_000", "1e5", "+5", " 5", "5.", "٥", "-0", "0x1", "nan", "inf", "1" * 400, "5.50"]
)
def test_a_string_spells_a_number_only_without_loss(text: str) -> None:
    assert spelled(text) is None


@pytest.mark.parametrize("number", [0, 5, -3, 5.0, 0.1, 1e300, 2**70, -1e-7])
def test_what_a_number_is_spelled_as_spells_it(number: float) -> None:
    assert all(spelled(text) == number for text in spellings(number))


def test_conjunction_skips_what_is_not_there() -> None:
    one, two = Leaf("a", "eq", 1), Leaf("b.c", "eq", 2)
    assert all_of(None, None) is None
    assert all_of(None, one) is one
    both = all_of(one, None, two)
    assert both == And((one, two))
    assert fields_of(Or((one, Not(two)))) == {"a", "b.c"}
    assert parse_filter(both) is both
