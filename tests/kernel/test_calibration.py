"""Maps from scores to relevance: they never fall, stay in [0, 1], and are the best there are."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediatheca.kernel.calibration import (
    Calibration,
    brier,
    calibration_of,
    confidence,
    expected_error,
    fit,
    held_out_brier,
    pool_adjacent_violators,
)

STEADY = settings(max_examples=200, deadline=None, derandomize=True, database=None)
VALUE = st.floats(-100, 100, allow_nan=False, width=32)
POINTS = st.lists(st.tuples(VALUE, st.integers(1, 5)), min_size=1, max_size=30)
JUDGED = st.lists(st.tuples(VALUE, st.booleans()), min_size=2, max_size=60).filter(
    lambda p: len({y for _, y in p}) == 2
)


@STEADY
@given(POINTS)
def test_pooling_gives_the_nearest_sequence_that_never_falls(points: list[tuple[float, int]]) -> None:
    values, weights = [v for v, _ in points], [w for _, w in points]
    fitted = pool_adjacent_violators(values, weights)
    assert len(fitted) == len(values)
    assert all(a <= b + 1e-9 for a, b in itertools.pairwise(fitted))
    # The minimax formula of isotonic regression (Barlow et al., 1972), by brute force.
    for i, found in enumerate(fitted):
        best = max(
            min(float(np.average(values[a : b + 1], weights=weights[a : b + 1])) for b in range(i, len(values)))
            for a in range(i + 1)
        )
        assert found == pytest.approx(best, abs=1e-6)


def test_pooling_agrees_with_scikit_learn() -> None:
    from sklearn.isotonic import IsotonicRegression

    generator = random.Random(1)
    pairs = [(score, generator.random() < score) for score in (round(generator.random(), 2) for _ in range(500))]
    theirs = IsotonicRegression(out_of_bounds="clip").fit([s for s, _ in pairs], [float(y) for _, y in pairs])
    own = fit(pairs, "isotonic")
    grid = [n / 173 for n in range(-10, 200)]
    assert [own.relevance(score) for score in grid] == pytest.approx(theirs.predict(grid).tolist(), abs=1e-9)


@STEADY
@given(JUDGED, st.sampled_from(["isotonic", "platt"]), st.lists(VALUE, min_size=2, max_size=20))
def test_a_map_never_falls_and_stays_between_0_and_1(pairs, method, scores) -> None:
    fitted = fit(pairs, method)
    values = [fitted.relevance(score) for score in sorted(scores)]
    assert all(0 <= value <= 1 for value in values)
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(values))


@STEADY
@given(JUDGED)
def test_an_isotonic_map_is_never_worse_than_the_base_rate(pairs) -> None:
    share = sum(relevant for _, relevant in pairs) / len(pairs)
    assert brier(fit(pairs, "isotonic"), pairs) <= share * (1 - share) + 1e-9


def test_the_curve_finds_the_logistic_function_it_was_drawn_from() -> None:
    generator = np.random.default_rng(7)
    scores = generator.uniform(-3, 3, 20_000)
    truth = generator.random(20_000) < 1 / (1 + np.exp(-(2 * scores - 1)))
    fitted = fit(list(zip(scores.tolist(), truth.tolist(), strict=True)), "platt")
    assert (fitted.slope, fitted.intercept) == (pytest.approx(2, abs=0.1), pytest.approx(-1, abs=0.1))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_scale_of_scores_does_not_matter_to_the_curve(scale: float) -> None:
    pairs = [(n * scale, n > 6) for n in range(12)] + [(5 * scale, True), (8 * scale, False)]
    fitted = fit(pairs, "platt")
    assert fitted.relevance(0) < 0.2 < 0.8 < fitted.relevance(11 * scale)


def test_scores_that_go_the_wrong_way_give_the_base_rate() -> None:
    fitted = fit([(float(n), n < 50) for n in range(100)], "platt")
    assert fitted.slope == 0
    assert fitted.relevance(0) == fitted.relevance(99) == pytest.approx(0.5, abs=0.02)


def test_scores_that_separate_perfectly_end_in_a_finite_curve() -> None:
    fitted = fit([(0.1, False)] * 20 + [(0.9, True)] * 20, "platt")
    assert 0.9 < fitted.relevance(0.9) < 1


def test_little_data_gets_the_curve_and_much_the_steps() -> None:
    generator = random.Random(3)
    pairs = [(score, generator.random() < score) for score in (generator.random() for _ in range(1_000))]
    assert fit(pairs[:999]).method == "platt"
    assert fit(pairs).method == "isotonic"


def test_a_good_map_is_known_by_its_error_on_what_it_was_not_fitted_to() -> None:
    generator = random.Random(5)

    def query() -> list[tuple[float, bool]]:
        return [(score, generator.random() < score) for score in (generator.random() for _ in range(20))]

    groups = [query() for _ in range(100)]
    pairs = [pair for group in groups for pair in group]
    held = held_out_brier(groups, "isotonic")
    assert held is not None
    assert 0.14 < held < 0.19
    assert expected_error(fit(pairs), pairs) < 0.02
    assert held_out_brier([[(0.1, True)], [(0.2, True)]], "platt") is None


def test_levels_are_said_in_words() -> None:
    assert [confidence(value) for value in (1.0, 0.7, 0.4, 0.15, 0.1, 0.0)] == [
        "high", "high", "medium", "low", "none", "none",
    ]  # fmt: skip


def test_a_stored_map_is_used_for_its_version_only() -> None:
    for made in (fit([(0.1, False), (0.9, True)] * 5, "platt"), fit([(0.1, False), (0.9, True)] * 5, "isotonic")):
        stored = {"retriever_version": 3, "map": made.as_dict()}
        assert calibration_of(stored, 4) is None
        assert calibration_of(stored, 3) == made
    assert Calibration("isotonic", ((1.0, 0.5),)).relevance(7) == 0.5
