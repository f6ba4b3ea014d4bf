"""Thompson sampling over the searches of a retriever: which of them finds what people want. Pure; randomness is seeded.

Every search (a feature URI) is an arm with a Beta posterior. An interaction is a trial in which all arms take part:
what was liked counts as success of an arm by its share in finding the document, and the rest of it as failure; what
was disliked counts as failure by that share. So a posterior's mean is the share of the credit an arm earns.
Counts fade with age, and clicks further down count more, because fewer people look there.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

REWARDS: Mapping[str, float] = {
    "purchase": 3.0,
    "add_to_cart": 2.0,
    "long_view": 2.0,
    "share": 2.0,
    "positive_feedback": 2.0,
    "download": 1.5,
    "save": 1.5,
    "add_to_project": 1.5,
    "wishlist": 1.5,
    "click": 1.0,
    "bookmark": 1.0,
    "copy": 1.0,
    "play": 1.0,
    "dwell": 1.0,
    "dwell_time": 1.0,
    "skip": -0.25,
    "return_to_results": -0.5,
    "negative_feedback": -2.0,
}
"""What a kind of interaction says, in clicks. Others say nothing about the searches (impression, view, …)."""
GLOBAL = "global"
_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Tuning:
    """How learning behaves."""

    exploration_bonus: float = 1.0
    """Factor on how far a sample strays from the mean; below 1 exploits sooner."""
    exploration_decay: float = 0.99
    """Per interaction."""
    exploration_floor: float = 0.1
    prior_alpha: float = 1.0
    prior_beta: float = 1.0
    decay_factor: float = 0.995
    """Per day."""
    decay_window_days: float = 365.0
    max_reward: float = 5.0
    min_weight: float = 0.05
    max_weight: float = 0.95
    position_bias: float = 0.5
    """Exponent of the examination curve 1 / (position + 1)^bias; 0: every place is looked at alike."""
    rewards: Mapping[str, float] = field(default_factory=lambda: REWARDS)


@dataclass(frozen=True, slots=True)
class Arm:
    """What was counted for one search in one context."""

    successes: float = 0.0
    failures: float = 0.0
    trials: int = 0

    def mean(self, tuning: Tuning) -> float:
        alpha, beta = self.successes + tuning.prior_alpha, self.failures + tuning.prior_beta
        return alpha / (alpha + beta)


def reward_of(kinds: Iterable[str], position: int, tuning: Tuning) -> float:
    """What an interaction is worth: the sum over its kinds, larger for places seldom looked at, bounded both ways."""
    plain = sum(tuning.rewards.get(kind, 0.0) for kind in kinds)
    if plain > 0:
        plain *= float((position + 1) ** tuning.position_bias)
    return max(-tuning.max_reward, min(tuning.max_reward, plain))


def credit_of(shares: Mapping[str, float], reward: float) -> dict[str, tuple[float, float]]:
    """(success, failure) for every arm. `shares`: each arm's part in finding the document; they sum to 1."""
    if reward > 0:
        return {arm: (reward * share, reward * (1 - share)) for arm, share in shares.items()}
    return {arm: (0.0, -reward * share) for arm, share in shares.items()}


def faded(value: float, then: datetime, now: datetime, tuning: Tuning) -> float:
    """A count of `then` as it counts `now`: exponential decay, nothing beyond the window."""
    days = max(0.0, (now - then).total_seconds() / _DAY_S)
    return 0.0 if days > tuning.decay_window_days else value * tuning.decay_factor**days


def exploration(trials: int, tuning: Tuning) -> float:
    """How much of the spread of the posterior is used after so many interactions."""
    return max(tuning.exploration_floor, tuning.exploration_bonus * tuning.exploration_decay**trials)


def sample_weights(arms: Mapping[str, Arm], tuning: Tuning, seed: int) -> dict[str, float]:
    """One draw from each posterior, its distance from the mean scaled by the exploration, clamped; they sum to 1.

    The same arms and seed give the same weights.
    """
    generator = random.Random(seed)
    effective = exploration(max((arm.trials for arm in arms.values()), default=0), tuning)
    drawn = {}
    for name in sorted(arms):  # the order of the searches must not change what is drawn
        arm = arms[name]
        mean = arm.mean(tuning)
        value = generator.betavariate(arm.successes + tuning.prior_alpha, arm.failures + tuning.prior_beta)
        drawn[name] = mean + (value - mean) * effective
    return normalised({name: drawn[name] for name in arms}, tuning)


def mean_weights(arms: Mapping[str, Arm], tuning: Tuning) -> dict[str, float]:
    """The weights without exploration."""
    return normalised({name: arm.mean(tuning) for name, arm in arms.items()}, tuning)


def normalised(weights: Mapping[str, float], tuning: Tuning) -> dict[str, float]:
    clamped = {name: min(tuning.max_weight, max(tuning.min_weight, value)) for name, value in weights.items()}
    total = math.fsum(clamped.values())
    return {name: value / total for name, value in clamped.items()}


def digest(*parts: object) -> int:
    """64 stable bits of some values: the same in every process."""
    data = "\x1f".join(str(part) for part in parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def context_key(kind: str, retriever_id: str, value: str) -> str:
    """The key of a person's or a group's posteriors. It does not give away who it is."""
    data = f"{retriever_id}\x1f{value}".encode("utf-8", "surrogatepass")
    return f"{kind}:{hashlib.blake2b(data, digest_size=12).hexdigest()}"


def in_rollout(retriever_id: str, identity: str, percent: float) -> bool:
    """Whether this person belongs to the share that gets learned weights. Raising the share keeps everybody in it."""
    return digest("rollout", retriever_id, identity) % 10_000 < round(percent * 100)
