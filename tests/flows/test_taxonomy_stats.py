"""Counts of labels add up, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mediatheca.flows.taxonomies.analytics import jensen_shannon
from mediatheca.flows.taxonomies.infer import by_overlap, by_schema
from mediatheca.flows.taxonomies.stats import BUCKETS, Tally, bucket_of
from mediatheca.kernel.assignments import Assignment, Tier
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database


def said(label: str, score: float) -> list[Assignment]:
    return [Assignment((Tier(label, label, score),))]


def test_counts_of_an_hour_add_up_and_survive_being_kept_with_the_progress(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mediatheca.kernel.clock.now", lambda: datetime(2026, 3, 4, 5, 59, tzinfo=UTC))
    scope = Scope("org_1", "ns_1")
    for _ in range(3):
        tally = Tally()
        for number in range(1_200):
            tally.add(said(f"label {number}", 0.5))
        tally.add([])
        tally.failed += 1
        tally = Tally.of(tally.as_dict())
        with db.begin(scope) as tx:
            tally.flush(tx, "tax_1", 1, "col_1")
        assert not tally.labels
    with db.begin(scope) as tx:
        tally.flush(tx, "tax_1", 1, "col_1")  # nothing is left of it
        rows = {row["label"]: row for row in tx.rows("taxonomy_stats", {"taxonomy_id": "tax_1"})}
    hours = len({row["hour"] for row in rows.values()})
    assert hours == 1
    assert len(rows) == 1_201
    assert (rows[""]["evaluated"], rows[""]["failed"]) == (3 * 1_201, 3)
    assert (rows["label 7"]["count"], rows["label 7"]["sum_score"]) == (3, 1.5)
    assert rows["label 7"]["buckets"][bucket_of(0.5)] == 3


def test_every_score_has_a_bucket() -> None:
    assert [bucket_of(score) for score in (-1.0, 0.0, 0.049, 0.05, 0.999, 1.0, 1.2)] == [
        0,
        0,
        0,
        1,
        19,
        19,
        BUCKETS - 1,
    ]


def test_the_distance_of_distributions_is_between_0_and_1() -> None:
    assert jensen_shannon({"a": 1.0}, {"a": 1.0}) == 0.0
    assert jensen_shannon({"a": 1.0}, {"b": 1.0}) == 1.0
    assert 0 < jensen_shannon({"a": 0.5, "b": 0.5}, {"a": 0.9, "b": 0.1}) < 0.2


def test_schemas_that_are_equal_or_empty_decide_nothing() -> None:
    one, more = frozenset({"a"}), frozenset({"a", "b"})
    assert by_schema({"x": one, "y": one, "z": more, "e": frozenset()}) == {"x": None, "y": None, "z": "y", "e": None}


def test_the_narrower_collection_stands_below_the_wider_one() -> None:
    members = {"wide": {"1": 10, "2": 10, "3": 10}, "narrow": {"1": 9, "4": 1}, "other": {"5": 3}, "empty": {}}
    assert by_overlap(members, 0.7) == {"wide": None, "narrow": "wide", "other": None, "empty": None}
    assert by_overlap(members, 0.95)["narrow"] is None
    twins = {"a": {"1": 5}, "b": {"1": 5}}
    assert by_overlap(twins, 0.7) == {"a": None, "b": None}
