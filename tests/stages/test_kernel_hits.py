"""Changing hits, and what becomes of rows whose documents are deleted."""

from __future__ import annotations

import pytest

from mediatheca.kernel.hits import derived, identities, identity, number, rescore, surviving, value_key, write_field
from mediatheca.kernel.ordering import SortKey, read_field, sort_hits
from mediatheca.kernel.search import Hit


def hit(ident: str = "a", score: float = 0.5, **payload) -> Hit:
    return Hit(ident, "col", score, payload, {"object_id": "obj", "created_at": "2026-01-01T00:00:00Z"})


def test_writing_a_field_never_changes_what_others_hold():
    payload = {"metadata": {"kept": 1}}
    one = Hit("a", "col", 0.5, payload, {})
    write_field(one, "metadata.deep.new", 2)
    write_field(one, "scores.mine", 3.0)
    write_field(one, "score", 4)
    assert payload == {"metadata": {"kept": 1}}
    assert one.payload == {"metadata": {"kept": 1, "deep": {"new": 2}}}
    assert (one.scores, one.score) == ({"mine": 3.0}, 4.0)
    write_field(one, "metadata.kept.inner", 5)
    assert one.payload["metadata"]["kept"] == {"inner": 5}


def test_the_first_score_is_remembered():
    one = hit(score=0.3)
    rescore(one, "x", 0.7)
    rescore(one, "y", 0.9)
    assert (one.score, one.scores) == (0.9, {"original_score": 0.3, "x": 0.7, "y": 0.9})


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, 1.0), (0.5, 0.5), (True, None), ("1", None), (None, None), (float("nan"), None), (10**400, None)],
)
def test_what_counts_as_a_number(value, expected):
    assert number(value) == expected


def test_equal_values_have_equal_keys():
    assert value_key({"a": 1, "b": [2]}) == value_key({"b": [2], "a": 1})
    assert value_key(1) != value_key("1")
    assert value_key(None) != value_key("null")


def test_system_fields_are_read_where_the_payload_has_none():
    assert read_field(hit(), "source_object_id") == "obj"
    assert read_field(hit(source_object_id="own"), "source_object_id") == "own"
    assert read_field(hit(), "created_at") == "2026-01-01T00:00:00Z"


def test_sorting_can_ignore_case():
    hits = [hit("1", t="b"), hit("2", t="A"), hit("3", t="C")]
    assert [h.document_id for h in sort_hits(hits, [SortKey("t")])] == ["2", "3", "1"]
    assert [h.document_id for h in sort_hits(hits, [SortKey("t", ignore_case=True)])] == ["2", "1", "3"]


def test_rows_stand_for_their_document_and_fall_with_it():
    row = derived(derived(hit(), {"x": 1}, row="0"), {"x": 2}, row="1")
    assert (row.document_id, identity(row)) == ("a#0#1", ("col", "a"))
    assert surviving(row, {("col", "a")}, {"col"}) is row
    assert surviving(row, set(), {"col"}) is None
    assert surviving(row, set(), {"other"}) is row


def test_members_are_taken_out_of_rows_one_by_one():
    members = [{"document_id": name, "collection_id": "col"} for name in "bc"]
    row = derived(hit(), {"members": members}, members="members")
    assert list(identities(row)) == [("col", "a"), ("col", "b"), ("col", "c")]
    left = surviving(row, {("col", "a"), ("col", "c")}, {"col"})
    assert left is not None
    assert left.payload["members"] == members[1:]
    assert row.payload["members"] == members
    assert surviving(row, {("col", "a")}, {"col"}) is None
