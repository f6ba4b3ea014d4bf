"""The switches of learned fusion: on or off, roll-out share, shadow mode, and who opted out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mediatheca.flows.learning.config import LearningConfig
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

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_settings(tx: ReadTx, retriever_id: str, config: LearningConfig) -> FusionSettings:
    found = tx.row("resources", {"kind": KIND, "id": retriever_id})
    body = found["body"] if found else {}
    return FusionSettings(
        body.get("enabled", True),
        body.get("rollout_pct", config.rollout_pct),
        body.get("shadow_mode", config.shadow_mode),
    )


def write_settings(tx: Tx, retriever_id: str, values: dict[str, Any]) -> None:
    """Change switches; an event says which."""
    found = tx.find(KIND, retriever_id)
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
