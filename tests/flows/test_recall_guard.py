"""The guard that compares approximate answers with exact ones."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from mediatheca.flows.recall_guard import MIN_SAMPLES, RecallGuard
from mediatheca.kernel.search import Hit, VectorQuery

QUERY = VectorQuery("index", np.ones(4, np.float32), 3)


def hits(*idents: str) -> list[Hit]:
    return [Hit(ident, "col_1", 1.0, {}, {}) for ident in idents]


def settled(guard: RecallGuard, samples: int) -> dict:
    deadline = time.monotonic() + 5
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


def test_only_one_check_runs_at_a_time():
    gate, calls = threading.Event(), []

    def ask(collection_id, query):
        calls.append(1)
        gate.wait(5)
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
    deadline = time.monotonic() + 5
    while guard.report()["samples"] == 0 and time.monotonic() < deadline:
        guard.sample("col_1", QUERY, hits("a"))
        time.sleep(0.005)
    assert guard.report()["recall"] == 1.0


def test_a_low_recall_is_said_only_with_enough_samples():
    guard = RecallGuard(lambda collection_id, query: [], 1.0)
    for _ in range(MIN_SAMPLES - 1):
        guard.add(["a"], ["b"])
    assert guard.report()["low"] is False
    guard.add(["a"], ["b"])
    report = guard.report()
    assert report["low"] is True
    assert "rebuild" in report["next_step"]
