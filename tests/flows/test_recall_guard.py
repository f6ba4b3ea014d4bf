"""The guard that compares approximate answers with exact ones."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from mediatheca.flows.recall_guard import MAX_COLLECTIONS, MIN_SAMPLES, RecallGuard
from mediatheca.kernel.search import Hit, VectorQuery
from mediatheca.telemetry import metrics

QUERY = VectorQuery("index", np.ones(4, np.float32), 3)


def hits(*idents: str) -> list[Hit]:
    return [Hit(ident, "col_1", 1.0, {}, {}) for ident in idents]


def settled(guard: RecallGuard, samples: int) -> dict:
    deadline = time.monotonic() + 120
    while guard.report()["samples"] < samples and time.monotonic() < deadline:
        time.sleep(0.005)
    return guard.report()


def test_a_sampled_search_is_asked_again_exactly():
    asked: list[VectorQuery] = []

    def ask(collection_id, query):
        asked.append(query)
        return hits("a", "b", "c", "d")

    guard = RecallGuard(ask, 1.0)
    guard.sample("col_1", QUERY, hits("a", "b", "x", "y"))
    assert settled(guard, 1)["recall"] == pytest.approx(0.5)
    assert asked[0].exact is True


def test_a_rate_of_zero_and_exact_searches_are_not_sampled():
    def ask(collection_id, query):
        raise AssertionError("asked")

    RecallGuard(ask, 0.0).sample("col_1", QUERY, hits("a"))
    exact = VectorQuery("index", QUERY.vector, 3, exact=True)
    guard = RecallGuard(ask, 1.0)
    guard.sample("col_1", exact, hits("a"))
    assert guard.report()["samples"] == 0


def test_before_anything_was_sampled_nothing_is_said_of_recall():
    report = RecallGuard(lambda collection_id, query: [], 1.0).report()
    assert (report["recall"], report["samples"], report["low"]) == (None, 0, False)


def test_a_search_that_found_nothing_is_checked_too():
    guard = RecallGuard(lambda collection_id, query: hits("a"), 1.0)
    guard.sample("col_1", QUERY, [])
    assert settled(guard, 1)["recall"] == 0.0


def test_only_one_check_runs_at_a_time():
    gate, calls = threading.Event(), []

    def ask(collection_id, query):
        calls.append(1)
        gate.wait(120)
        return hits("a")

    guard = RecallGuard(ask, 1.0)
    for _ in range(5):
        guard.sample("col_1", QUERY, hits("a"))
    gate.set()
    assert settled(guard, 1)["samples"] == 1
    assert len(calls) == 1


def test_a_check_that_fails_counts_for_nothing_and_blocks_nothing():
    answers = iter([RuntimeError("gone"), hits("a")])

    def ask(collection_id, query):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    guard = RecallGuard(ask, 1.0)
    deadline = time.monotonic() + 120
    while guard.report()["samples"] == 0 and time.monotonic() < deadline:
        guard.sample("col_1", QUERY, hits("a"))
        time.sleep(0.005)
    assert guard.report()["recall"] == 1.0


def test_a_low_recall_is_said_only_with_enough_samples():
    guard = RecallGuard(lambda collection_id, query: [], 1.0)
    for _ in range(MIN_SAMPLES - 1):
        guard.add("col_1", ["a"], ["b"])
    assert guard.report()["low"] is False
    guard.add("col_1", ["a"], ["b"])
    report = guard.report()
    assert report["low"] is True
    assert "rebuild" in report["next_step"]
    assert report["collections"] == [{"collection_id": "col_1", "recall": 0.0, "samples": MIN_SAMPLES}]


def test_one_low_collection_is_named_although_the_mean_is_well():
    guard = RecallGuard(lambda collection_id, query: [], 1.0)
    for _ in range(MIN_SAMPLES):
        guard.add("col_bad", ["a"], ["a", "b"])
    for _ in range(40 * MIN_SAMPLES):
        guard.add("col_good", ["a"], ["a"])
    report = guard.report()
    assert report["recall"] > 0.95
    assert report["low"] is True
    assert [entry["collection_id"] for entry in report["collections"]] == ["col_bad"]
    assert guard.of("col_bad") == (0.5, MIN_SAMPLES)


def test_collections_have_a_metric_each_and_only_the_last_ones():
    guard = RecallGuard(lambda collection_id, query: [], 1.0)
    for number in range(MAX_COLLECTIONS + 5):
        guard.add(f"col_many_{number}", ["a"], ["a", "b"])
    lines = [line for line in metrics(work=True)[0].decode().splitlines() if "col_many_" in line]
    assert len(lines) == MAX_COLLECTIONS
    assert 'mediatheca_collection_recall{collection="col_many_104"} 0.5' in lines
    assert guard.of("col_many_0")[1] == 0


def test_searches_that_are_exact_anyway_are_not_sampled():
    guard = RecallGuard(lambda collection_id, query: hits("a"), 1.0, lambda collection_id, query: True)
    guard.sample("col_1", QUERY, hits("a"))
    assert guard.report()["samples"] == 0
