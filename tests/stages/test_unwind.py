"""The `unwind` stage."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from stage_runs import World, ids, rows_of, run

from mediatheca.kernel.errors import ValidationError
from mediatheca.stages.unwind import unwind
from mediatheca.testing.stages import StageSuite

ROWS = rows_of(0.9, 0.8, 0.7, 0.6, tags=[["x", {"y": "🦊"}], [], None, "plain"], n=[1, 2, 3, 4])


class TestUnwind(StageSuite):
    stage = unwind
    parameters: ClassVar[dict[str, Any]] = {"field": "tags"}


def test_every_element_is_a_row_with_the_score_of_its_document():
    body = run("unwind", {"field": "tags"}, ROWS)
    assert ids(body) == ["a#0", "a#1", "d"]
    assert [(shown["tags"], shown["score"], shown["n"]) for shown in body["documents"]] == [
        ("x", 0.9, 1),
        ({"y": "🦊"}, 0.9, 1),
        ("plain", 0.6, 4),
    ]
    assert body["documents"][1]["_internal"]["_ref"] == {"document_id": "a", "collection_id": "col_1", "score": 0.9}


def test_documents_without_elements_can_stay():
    body = run("unwind", {"path": "$tags", "preserve_null_and_empty_arrays": True}, ROWS)
    assert ids(body) == ["a#0", "a#1", "b", "c", "d"]
    assert [shown["tags"] for shown in body["documents"]][2:] == [None, None, "plain"]


def test_the_place_and_the_element_go_where_asked():
    body = run("unwind", {"field": "tags", "include_array_index": True, "output_field": "tag"}, ROWS)
    assert [(shown["tag"], shown.get("_unwind_index")) for shown in body["documents"]] == [
        ("x", 0),
        ({"y": "🦊"}, 1),
        ("plain", None),
    ]
    assert body["documents"][0]["tags"] == ["x", {"y": "🦊"}]
    named = run("unwind", {"field": "tags", "include_array_index": "at.place"}, ROWS)
    assert named["documents"][1]["at"] == {"place": 1}


def test_rows_of_rows_have_ids_of_their_own_and_stand_for_the_document():
    rows = rows_of(0.9, grid=[[[1, 2], [3]]])
    then = [{"stage_id": "unwind", "parameters": {"field": "grid"}}]
    body = run("unwind", {"field": "grid"}, rows, then=then)
    assert ids(body) == ["a#0#0", "a#0#1", "a#1#0"]
    assert {shown["_internal"]["_ref"]["document_id"] for shown in body["documents"]} == {"a"}


def test_rows_stay_on_later_pages_until_their_document_is_deleted():
    world = World(rows_of(0.9, 0.8, tags=[[1, 2, 3], [4]]))
    cursor = world.run("unwind", {"field": "tags"}, request={"limit": 2})["pagination"]["cursor"]
    assert ids(world.run("unwind", {"field": "tags"}, request={"limit": 2, "cursor": cursor})) == ["a#2", "b#0"]
    world.searcher.delete("col_1", "a")
    assert ids(world.run("unwind", {"field": "tags"}, request={"limit": 2, "cursor": cursor})) == ["b#0"]


def test_too_many_rows_are_cut_and_told():
    body = run("unwind", {"field": "tags"}, rows_of(0.9, 0.8, tags=[list(range(9000)), list(range(9000))]))
    assert body["pagination"]["total"] == 10_000
    assert body["limits"][0]["name"] == "rows"


@pytest.mark.parametrize(
    ("parameters", "place"),
    [({}, "field"), ({"field": "document_id"}, "field"), ({"field": "a", "output_field": "__x"}, "output_field")],
)
def test_wrong_parameters_are_refused_at_their_place(parameters, place):
    with pytest.raises(ValidationError) as refused:
        run("unwind", parameters, ROWS)
    assert refused.value.errors[0].loc == ("stages", 1, "config", "parameters", place)
