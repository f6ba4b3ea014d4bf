"""Random documents and random filters over the same few fields and values, so that they meet often."""

from __future__ import annotations

from typing import Any, TypeAlias

from hypothesis import strategies as st

STRINGS = [
    "", "x", "X", "xy", "a x b", "red", "Red", "RED", "Straße", "STRASSE", "strasse", "ss", "ß", "ſ", "K", "k", "ﬁ",
    "fi", "İ", "i̇", "Σας", "σασ", "ΣΑΣ", "ǰ", "東京", "日本", "5", "5.0", "5.5", "1e+300", "-3", "0", "true", "null",
    "[]", "{}", "a,b", ",", "]", "[x", '"', '"x"', "it's", "back\\slash", "\\", "%_", "x\ny", "\t", "drinking a beer",
    "He drinks Beer", "beer drinking", "lat", "🎈", "x́", "Ꭰ", "ꭰ", "2024-01-01", "2024-01-01T00:00:00Z",
    "2024-01-01T00:00:00+00:00", "2024-01-01T02:00:00+02:00", "2023-12-31 23:59:59", "2024-06-30T12:00:00.123456Z",
    "2024-06-30t12:00:00.123456789z", "2024-02-30", "0001-01-01", "9999-12-31T23:59:59Z",
]  # fmt: skip
ODD_DATES = [
    "2024-1-1", " 2024-01-01", "2024-01-01 00:00", "2024-01-01T00:00:00 UTC", "+2024-01-01", "2024-01-01T5:00:00Z",
]  # fmt: skip
"""Strings that only the Rust engine's parser takes for dates; a document may hold them."""
NUMBERS = [0, 1, 5, 5.0, 5.5, -3, 0.1, 0.30000000000000004, 1e-7, 1e300, -0.0, 2**53, 2**53 + 1, -(2**63), 2**63, 99.99]
FIELDS = ["s", "n", "when", "flag", "tags", "o.k", "items.k", "items.deep.v", "odd key", "é", "a-b", "it's", "spot"]
PLAIN_FIELDS = ["s", "n", "flag", "tags", "o.k"]

Raw: TypeAlias = dict[str, Any]

strings = st.sampled_from(STRINGS) | st.text(alphabet="xXkKßs5,\"'\\ é☃", max_size=4)
numbers = st.sampled_from(NUMBERS) | st.integers(-6, 6) | st.floats(-10, 10, allow_nan=False)
scalars = strings | numbers | st.booleans() | st.none()
points = st.builds(lambda lat, lon: {"lat": lat, "lon": lon}, st.integers(-90, 90), st.floats(-180, 180))


def _values(texts: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    inner = scalars | texts
    return inner | st.lists(inner | st.lists(inner, max_size=2) | points, max_size=3) | points | st.just({})


def documents(*, odd_dates: bool = True) -> st.SearchStrategy[dict[str, Any]]:
    """Payloads with any type at any path."""
    value = _values(st.sampled_from(ODD_DATES) if odd_dates else strings)
    leaf = st.dictionaries(st.sampled_from(["k", "b", "odd key"]), value, max_size=2)
    deep = st.fixed_dictionaries({}, optional={"v": value})
    item = st.fixed_dictionaries({}, optional={"k": value, "deep": deep | st.lists(deep, max_size=2) | value})
    names = ("s", "n", "when", "flag", "tags", "odd key", "é", "a-b", "it's", "spot", "created_at")
    nested = {
        "o": leaf | value | st.lists(leaf, max_size=2),
        "items": st.lists(item | value, max_size=3) | item | value,
    }
    return st.fixed_dictionaries({}, optional=dict.fromkeys(names, value) | nested)


def _leaf(field: str, operator: str, value: Any, sensitive: bool) -> dict[str, Any]:
    return {"field": field, "operator": operator, "value": value, "case_sensitive": sensitive}


def _leaves(fields: list[str], operators: list[str], values: st.SearchStrategy[Any]) -> st.SearchStrategy[Raw]:
    return st.builds(_leaf, st.sampled_from(fields), st.sampled_from(operators), values, st.booleans())


_circles = st.builds(lambda p, r: {**p, "radius_m": r}, points, st.floats(0, 5e6))
_boxes = st.builds(
    lambda one, two: {
        "top_left": {"lat": max(one["lat"], two["lat"]), "lon": one["lon"]},
        "bottom_right": {"lat": min(one["lat"], two["lat"]), "lon": two["lon"]},
    },
    points,
    points,
)

_plain_values = st.sampled_from(["x", "RED", "red", "東京", "it's", 5, 5.5, -3, 0, True, False, None])
common_leaves = (
    _leaves(PLAIN_FIELDS, ["eq", "ne"], _plain_values)
    | _leaves(PLAIN_FIELDS, ["in", "nin"], st.lists(st.sampled_from(["x", "Red", "beer", 1, 99.99, True]), max_size=3))
    | _leaves(PLAIN_FIELDS, ["gt", "gte", "lt", "lte"], st.sampled_from([0, 1, 5.5, -3, 99.99]))
    | _leaves(PLAIN_FIELDS, ["exists", "is_null"], st.booleans())
)
"""What most filters consist of: every engine decides these by itself."""

leaves = (
    common_leaves
    | _leaves(FIELDS, ["eq", "ne", "contains"], scalars)
    | _leaves(FIELDS, ["in", "nin"], st.lists(scalars, max_size=4))
    | _leaves(FIELDS, ["gt", "gte", "lt", "lte"], strings | numbers)
    | _leaves(FIELDS, ["starts_with", "ends_with", "text", "phrase", "words"], strings)
    | _leaves(FIELDS, ["regex"], st.sampled_from(["^x", "RED", "[0-9]", "s{2}", "", "^$", "é"]))
    | _leaves(FIELDS, ["exists", "is_null"], st.booleans())
    | _leaves(["spot", "tags"], ["geo_radius"], _circles)
    | _leaves(["spot", "tags"], ["geo_bounding_box"], _boxes)
    | _leaves(["created_at", "updated_at", "_internal.created_at"], ["gte", "lt", "eq"], strings)
    | _leaves(["document_id", "root_object_id", "source_object_id"], ["eq", "gt", "contains", "starts_with"], strings)
)


def trees(leaf: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Logic over conditions, as sent."""
    return st.recursive(
        leaf,
        lambda inner: st.builds(
            lambda name, children: {name: children},
            st.sampled_from(["AND", "OR", "NOT"]),
            st.lists(inner, min_size=1, max_size=3),
        ),
        max_leaves=5,
    )
