"""Tests of significance: agreement with scipy, and what they say of no difference and of few queries."""

from __future__ import annotations

import random

import pytest

from mediatheca.kernel.significance import incomplete_beta, interval, paired_t, percentile, randomisation


@pytest.mark.parametrize("count", [2, 3, 10, 200])
def test_the_paired_t_test_agrees_with_scipy(count: int) -> None:
    from scipy import stats

    generator = random.Random(count)
    for shift in (0.0, 0.02, 0.3):
        first = [generator.random() for _ in range(count)]
        second = [value + generator.gauss(shift, 0.1) for value in first]
        wanted = stats.ttest_rel(second, first).pvalue
        assert paired_t([b - a for a, b in zip(first, second, strict=True)]) == pytest.approx(wanted, abs=1e-9)


def test_the_incomplete_beta_function_agrees_with_scipy() -> None:
    from scipy.special import betainc

    for a, b in ((0.5, 0.5), (1, 3), (20, 0.5), (250, 0.5), (3, 40)):
        for x in (0.0, 1e-9, 0.2, 0.5, 0.9, 1 - 1e-9, 1.0):
            assert incomplete_beta(a, b, x) == pytest.approx(betainc(a, b, x), abs=1e-10)


def test_no_difference_and_one_query_are_not_significant() -> None:
    assert paired_t([0.0, 0.0, 0.0]) == 1.0
    assert paired_t([0.4]) is None
    assert randomisation([0.4]) is None
    assert randomisation([0.0, 0.0]) == 1.0


def test_randomisation_agrees_with_the_t_test_where_that_holds() -> None:
    generator = random.Random(1)
    deltas = [generator.gauss(0.05, 0.2) for _ in range(80)]
    assert randomisation(deltas, seed=3) == pytest.approx(paired_t(deltas), abs=0.02)
    assert randomisation(deltas, seed=3) == randomisation(deltas, seed=3)


def test_the_bootstrap_interval_holds_the_mean_and_is_seeded() -> None:
    values = [0.1, 0.4, 0.5, 0.9, 0.3]
    low, high = interval(values, seed=5) or (0, 0)
    assert low < sum(values) / len(values) < high
    assert interval(values, seed=5) == (low, high)
    assert interval([]) is None
    assert interval([0.5, 0.5]) == (0.5, 0.5)


def test_percentiles_lie_between_the_nearest_ranks() -> None:
    assert percentile([1, 2, 3, 4], 0.5) == 2.5
    assert percentile([], 0.5) == 0.0
