"""Learned fusion: switches, roll-out, opt-out, and what was learned about the searches of a retriever."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from mediatheca.api.deps import Delete, Deleter, Read, Write, answer
from mediatheca.flows.learning import FusionSettings, LearningConfig, learning_config, read_settings, write_settings
from mediatheca.flows.learning.arms import read_arms
from mediatheca.flows.learning.records import reset_user
from mediatheca.flows.learning.service import Level, chosen_level, levels_of
from mediatheca.flows.learning.settings import opted_out, set_opt_out, user_key
from mediatheca.kernel.bandit import GLOBAL, Arm, exploration, in_rollout, mean_weights
from mediatheca.kernel.clock import wire_time
from mediatheca.kernel.errors import ValidationError
from mediatheca.stores.db.tx import Cmp, ReadTx, Record

router = APIRouter(tags=["learned fusion"])
_BASE = "/retrievers/{identifier}/learned-fusion"
_EVENTS = ("learned_fusion.updated", "learned_fusion.opted_out", "learned_fusion.opted_in", "learned_fusion.reset")
ACTIVITY = 50


class Switches(BaseModel):
    """Beside on and off: `shadow_mode` draws weights and reports them without using them."""

    model_config = ConfigDict(extra="ignore")

    rollout_pct: float | None = Field(None, ge=0, le=100)
    shadow_mode: bool | None = None


class Rollout(BaseModel):
    model_config = ConfigDict(extra="ignore")

    rollout_pct: float = Field(ge=0, le=100)
    shadow_mode: bool | None = None


def _shown(tx: ReadTx, retriever: Record) -> dict[str, Any]:
    found = learning_config(retriever.body["stages"])
    settings = read_settings(tx, retriever.id, found.config)
    notes = [found.error] if found.error else []
    if not found.learns:
        notes.append("no stage of this retriever has fusion 'learned': nothing is learned or used until one has")
    return {"retriever_id": retriever.id, **settings.as_dict(), "learns": found.learns, "warnings": notes}


def _switch(tx: Any, identifier: str, values: dict[str, Any]) -> Response:
    retriever = tx.get("retriever", identifier)
    write_settings(tx, retriever.id, {name: value for name, value in values.items() if value is not None})
    return answer(_shown(tx, retriever))


@router.post(f"{_BASE}/enable", operation_id="learned_fusion_enable", response_model=None)
def enable(identifier: str, tx: Write, switches: Switches | None = None) -> Response:
    """Use what is learned."""
    return _switch(tx, identifier, {"enabled": True, **(switches or Switches()).model_dump()})


@router.post(f"{_BASE}/disable", operation_id="learned_fusion_disable", response_model=None)
def disable(identifier: str, tx: Write) -> Response:
    """Stop using it, and stop learning; what was learned stays."""
    return _switch(tx, identifier, {"enabled": False})


@router.post(f"{_BASE}/rollout", operation_id="learned_fusion_rollout", response_model=None)
def rollout(identifier: str, spec: Rollout, tx: Write) -> Response:
    """The share of people that get learned weights; the same people as it grows."""
    return _switch(tx, identifier, spec.model_dump())


def _user(user_id: str) -> str:
    if len(user_id) > 255:
        raise ValidationError.at(("path", "user_id"), "must have at most 255 characters", "string_too_long")
    return user_id


@router.post(f"{_BASE}/opt-out/{{user_id}}", operation_id="learned_fusion_opt_out", response_model=None)
def opt_out(identifier: str, user_id: str, tx: Write) -> Response:
    """This person is neither learned from nor given learned weights."""
    retriever = tx.get("retriever", identifier)
    set_opt_out(tx, retriever.id, _user(user_id), True)
    return answer({"retriever_id": retriever.id, "user_id": user_id, "opted_out": True, "opted_in": False})


@router.post(f"{_BASE}/opt-in/{{user_id}}", operation_id="learned_fusion_opt_in", response_model=None)
def opt_in(identifier: str, user_id: str, tx: Write) -> Response:
    retriever = tx.get("retriever", identifier)
    set_opt_out(tx, retriever.id, _user(user_id), False)
    return answer({"retriever_id": retriever.id, "user_id": user_id, "opted_out": False, "opted_in": True})


@router.delete(f"{_BASE}/user/{{user_id}}", operation_id="learned_fusion_reset_user", response_model=None)
def reset(identifier: str, user_id: str, tx: Delete, caller: Deleter) -> Response:
    """Forget what was learned about a person at this retriever."""
    retriever = tx.get("retriever", identifier)
    removed = reset_user(tx, caller.services.learning, retriever.id, _user(user_id))
    tx.emit("learned_fusion.reset", retriever.id, {"context_key": user_key(retriever.id, user_id)})
    message = f"what was learned about this user was removed ({removed} arms)"
    return answer(
        {"success": True, "retriever_id": retriever.id, "user_id": user_id, "reset": True, "message": message}
    )


# ---- what was learned


def _arms(retriever: Record, level: Level, config: LearningConfig) -> dict[str, Any]:
    """Posteriors and mean weights of a context; searches nothing was learned about have the prior."""
    names = list(dict.fromkeys([*retriever.body["feature_uris"], *sorted(level.arms)]))
    arms = {name: level.arms.get(name, Arm()) for name in names}
    tuning = config.tuning
    return {
        "context_key": level.key,
        "context_level": level.name,
        "weights": mean_weights(arms, tuning) if arms else {},
        "arms": [
            {
                "feature_uri": name,
                "alpha": arm.successes + tuning.prior_alpha,
                "beta": arm.failures + tuning.prior_beta,
                "mean": arm.mean(tuning),
                "interactions": arm.trials,
            }
            for name, arm in arms.items()
        ],
        "interactions": level.trials,
        "effective_exploration": exploration(level.trials, tuning),
    }


@router.get(f"{_BASE}/weights", operation_id="learned_fusion_weights", response_model=None)
def weights(identifier: str, tx: Read) -> Response:
    """The mean weights over everybody."""
    retriever = tx.get("retriever", identifier)
    config = learning_config(retriever.body["stages"]).config
    arms = read_arms(tx, retriever.id, [GLOBAL], config.tuning)[GLOBAL]
    return answer({**_shown(tx, retriever), **_arms(retriever, Level(GLOBAL, GLOBAL, arms), config)})


@router.get(f"{_BASE}/weights/{{user_id}}", operation_id="learned_fusion_user_weights", response_model=None)
def user_weights(identifier: str, user_id: str, tx: Read) -> Response:
    """The mean weights this person gets: own ones after enough interactions, else everybody's."""
    retriever = tx.get("retriever", identifier)
    config = learning_config(retriever.body["stages"]).config
    settings = read_settings(tx, retriever.id, config)
    keys = levels_of(retriever.id, config, _user(user_id), {})
    arms = read_arms(tx, retriever.id, list(keys.values()), config.tuning)
    levels = [Level(name, key, arms[key]) for name, key in keys.items()]
    level = chosen_level(levels, config.min_interactions) or Level("uniform", GLOBAL, {})
    out = opted_out(tx, retriever.id, user_id)
    person = {
        "user_id": user_id,
        "opted_out": out,
        "in_rollout": _receives(settings, retriever.id, user_id, out),
        "personal_interactions": levels[0].trials,
        "min_interactions": config.min_interactions,
    }
    return answer({**_shown(tx, retriever), **person, **_arms(retriever, level, config)})


