"""The switches of learned fusion: on or off, roll-out share, shadow mode, and who opted out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mediatheca.flows.held import hold
from mediatheca.flows.learning.config import LearningConfig, learning_config, searches_of
from mediatheca.kernel import clock
from mediatheca.kernel.bandit import context_key
from mediatheca.stores.db.tx import ReadTx, Tx

KIND = "learned_fusion"


@dataclass(frozen=True, slots=True)
class FusionSettings:
    """As they apply: what was switched by hand goes before the stage's configuration."""

    enabled: bool = True
    rollout_pct: float = 100.0
    shadow_mode: bool = False
    shipped_weight_set: str | None = None
    shipped_weights: Mapping[str, float] = field(default_factory=dict)
    """Search → weight, trained on a golden data set: used wherever no learned weights are."""

    def as_dict(self) -> dict[str, Any]:
        names = ("enabled", "rollout_pct", "shadow_mode", "shipped_weight_set")
        return {name: getattr(self, name) for name in names}


def read_settings(tx: ReadTx, retriever_id: str, config: LearningConfig) -> FusionSettings:
    found = tx.row("resources", {"kind": KIND, "id": retriever_id})
    body = found["body"] if found else {}
    return FusionSettings(
        body.get("enabled", True),
        body.get("rollout_pct", config.rollout_pct),
        body.get("shadow_mode", config.shadow_mode),
        body.get("shipped_weight_set"),
        body.get("shipped_weights") or {},
    )


def static_settings(tx: ReadTx, retriever_id: str, stages: Sequence[Mapping[str, Any]] | None = None) -> FusionSettings:
    """The switches, with a shipped weight set only if it was trained for the searches there are now, and learned
    fusion is on. `stages`: those of the retriever, where they have been read already."""
    if stages is None:
        record = tx.find("retriever", retriever_id)
        stages = record.body["stages"] if record is not None else ()
    settings = read_settings(tx, retriever_id, learning_config(stages).config)
    if settings.enabled and set(settings.shipped_weights) == set(searches_of(stages)):
        return settings
    return replace(settings, shipped_weight_set=None, shipped_weights={})


def write_settings(tx: Tx, retriever_id: str, values: dict[str, Any]) -> None:
    """Change switches; an event says which."""
    found = hold(tx, KIND, retriever_id)
    if found is None:
        tx.put(KIND, "lf", retriever_id, values, parent=retriever_id, ident=retriever_id)
    else:
        tx.change(found, {**found.body, **values})
    tx.emit("learned_fusion.updated", retriever_id, values)


def user_key(retriever_id: str, user_id: str) -> str:
    """Of a person's posteriors: a hash."""
    return context_key("user", retriever_id, user_id)


def opted_out(tx: ReadTx, retriever_id: str, user_id: str) -> bool:
    row = tx.row("fusion_users", {"retriever_id": retriever_id, "user_key": user_key(retriever_id, user_id)})
    return bool(row and row["opted_out"])


def set_opt_out(tx: Tx, retriever_id: str, user_id: str, out: bool) -> None:
    key = user_key(retriever_id, user_id)
    values = {"opted_out": out, "updated_at": clock.now()}
    if not tx.update("fusion_users", {"retriever_id": retriever_id, "user_key": key}, values):
        tx.insert("fusion_users", [{"retriever_id": retriever_id, "user_key": key, **values}])
    tx.emit("learned_fusion.opted_out" if out else "learned_fusion.opted_in", retriever_id, {"context_key": key})
