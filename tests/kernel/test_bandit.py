"""The bandit: posteriors, rewards, fading, roll-out; and that it finds the better search."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediatheca.kernel.bandit import (
    Arm,
    Tuning,
    context_key,
    credit_of,
    digest,
    exploration,
    faded,
    in_rollout,
    mean_weights,
    reward_of,
    sample_weights,
)

TUNING = Tuning()
NOW = datetime(2026, 5, 1, tzinfo=UTC)


def test_rewards_add_up_weigh_the_place_and_are_bounded() -> None:
    assert reward_of(["click"], 0, TUNING) == 1.0
    assert reward_of(["click"], 3, TUNING) == 2.0  # (3 + 1) ** 0.5: few look there
    assert reward_of(["view", "impression"], 0, TUNING) == 0.0
    assert reward_of(["purchase", "add_to_cart", "share"], 9, TUNING) == 5.0
    assert reward_of(["negative_feedback"], 99, TUNING) == -2.0
    assert reward_of(["swipe"], 0, Tuning(rewards={"swipe": 0.5})) == 0.5


def test_credit_is_shared_by_contribution() -> None:
    assert credit_of({"a": 0.75, "b": 0.25}, 2.0) == {"a": (1.5, 0.5), "b": (0.5, 1.5)}
    assert credit_of({"a": 0.75, "b": 0.25}, -2.0) == {"a": (0.0, 1.5), "b": (0.0, 0.5)}


def test_counts_fade_and_vanish_beyond_the_window() -> None:
    assert faded(10, NOW - timedelta(days=1), NOW, TUNING) == pytest.approx(9.95)
    assert faded(10, NOW - timedelta(days=366), NOW, TUNING) == 0
    assert faded(10, NOW + timedelta(days=1), NOW, TUNING) == 10


def test_exploration_falls_to_its_floor() -> None:
    assert exploration(0, TUNING) == 1.0
    assert exploration(10, TUNING) == pytest.approx(0.99**10)
    assert exploration(10_000, TUNING) == 0.1


arms = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d"]),
    st.builds(Arm, st.floats(0, 1000), st.floats(0, 1000), st.integers(0, 1000)),
    min_size=1,
)


@given(arms, st.integers(0, 2**53))
def test_weights_sum_to_one_and_come_again_with_the_seed(found: dict[str, Arm], seed: int) -> None:
    weights = sample_weights(found, TUNING, seed)
    assert sum(weights.values()) == pytest.approx(1)
    assert all(weight > 0 for weight in weights.values())
    assert weights == sample_weights(dict(reversed(found.items())), TUNING, seed)
    assert list(weights) == list(found)


def test_nothing_learned_gives_even_means() -> None:
    assert mean_weights({"a": Arm(), "b": Arm()}, TUNING) == {"a": 0.5, "b": 0.5}


def test_it_finds_the_search_people_like() -> None:
    """People like what search `a` found four times out of five; the weights follow, whatever was drawn on the way."""
    generator = random.Random(4)
    counts = {"a": Arm(), "b": Arm()}
    for _ in range(300):
        liked = "a" if generator.random() < 0.8 else "b"
        for name, (success, failure) in credit_of({n: float(n == liked) for n in counts}, 1.0).items():
            arm = counts[name]
            counts[name] = Arm(arm.successes + success, arm.failures + failure, arm.trials + 1)
    assert mean_weights(counts, TUNING)["a"] == pytest.approx(0.8, abs=0.06)
    drawn = [sample_weights(counts, TUNING, seed)["a"] for seed in range(50)]
    assert min(drawn) > 0.7


def test_a_growing_rollout_keeps_everybody_in_it() -> None:
    people = [f"user{n}" for n in range(4_000)]
    small = {person for person in people if in_rollout("ret_1", person, 10)}
    large = {person for person in people if in_rollout("ret_1", person, 50)}
    assert small < large
    assert 0.08 < len(small) / len(people) < 0.12
    assert {person for person in people if in_rollout("ret_1", person, 100)} == set(people)
    assert not any(in_rollout("ret_1", person, 0) for person in people)
    assert small != {person for person in people if in_rollout("ret_2", person, 10)}


def test_hashes_are_stable_across_processes() -> None:
    assert digest("a", 1) == 9_331_952_569_449_725_121
    assert context_key("user", "ret_1", "alice") != context_key("user", "ret_2", "alice")
    assert "alice" not in context_key("user", "ret_1", "alice")
