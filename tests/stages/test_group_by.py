"""The `group_by` stage, and what made rows do on later pages."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from stage_runs import World, ids, rows_of, run, told

from mediatheca.flows.retrieve import ExecutionContext
from mediatheca.kernel.errors import ValidationError
from mediatheca.stages.group_by import group_by
from mediatheca.testing.stages import StageSuite

ROWS = rows_of(
    *(0.9, 0.8, 0.7, 0.6, 0.5),
    brand=["y", "x", "x", None, "x"],
    price=[1, 9, 2, 3, 5],
    at=["2026-01-05T00:00:00Z", "2026-02-05T00:00:00Z", "2026-01-09T00:00:00Z", None, "2026-02-28T00:00:00Z"],
)


class TestGroupBy(StageSuite):
    stage = group_by


class TestFlatGroups(StageSuite):
    stage = group_by
    parameters: ClassVar[dict[str, Any]] = {"group_by_field": "price", "output_mode": "flatten", "exclude_null": True}


def keys(body: dict[str, Any]) -> list[Any]:
    return [entry["key"] for entry in body["groups"]]


def test_one_document_a_group_carries_its_members():
    body = run("group_by", {"group_by_field": "brand", "max_per_group": 2}, ROWS)
    assert ids(body) == ["a", "b", "d"]
    second = body["documents"][1]
    assert (second["group_key"], second["group_count"], second["score"], second["price"]) == ("x", 3, 0.8, 9)
    assert [member["document_id"] for member in second["group_documents"]] == ["b", "c"]
    assert [member["score"] for member in second["group_documents"]] == [0.8, 0.7]
    assert body["groups"][1] == {
        "field": "brand",
        "key": "x",
        "score": 0.8,
        "count": 3,
        "documents": second["group_documents"],
    }
    assert told(body) == {"field": "brand", "total_groups": 3, "total_documents": 5}


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"output_mode": "first"}, ["a", "b", "d"]),
        ({"output_mode": "flatten"}, ["a", "b", "c", "e", "d"]),
        ({"output_mode": "flatten", "docs_per_group": 1}, ["a", "b", "d"]),
        ({"output_mode": "first", "exclude_null": True}, ["a", "b"]),
        ({"output_mode": "first", "sort_groups_by": "count"}, ["b", "a", "d"]),
        ({"output_mode": "first", "sort_groups_by": "count", "sort_order": "asc"}, ["a", "d", "b"]),
        ({"output_mode": "first", "sort_groups_by": "field", "sort_order": "asc"}, ["b", "a", "d"]),
        ({"output_mode": "first", "sort_order": "asc"}, ["d", "b", "a"]),
        ({"output_mode": "flatten", "sort_docs_by": "price"}, ["a", "b", "e", "c", "d"]),
        ({"output_mode": "flatten", "max_per_group": 1000}, ["a", "b", "c", "e", "d"]),
        ({"output_mode": "first", "field": "nowhere", "group_by_field": None}, ["a"]),
        ({"output_mode": "first", "field": "nowhere", "group_by_field": None, "exclude_null": True}, []),
    ],
)
def test_groups_and_members_are_ordered_and_cut(parameters, expected):
    assert ids(run("group_by", {"group_by_field": "brand", **parameters}, ROWS)) == expected


def test_the_default_is_the_object_a_document_came_from():
    rows = rows_of(0.9, 0.8, 0.7, object=["o1", "o2", "o1"])
    assert keys(run("group_by", {}, rows)) == ["o1", "o2"]


def test_dates_group_by_window_or_part():
    body = run("group_by", {"field": "at", "date_trunc": "month"}, ROWS)
    assert keys(body) == ["2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z", None]
    assert keys(run("group_by", {"field": "at", "date_part": "month"}, ROWS)) == [1, 2, None]


def test_random_order_is_repeated_with_the_seed_of_the_execution():
    parameters = {"field": "brand", "sort_docs_by": "_random", "output_mode": "flatten"}
    drawn = [ids(run("group_by", parameters, ROWS, context=ExecutionContext(seed=seed))) for seed in (1, 1, 2, 3, 4)]
    assert drawn[0] == drawn[1]
    assert len({tuple(order) for order in drawn}) > 1


def test_more_groups_than_allowed_are_told():
    body = run("group_by", {"field": "price", "max_groups": 2}, ROWS)
    assert len(ids(body)) == 2
    assert body["limits"][0] == {"name": "groups", "requested": 5, "applied": 2, "ceiling": 2, "stage": "tested"}


def test_no_documents_give_an_empty_list_of_groups():
    body = run("group_by", {}, [])
    assert (body["documents"], body["groups"]) == ([], [])


def test_a_later_stage_works_on_the_best_member_of_each_group():
    then = [{"stage_id": "sort_attribute", "parameters": {"field": "price", "direction": "asc"}}]
    assert ids(run("group_by", {"field": "brand"}, ROWS, then=then)) == ["a", "d", "b"]


def test_later_pages_show_no_member_that_was_deleted_meanwhile():
    world = World(ROWS)
    first = world.run("group_by", {"field": "brand"}, request={"limit": 1})
    cursor = first["pagination"]["cursor"]
    world.searcher.delete("col_1", "c")
    page = world.run("group_by", {"field": "brand"}, request={"limit": 1, "cursor": cursor})
    assert [member["document_id"] for member in page["documents"][0]["group_documents"]] == ["b", "e"]
    world.searcher.delete("col_1", "b")
    page = world.run("group_by", {"field": "brand"}, request={"limit": 1, "cursor": cursor})
    assert page["documents"] == []
    assert "deleted since" in page["warnings"][-1]


@pytest.mark.parametrize(
    ("parameters", "place"),
    [
        ({"max_per_group": 0}, "max_per_group"),
        ({"max_groups": 1001}, "max_groups"),
        ({"output_mode": "tree"}, "output_mode"),
        ({"sort_groups_by": "name"}, "sort_groups_by"),
        ({"group_by_field": ""}, "group_by_field"),
        ({"date_trunc": "century"}, "date_trunc"),
    ],
)
def test_wrong_parameters_are_refused_at_their_place(parameters, place):
    with pytest.raises(ValidationError) as refused:
        run("group_by", parameters, ROWS)
    assert refused.value.errors[0].loc == ("stages", 1, "config", "parameters", place)
