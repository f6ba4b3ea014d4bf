"""Weights for one search, sampled from what was learned. On the event loop: from memory, or one trip to the database.

Whatever keeps learned weights from being used (off, outside the roll-out, opted out, nothing learned yet, a database
that does not answer in time, a stored configuration that cannot be read) is said in the context that the answer of the
execution carries. The static fusion is used then: the weight set that was shipped, or else ranks.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import structlog

from mediatheca.flows.learning.arms import read_arms
from mediatheca.flows.learning.config import Learning, LearningConfig, feature_values, learning_config
from mediatheca.flows.learning.settings import FusionSettings, opted_out, static_settings, user_key
from mediatheca.kernel import clock
from mediatheca.kernel.bandit import GLOBAL, Arm, context_key, digest, exploration, in_rollout, sample_weights
from mediatheca.kernel.errors import MediathecaError
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database

log = structlog.get_logger()
TTL_S = 5.0
"""How long what another process learned may stay unseen."""
_MAX = 10_000
_FIRST_LOAD_S = 5.0


@dataclass(frozen=True, slots=True)
class Asker:
    """For whom weights are wanted."""

    scope: Scope
    retriever_id: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    user_id: str = ""
    session_id: str = ""

    @property
    def identity(self) -> str:
        """Who is put into the roll-out: the person, else the session, else the question."""
        return self.user_id or self.session_id or orjson.dumps(dict(self.inputs), default=str, option=_SORTED).decode()


_SORTED = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS


@dataclass(frozen=True, slots=True)
class Sampled:
    """`weights` None: fuse as if nothing had been learned. `context`: what the answer says about it."""

    weights: dict[str, float] | None
    context: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Level:
    """What was counted in one context."""

    name: str
    key: str
    arms: Mapping[str, Arm]

    @property
    def trials(self) -> int:
        return max((arm.trials for arm in self.arms.values()), default=0)


@dataclass(frozen=True, slots=True)
class _State:
    """What decides for one person and segment."""

    settings: FusionSettings
    learning: Learning
    opted_out: bool
    levels: tuple[Level, ...]
    expires: float

    @property
    def config(self) -> LearningConfig:
        return self.learning.config


@dataclass(slots=True)
class _Known:
    """What is remembered of a retriever: its configuration, and a state for each combination of contexts."""

    config: LearningConfig
    states: dict[str, _State] = field(default_factory=dict)


def levels_of(retriever_id: str, config: LearningConfig, user_id: str, inputs: Mapping[str, Any]) -> dict[str, str]:
    """Level → context key, the most personal first."""
    found = {}
    if user_id:
        found["personal"] = user_key(retriever_id, user_id)
    values = feature_values(config.demographic_features, inputs)
    if values and config.fallback_strategy == "hierarchical":
        found["demographic"] = context_key("segment", retriever_id, "\x1f".join(values))
    return {**found, GLOBAL: GLOBAL}


def user_of(config: LearningConfig, user_id: str, inputs: Mapping[str, Any]) -> str:
    """Who asks: what the request says, else what the context features find in the inputs."""
    return user_id or ",".join(value.partition("=")[2] for value in feature_values(config.context_features, inputs))


def chosen_level(levels: Sequence[Level], min_interactions: int) -> Level | None:
    """The most personal context with enough interactions; None: nothing was learned."""
    for level in levels:
        if level.trials >= (min_interactions if level.name == "personal" else 1):
            return level
    return None


class LearnedFusion:
    """One per process."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._known: dict[tuple[Scope, str], _Known] = {}
        self._lock, self._drops = threading.Lock(), 0
        database.listen(self._changed)

    def _changed(self, topics: set[str]) -> None:
        if topics & {"resource:learned_fusion", "resource:retriever", "fusion_users"}:
            self._known = {}

    def drop(self, scope: Scope, retriever_id: str) -> None:
        """Forget what is remembered of a retriever: it has learned something. What is being read right now may be of
        before that, and is not kept."""
        with self._lock:
            self._drops += 1
            self._known.pop((scope, retriever_id), None)

    async def sample(self, asker: Asker, feature_uris: Sequence[str]) -> Sampled:
        """Weights for these searches, which sum to 1."""
        uris = list(dict.fromkeys(feature_uris))
        try:
            state = await self._state(asker)
        except TimeoutError:
            return _static(uris, "what was learned could not be read in time")
        except MediathecaError as error:
            log.warning("learned_fusion.unavailable", retriever=asker.retriever_id, error=error.message)
            return _static(uris, f"what was learned could not be read: {error.message}")
        refusal = _refusal(state, asker)
        if refusal:
            return _static(uris, refusal, state=state)
        level = chosen_level(state.levels, state.config.min_interactions)
        if level is None:
            return _static(uris, "nothing was learned yet", "uniform", state)
        return _drawn(state, asker, level, uris)

    async def _state(self, asker: Asker) -> _State:
        known = self._known.get((asker.scope, asker.retriever_id))
        if known is None:
            return await self._loaded(asker, _FIRST_LOAD_S)
        held = known.states.get(_combination(known.config, asker))
        if held is not None and held.expires > time.monotonic():
            return held
        return await self._loaded(asker, known.config.circuit_breaker_timeout_ms / 1000)

    async def _loaded(self, asker: Asker, patience_s: float) -> _State:
        async with asyncio.timeout(patience_s):
            return await asyncio.to_thread(self._load, asker)

    def _load(self, asker: Asker) -> _State:
        memory, drops = self._known, self._drops  # of before the look-up: a change that commits meanwhile replaces them
        with self._db.read(asker.scope) as tx:
            record = tx.find("retriever", asker.retriever_id)
            stages = record.body["stages"] if record else []
            learning = learning_config(stages)
            config = learning.config
            user = user_of(config, asker.user_id, asker.inputs)
            keys = levels_of(asker.retriever_id, config, user, asker.inputs)
            settings = static_settings(tx, asker.retriever_id, stages)
            out = bool(user) and opted_out(tx, asker.retriever_id, user)
            arms = read_arms(tx, asker.retriever_id, list(keys.values()), config.tuning)
        levels = tuple(Level(name, key, arms[key]) for name, key in keys.items())
        if learning.error:
            log.warning("learned_fusion.broken_config", retriever=asker.retriever_id, error=learning.error)
        state = _State(settings, learning, out, levels, time.monotonic() + TTL_S)
        with self._lock:
            if self._drops == drops:
                _keep(memory, asker, state)
        return state


