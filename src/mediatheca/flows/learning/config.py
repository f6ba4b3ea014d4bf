"""How a retriever learns: the `learning_config` of its feature_search stage."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator

from mediatheca.kernel.bandit import REWARDS, Tuning
from mediatheca.kernel.errors import FieldError, ValidationError, plain_message
from mediatheca.kernel.mapping import MISSING, read_path

Feature = Annotated[str, Field(min_length=1, max_length=200)]
Kind = Annotated[str, Field(min_length=1, max_length=50)]
Reward = Annotated[float, Field(ge=-1_000, le=1_000)]


_NUMBERS = frozenset(
    (
        *("min_interactions", "exploration_bonus", "exploration_decay", "exploration_floor", "prior_alpha"),
        *(
            "prior_beta",
            "decay_factor",
            "decay_window_days",
            "max_reward_per_interaction",
            "min_weight",
            "max_weight",
            "seed",
        ),
        *("position_bias", "rollout_pct", "circuit_breaker_timeout_ms"),
    )
)


class LearningConfig(BaseModel):
    """Defaults are those of the hosted product; `seed`, `min_weight`, `max_weight` and `position_bias` are ours.

    A key that is not known is refused: `shadow_mod: true` would put learned weights live.
    """

    model_config = ConfigDict(extra="forbid")

    algorithm: Literal["thompson_sampling"] = "thompson_sampling"
    reward_signal: Kind = Field("click", description="What counts when reward_map is empty; click: the built-in map.")
    reward_map: dict[Kind, Reward] = Field(
        {}, max_length=100, description="Interaction type → reward; negative ones count against."
    )
    context_features: list[Feature] = Field(["INPUT.user_id"], max_length=10)
    demographic_features: list[Feature] = Field([], max_length=10)
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
    shadow_mode: StrictBool = False
    circuit_breaker_timeout_ms: int = Field(1_000, ge=10, le=10_000)
    seed: int | None = Field(
        None, description="Fixes every draw: the same user, inputs and counts give the same weights."
    )
    evaluation_dataset_id: str | None = Field(
        None, max_length=255, description="Golden data set, id or name, on which trained weights must prove themselves."
    )
    shipped_weight_set: Any = Field(None, exclude=True, description="Read only: what is sent here has no effect.")

    @model_validator(mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        """Nulls stand for defaults; true and false are no numbers."""
        if not isinstance(value, Mapping):
            return value
        truths = [name for name, given in value.items() if isinstance(given, bool) and name in _NUMBERS]
        if truths:
            raise ValueError(f"{truths[0]} must be a number, not true or false")
        return {name: given for name, given in value.items() if given is not None}

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


@dataclass(frozen=True, slots=True)
class Learning:
    """What the stages of a stored retriever say about learning. `error`: they cannot be read; then nothing is learned
    and no learned weight is used."""

    config: LearningConfig
    learns: bool
    error: str = ""


def learning_config(stages: Iterable[Mapping[str, Any]]) -> Learning:
    """The configuration of the first stage that fuses with learned weights."""
    for _, parameters in learners(stages):
        try:
            return Learning(LearningConfig.model_validate(parameters.get("learning_config") or {}), True)
        except pydantic.ValidationError as error:
            reason = "; ".join(f"{found.loc[-1]}: {found.msg}" for found in _errors(error, ("learning_config",)))
            return Learning(LearningConfig(rollout_pct=0), True, f"the stored learning_config is not valid: {reason}")
    return Learning(LearningConfig(), False)


def check_learning(stages: Iterable[Mapping[str, Any]]) -> LearningConfig | None:
    """The learning configuration of stages that are about to be stored; None where none of them learns.

    Raises:
        ValidationError: `learning_config` is missing or wrong, or several stages disagree; with the path.
    """
    found: LearningConfig | None = None
    for number, parameters in learners(stages):
        place = ("stages", number, "config", "parameters", "learning_config")
        raw = parameters.get("learning_config")
        if raw is None:
            raise ValidationError.at(place, "is required with fusion 'learned'; {} takes the defaults", "missing")
        try:
            config = LearningConfig.model_validate(raw)
        except pydantic.ValidationError as error:
            errors = _errors(error, place)
            raise ValidationError.of(errors) from error
        if found is not None and found != config:
            message = "differs from that of an earlier stage; a retriever learns in one way"
            raise ValidationError.at(place, message, "conflict")
        found = config
    return found


def _errors(error: pydantic.ValidationError, place: tuple[str | int, ...]) -> list[FieldError]:
    made = []
    for item in error.errors(include_url=False, include_context=False):
        message = plain_message(item)
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(item["loc"][-1])[:50], LearningConfig.model_fields, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(LearningConfig.model_fields)}"
            message = f"is not a key of learning_config; {hint}"
        elif isinstance(item.get("input"), str | int | float | bool):
            message = f"{message} (got {str(item['input'])[:60]!r})"
        made.append(FieldError((*place, *item["loc"]), message, item["type"]))
    return made


def learners(stages: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Number and parameters of the stages that fuse with learned weights."""
    for number, stage in enumerate(stages):
        parameters = (stage.get("config") or {}).get("parameters") or stage.get("parameters") or {}
        if "learned" in (parameters.get("fusion"), parameters.get("fusion_method")):
            yield number, parameters


def searches_of(stages: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The searches that learned fusion weighs, named as results name them, each with its own weight."""
    found: dict[str, float] = {}
    for _, parameters in learners(stages):
        for search in parameters.get("searches") or ():
            if isinstance(search, Mapping) and isinstance(search.get("feature_uri"), str):
                label = search["feature_uri"] + ("#lexical" if search.get("lexical") is True else "")
                weight = search.get("weight")
                found.setdefault(label, float(weight) if isinstance(weight, int | float) else 1.0)
    return found


def feature_values(features: Iterable[str], inputs: Mapping[str, Any]) -> list[str]:
    """What `INPUT.country` and the like are for these inputs; only those that are given."""
    found = []
    for name in features:
        path = name.split(".", 1)[1] if name.lower().startswith(("input.", "inputs.")) else name
        value = read_path(dict(inputs), path)
        if value is not MISSING and isinstance(value, str | int | float | bool):
            found.append(f"{path}={value}")
    return found
