"""How a retriever learns: the `learning_config` of its feature_search stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from mediatheca.kernel.bandit import REWARDS, Tuning
from mediatheca.kernel.mapping import MISSING, read_path


class LearningConfig(BaseModel):
    """Defaults are those of the hosted product; `seed`, `min_weight`, `max_weight` and `position_bias` are ours."""

    model_config = ConfigDict(extra="ignore")

    algorithm: Literal["thompson_sampling"] = "thompson_sampling"
    reward_signal: str = Field("click", description="What counts when reward_map is empty; click: the built-in map.")
    reward_map: dict[str, float] = Field({}, description="Interaction type → reward; negative ones count against.")
    context_features: list[str] = Field(["INPUT.user_id"], max_length=10)
    demographic_features: list[str] = Field([], max_length=10)
    min_interactions: int = Field(5, ge=1, le=10_000)
    fallback_strategy: Literal["hierarchical", "global"] = "hierarchical"
    exploration_bonus: float = Field(1.0, ge=0.1, le=10)
    exploration_decay: float = Field(0.99, gt=0, le=1)
    exploration_floor: float = Field(0.1, ge=0, le=1)
    prior_alpha: float = Field(1.0, gt=0, le=1_000)
    prior_beta: float = Field(1.0, gt=0, le=1_000)
    decay_factor: float = Field(0.995, ge=0.9, le=1)
    decay_window_days: int = Field(365, ge=1, le=3_650)
    max_reward_per_interaction: float = Field(5.0, gt=0, le=1_000)
    min_weight: float = Field(0.05, ge=0, le=0.5)
    max_weight: float = Field(0.95, ge=0.5, le=1)
    position_bias: float = Field(0.5, ge=0, le=2)
    rollout_pct: float = Field(100.0, ge=0, le=100)
    shadow_mode: bool = False
    circuit_breaker_timeout_ms: int = Field(1_000, ge=10, le=10_000)
    seed: int | None = Field(
        None, description="Fixes every draw: the same user, inputs and counts give the same weights."
    )

    @property
    def tuning(self) -> Tuning:
        return Tuning(
            exploration_bonus=self.exploration_bonus,
            exploration_decay=self.exploration_decay,
            exploration_floor=self.exploration_floor,
            prior_alpha=self.prior_alpha,
            prior_beta=self.prior_beta,
            decay_factor=self.decay_factor,
            decay_window_days=float(self.decay_window_days),
            max_reward=self.max_reward_per_interaction,
            min_weight=self.min_weight,
            max_weight=self.max_weight,
            position_bias=self.position_bias,
            rewards=self.rewards,
        )

    @property
    def rewards(self) -> Mapping[str, float]:
        if self.reward_map:
            return self.reward_map
        return REWARDS if self.reward_signal == "click" else {self.reward_signal: 1.0}


def learning_config(stages: Iterable[Mapping[str, Any]]) -> tuple[LearningConfig, bool]:
    """The configuration of the first stage that fuses with learned weights, and whether there is one.

    What a stored retriever carries and does not fit any more is replaced by the default rather than failing a search.
    """
    for stage in stages:
        parameters = (stage.get("config") or {}).get("parameters") or stage.get("parameters") or {}
        if parameters.get("fusion") == "learned" or parameters.get("fusion_method") == "learned":
            try:
                return LearningConfig.model_validate(parameters.get("learning_config") or {}), True
            except pydantic.ValidationError:
                return LearningConfig(), True
    return LearningConfig(), False


def searches_of(stages: Iterable[Mapping[str, Any]]) -> list[str]:
    """The searches that learned fusion weighs, named as results name them."""
    found = []
    for stage in stages:
        parameters = (stage.get("config") or {}).get("parameters") or stage.get("parameters") or {}
        if parameters.get("fusion") == "learned" or parameters.get("fusion_method") == "learned":
            for search in parameters.get("searches") or ():
                if isinstance(search, Mapping) and isinstance(search.get("feature_uri"), str):
                    found.append(search["feature_uri"] + ("#lexical" if search.get("lexical") is True else ""))
    return list(dict.fromkeys(found))


def feature_values(features: Iterable[str], inputs: Mapping[str, Any]) -> list[str]:
    """What `INPUT.country` and the like are for these inputs; only those that are given."""
    found = []
    for name in features:
        path = name.split(".", 1)[1] if name.lower().startswith(("input.", "inputs.")) else name
        value = read_path(dict(inputs), path)
        if value is not MISSING and isinstance(value, str | int | float | bool):
            found.append(f"{path}={value}")
    return found
