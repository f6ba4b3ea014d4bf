"""Metrics of rankings: worked examples, awkward input, and agreement with ranx on random data."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ranx_values import random_judgments

from mediatheca.kernel.metrics import METRICS, dcg, judge, means, measure, score_sets

RANX = Path(__file__).parent / "ranx_values.json"
RETRIEVED = ["d1", "d2", "d3", "d4", "d5"]
GRADES = {"d2": 5, "d4": 2, "d9": 3}


def test_the_worked_example() -> None:
    found = measure(
        judge(RETRIEVED, GRADES), ["precision", "recall", "f1", "f2", "map", "mrr", "ndcg", "ndcg_linear"], 5
    )
    assert {name: round(value, 6) for name, value in found.items()} == {
        "precision": 0.4,
        "recall": 0.666667,
        "f1": 0.5,
        "f2": 0.588235,
        "map": 0.333333,
        "mrr": 0.5,
        "ndcg": 0.564811,
        "ndcg_linear": 0.508819,
    }
    binary = judge(RETRIEVED, dict.fromkeys(GRADES, 1))
    assert round(METRICS["ndcg"](binary, 5), 6) == 0.498189
    assert METRICS["ndcg"](binary, 5) == METRICS["ndcg_linear"](binary, 5)


def test_a_document_counts_once_at_its_first_place() -> None:
    twice = judge(["d1", "d1", "d2", "d2"], {"d2": 1})
    assert twice.grades == (None, 1)
    assert METRICS["mrr"](twice, 10) == 0.5


def test_precision_divides_by_k_when_less_came_back() -> None:
    assert METRICS["precision"](judge(["a"], {"a": 1}), 10) == 0.1


def test_nothing_retrieved_and_nothing_relevant_are_zero() -> None:
    for judged in (judge([], {"a": 1}), judge(["a"], {}), judge(["a"], {"a": 0})):
        assert all(metric(judged, 5) == 0 for name, metric in METRICS.items() if name != "judged")


def test_judged_says_how_much_of_the_list_anybody_looked_at() -> None:
    assert METRICS["judged"](judge(["a", "b", "c", "d"], {"a": 1, "c": 0}), 4) == 0.5
    assert METRICS["judged"](judge([], {"a": 1}), 4) == 0


def test_bpref_ignores_places_nobody_judged() -> None:
    grades = {"r1": 1, "r2": 1, "n1": 0, "n2": 0}
    assert METRICS["bpref"](judge(["x", "r1", "y", "r2"], grades), 10) == 1.0
    assert METRICS["bpref"](judge(["n1", "r1", "n2", "r2"], grades), 10) == pytest.approx((0.5 + 0.0) / 2)


def test_means_are_over_queries_and_empty_without_any() -> None:
    assert means([{"map": 1.0}, {"map": 0.0}]) == {"map": 0.5}
    assert means([]) == {}


def test_predictions_are_scored_as_sets() -> None:
    names = ["precision", "recall", "f1", "f2"]
    found = score_sets(["a", "b", "b"], ["b", "c", "d"], names)
    assert found["precision"] == 0.5
    assert found["recall"] == pytest.approx(1 / 3)
    assert found["f1"] == pytest.approx(0.4)
    assert score_sets([], [], names) == dict.fromkeys(names, 1.0)
    assert score_sets([], ["a"], names) == dict.fromkeys(names, 0.0)


rankings = st.lists(st.sampled_from([f"d{n}" for n in range(12)]), max_size=12)
judgments = st.dictionaries(st.sampled_from([f"d{n}" for n in range(12)]), st.integers(0, 5), max_size=12)


@given(rankings, judgments, st.integers(1, 15))
def test_every_metric_is_between_zero_and_one(ranking: list[str], grades: dict[str, int], k: int) -> None:
    judged = judge(ranking, grades)
    assert all(0 <= metric(judged, k) <= 1 + 1e-12 for metric in METRICS.values())


@given(judgments, st.integers(1, 15))
def test_the_ideal_ranking_has_ndcg_one(grades: dict[str, int], k: int) -> None:
    best = sorted(grades, key=lambda ident: -grades[ident])
    judged = judge(best, grades)
    expected = 1.0 if judged.relevant else 0.0
    assert METRICS["ndcg"](judged, k) == pytest.approx(expected)
    assert METRICS["ndcg_linear"](judged, k) == pytest.approx(expected)


def test_dcg_discounts_by_the_logarithm_of_the_rank() -> None:
    assert dcg([None, 2]) == pytest.approx(3 / math.log2(3))


def test_all_metrics_agree_with_ranx() -> None:
    """Against what ranx computed; it is not a dependency, since pandas, which it needs, would slow every start."""
    theirs: dict[str, float] = json.loads(RANX.read_text())["metrics"]
    judgments_of, runs = random_judgments()
    for name, value in theirs.items():
        metric, k = name.split("@")
        ours = means([measure(judge(runs[q], judgments_of[q]), [metric], int(k)) for q in runs])
        assert ours[metric] == pytest.approx(value, abs=1e-6), name
    assert len(theirs) == 32