def _receives(settings: FusionSettings, retriever_id: str, user_id: str, out: bool) -> bool:
    return settings.enabled and not out and in_rollout(retriever_id, user_id, settings.rollout_pct)


@router.get(f"{_BASE}/stats", operation_id="learned_fusion_stats", response_model=None)
def stats(identifier: str, tx: Read) -> Response:
    """How much was recorded and learned."""
    retriever = tx.get("retriever", identifier)
    config = learning_config(retriever.body["stages"]).config
    where = {"retriever_id": retriever.id}
    arms = read_arms(tx, retriever.id, [GLOBAL], config.tuning)[GLOBAL]
    first = {**where, "feature_uri": next(iter(sorted(arms)), "")}
    people = tx.count("fusion_arms", {**first, "context_key": Cmp(">=", "user:")})
    segments = tx.count("fusion_arms", {**first, "context_key": Cmp(">=", "segment:")}) - people
    counts = {
        "total_interactions": tx.count("interactions", where),
        "learned_interactions": tx.count("interactions", {**where, "learned": True}),
        "unique_users": people,
        "segments": segments,
        "opted_out_users": tx.count("fusion_users", {**where, "opted_out": True}),
    }
    configured = {"config": config.model_dump(mode="json")}
    return answer(
        {**_shown(tx, retriever), **counts, **_arms(retriever, Level(GLOBAL, GLOBAL, arms), config), **configured}
    )


@router.get(f"{_BASE}/activity", operation_id="learned_fusion_activity", response_model=None)
def activity(identifier: str, tx: Read) -> Response:
    """The newest things that were learned, and changes of the switches."""
    retriever = tx.get("retriever", identifier)
    where = {"retriever_id": retriever.id, "learned": True}
    learned = tx.rows("interactions", where, order=("-interaction_id",), limit=ACTIVITY)
    changed = tx.rows("events", {"resource_id": retriever.id, "type": list(_EVENTS)}, order=("-seq",), limit=ACTIVITY)
    entries = [
        {
            "type": "interaction",
            "timestamp": wire_time(row["created_at"]),
            "interaction_id": row["interaction_id"],
            "interaction_type": row["body"]["interaction_type"],
            "reward": row["body"]["metadata"]["reward_value"],
            "credit": row["credit"]["arms"],
            "contexts": row["credit"]["keys"],
        }
        for row in learned
    ]
    entries += [
        {"type": row["type"], "timestamp": wire_time(row["created_at"]), "details": row["payload"]} for row in changed
    ]
    entries.sort(key=lambda entry: str(entry["timestamp"]), reverse=True)
    shown = entries[:ACTIVITY]
    return answer(
        {"retriever_id": retriever.id, "activity": shown, "events": shown, "results": shown, "total": len(shown)}
    )
