"""Sorting hits by fields."""

from __future__ import annotations

import pytest

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.ordering import SortKey, parse_sort, read_field, sort_hits
from mediatheca.kernel.search import Hit


def hits(*values: object) -> list[Hit]:
    payloads = [{} if value is Ellipsis else {"v": value} for value in values]
    return [Hit(f"d{n}", "c", 0.0, payload, {"object_id": "o"}) for n, payload in enumerate(payloads)]


def order(values: list, key: SortKey) -> list[int]:
    return [int(hit.document_id[1:]) for hit in sort_hits(hits(*values), [key])]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3, 1.5, 2], [1, 2, 0]),
        (["b", "a", "C"], [2, 1, 0]),
        ([True, False], [1, 0]),
        (["2026-02-01", "2026-01-01T23:00:00-05:00", "2026-01-02T00:00:00Z"], [2, 1, 0]),
        ([10, "9", 1], [2, 0, 1]),
        ([2, None, 1, ...], [2, 0, 1, 3]),
        ([float("nan"), 1], [1, 0]),
        ([1, 1, 1], [0, 1, 2]),
    ],
)
def test_values_sort_by_their_kind_and_stay_stable(values, expected):
    assert order(values, SortKey("v")) == expected


def test_descending_keeps_equal_hits_in_order_and_nulls_where_asked():
    assert order([1, 2, 2, None], SortKey("v", "desc")) == [1, 2, 0, 3]
    assert order([1, None, 2], SortKey("v", "asc", nulls_last=False)) == [1, 0, 2]
    assert order([1, None, 2], SortKey("v", "desc", nulls_last=False)) == [2, 0, 1]


def test_the_first_of_several_keys_decides():
    rows = [
        Hit("a", "c", 1.0, {"x": 1, "y": 2}, {}),
        Hit("b", "c", 2.0, {"x": 1, "y": 1}, {}),
        Hit("d", "c", 3.0, {"x": 0}, {}),
    ]
    assert [hit.document_id for hit in sort_hits(rows, [SortKey("x"), SortKey("y")])] == ["d", "b", "a"]


def test_fields_are_read_by_path():
    hit = Hit("d", "c", 0.5, {"a": {"b": [{"c": 1}, {"c": 2}, {}]}, "x.y": 7}, {"object_id": "o"}, scores={"rrf": 0.1})
    assert read_field(hit, "a.b.c") == [1, 2]
    assert read_field(hit, "a.b.1.c") == 2
    assert read_field(hit, "x.y") == 7
    assert read_field(hit, "score") == 0.5
    assert read_field(hit, "scores.rrf") == 0.1
    assert read_field(hit, "_internal.object_id") == "o"
    assert read_field(hit, "a.b.9") is None
    assert read_field(hit, "nope.deeper") is None


def test_sort_keys_have_many_spellings():
    expected = [SortKey("price", "desc")]
    for raw in (
        {"field": "price", "direction": "desc"},
        {"field": "price", "order": "DESC"},
        {"price": -1},
        "-price",
        "price:desc",
    ):
        assert parse_sort(raw) == expected
        assert parse_sort([raw]) == expected
    assert parse_sort("score") == [SortKey("score", "desc")]
    assert parse_sort("price") == [SortKey("price", "asc")]
    assert parse_sort(None) == []


@pytest.mark.parametrize("raw", [5, {"field": 1}, {"field": "a", "direction": "up"}, "a:up", {}, [None]])
def test_a_wrong_sort_key_is_named(raw):
    if raw == {}:
        assert parse_sort(raw) == []
        return
    with pytest.raises(ValidationError, match="sort"):
        parse_sort(raw)
