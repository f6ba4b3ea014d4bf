"""The pure parts of documents: how one looks, and how many are folded into groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mediatheca.kernel.aggregation import FUNCTIONS, Having, Key, Metric, aggregate, sort_rows
from mediatheca.kernel.documents import Document
from mediatheca.kernel.mapping import read_path
from mediatheca.kernel.present import View, as_hit, field_value, present

Record = dict[str, Any]


def read(record: Record, path: str) -> Any:
    value = read_path(record, path)
    return None if repr(value) == "MISSING" else value


def fold(function: Any, values: list[Any]) -> Any:
    rows = aggregate([{"v": value} for value in values], read, [], [Metric(function, "v", "x")])
    return rows[0]["metrics"]["x"]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("count", 5),
        ("count_distinct", 4),
        ("sum", 6),
        ("avg", 2.0),
        ("min", 1),
        ("max", "b"),
        ("first", 3),
        ("last", 3),
        ("push", [3, "b", 1, True, 3]),
        ("add_to_set", [3, "b", 1, True]),
    ],
)
def test_every_function_skips_what_does_not_fit_it(function: Any, expected: Any) -> None:
    values = [3, "b", None, 1, True, 3] if function not in ("sum", "avg", "min", "max") else [3, "b", None, 1, 2]
    assert fold(function, values) == expected


def test_functions_of_nothing_are_empty() -> None:
    empty = {name: fold(name, []) for name in FUNCTIONS}
    assert empty == {
        "count": 0, "count_distinct": 0, "sum": 0, "avg": None, "min": None, "max": None, "first": None, "last": None,
        "push": [], "add_to_set": [],
    }  # fmt: skip


def test_dates_are_cut_and_taken_apart() -> None:
    record = {"t": "2024-03-05T17:45:30+02:00"}
    cut = {"year": "2024-01-01T00:00:00Z", "month": "2024-03-01T00:00:00Z", "week": "2024-03-04T00:00:00Z"}
    cut |= {"day": "2024-03-05T00:00:00Z", "hour": "2024-03-05T15:00:00Z", "minute": "2024-03-05T15:45:00Z"}
    parts = {"year": 2024, "month": 3, "week": 10, "day": 5, "dayOfWeek": 3, "dayOfYear": 65, "hour": 15, "second": 30}
    keys = [Key("t", f"cut_{unit}", trunc=unit) for unit in cut] + [
        Key("t", f"part_{part}", part=part) for part in parts
    ]  # type: ignore[arg-type]
    group = aggregate([record], read, keys, [Metric("count", "", "n")])[0]["group"]
    assert group == {f"cut_{unit}": value for unit, value in cut.items()} | {f"part_{p}": v for p, v in parts.items()}
    odd = aggregate([{"t": "soon"}, {"t": 5}, {}], read, [Key("t", "t", trunc="day")], [Metric("count", "", "n")])
    assert odd == [{"group": {"t": None}, "metrics": {"n": 3}}]


def test_groups_are_kept_by_their_metrics_and_sorted_with_missing_values_last() -> None:
    records = [{"k": "a", "v": 1}, {"k": "b"}, {"k": "c", "v": 5}, {"k": "c", "v": 5}, {"k": ["x"], "v": 2}]
    metrics = [Metric("sum", "v", "s"), Metric("avg", "v", "m")]
    rows = aggregate(records, read, [Key("k", "k")], metrics)
    assert [row["group"]["k"] for row in sort_rows(rows, "m", descending=True)] == ["c", ["x"], "a", "b"]
    assert [row["group"]["k"] for row in sort_rows(rows, "m", descending=False)] == ["a", ["x"], "c", "b"]
    for operator, kept in (("gt", ["c"]), ("gte", ["c", ["x"]]), ("lt", ["a"]), ("lte", ["a", ["x"]]), ("eq", [["x"]])):
        found = aggregate(records, read, [Key("k", "k")], metrics, [Having("m", operator, 2)])  # type: ignore[arg-type]
        assert [row["group"]["k"] for row in found] == kept
    assert len(aggregate(records, read, [Key("k", "k")], metrics, [Having("m", "ne", 2)])) == 3


def test_fields_of_the_user_win_over_aliases_of_the_system_and_ids_never_change() -> None:
    payload = {"created_at": "yesterday", "source_type": "mine", "document_id": "fake", "_internal": 1}
    document = Document("d", "c", payload, {"v": np.ones(2, np.float32)}, "o", "o", {"source_type": "bucket"})
    shown = present(as_hit(document), View("ns"))
    assert (shown["created_at"], shown["source_type"]) == ("yesterday", "mine")
    assert (shown["document_id"], shown["collection_id"]) == ("d", "c")
    assert shown["_internal"]["lineage"]["source_type"] == "bucket"
    assert shown["_internal"]["namespace_id"] == "ns"
    assert "vectors" not in shown


def test_only_a_documents_own_blobs_are_signed() -> None:
    files = [{"field": "thumb", "role": "thumbnail", "type": "image/png", "key": "own/key"}]
    payload = {"thumb": "own/key", "deep": [{"x": "own/key"}], "other": "somebody/elses/key"}
    document = Document("d", "c", payload, system={"document_blobs": files})
    shown = present(as_hit(document), View(sign=lambda key: f"https://signed/{key}"))
    assert shown["thumb"] == "https://signed/own/key"
    assert shown["deep"] == [{"x": "https://signed/own/key"}]
    assert shown["other"] == "somebody/elses/key"
    assert document.payload["thumb"] == "own/key"


def test_selected_paths_come_back_in_their_place() -> None:
    document = Document("d", "c", {"a": {"b": 1, "c": 2}, "d.e": 3, "f": 4}, root_object_id="o")
    shown = present(as_hit(document), View(select=("a.b", "d.e", "nothing", "_internal.lineage.root_object_id")))
    assert shown == {
        "document_id": "d",
        "collection_id": "c",
        "a": {"b": 1},
        "d.e": 3,
        "_internal": {"lineage": {"root_object_id": "o"}},
    }


def test_fields_are_read_under_the_names_they_are_shown_with() -> None:
    document = Document(
        "d", "c", {"a": {"b": 1}}, root_object_id="o", system={"lineage_path": "x/y", "source_type": "bucket"}
    )
    hit = as_hit(document)
    names = ("a.b", "root_object_id", "_internal.lineage.path", "_internal.lineage.source_type", "source_type", "none")
    assert [field_value(hit, name) for name in names] == [1, "o", "x/y", "bucket", "bucket", None]