def _keep(memory: dict[tuple[Scope, str], _Known], asker: Asker, state: _State) -> None:
    if len(memory) >= _MAX:
        memory.clear()
    known = memory.setdefault((asker.scope, asker.retriever_id), _Known(state.config))
    if len(known.states) >= _MAX:
        known.states.clear()
    known.config = state.config
    known.states[_combination(state.config, asker)] = state


def _combination(config: LearningConfig, asker: Asker) -> str:
    """Names the contexts of a person: whoever shares them shares what was learned."""
    user = user_of(config, asker.user_id, asker.inputs)
    return "\x1e".join(levels_of(asker.retriever_id, config, user, asker.inputs).values())


def _refusal(state: _State, asker: Asker) -> str:
    if state.learning.error:
        return state.learning.error
    if not state.settings.enabled:
        return "learned fusion is switched off for this retriever"
    if state.opted_out:
        return "this user has opted out"
    identity = user_of(state.config, asker.user_id, asker.inputs) or asker.identity
    if not in_rollout(asker.retriever_id, identity, state.settings.rollout_pct):
        return f"outside the roll-out of {state.settings.rollout_pct:g} %"
    return ""


def _drawn(state: _State, asker: Asker, level: Level, uris: Sequence[str]) -> Sampled:
    tuning, seed = state.config.tuning, _seed(state.config, asker)
    weights = sample_weights({uri: level.arms.get(uri, Arm()) for uri in uris}, tuning, seed)
    shadow = state.settings.shadow_mode
    context = {
        "context_key": level.key,
        "context_level": level.name,
        "sampled_weights": weights,
        "feature_uris": list(uris),
        "effective_exploration": exploration(level.trials, tuning),
        "interactions": level.trials,
        "applied": not shadow,
        "shadow_mode": shadow,
        "seed": seed,
        "weight_set_id": state.settings.shipped_weight_set if shadow else None,
        "reason": "shadow mode: the weights were drawn and not used" if shadow else None,
    }
    return Sampled(_shipped(state) if shadow else weights, context)


def _shipped(state: _State | None) -> dict[str, float] | None:
    """The weights of the shipped set; None where there is none, or learned fusion is switched off."""
    if state is None or not state.settings.enabled:
        return None
    return dict(state.settings.shipped_weights) or None


def _seed(config: LearningConfig, asker: Asker) -> int:
    """The same all day for the same person and question, so that pages of a result fit together and a repeated search
    does not flicker; the same for ever where the configuration fixes it. At most 53 bits: clients read doubles."""
    inputs = orjson.dumps(dict(asker.inputs), default=str, option=_SORTED).decode()
    period = clock.now().date().isoformat() if config.seed is None else config.seed
    return digest("weights", asker.retriever_id, asker.user_id or asker.session_id, inputs, period) >> 11


def _static(uris: Sequence[str], reason: str, level: str = "static", state: _State | None = None) -> Sampled:
    """The answer without learned weights: those of the shipped set, if there is one."""
    shipped = _shipped(state)
    context = {
        "context_key": None,
        "context_level": level,
        "sampled_weights": None,
        "feature_uris": list(uris),
        "effective_exploration": 0.0,
        "interactions": 0,
        "applied": False,
        "shadow_mode": False,
        "seed": None,
        "weight_set_id": state.settings.shipped_weight_set if state is not None and shipped else None,
        "broken": state is not None and bool(state.learning.error),
        "reason": reason,
    }
    return Sampled(shipped, context)
