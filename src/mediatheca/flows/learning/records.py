"""Interactions that were recorded: how they look, and removing them with all that was learned from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from mediatheca.flows.executions import ExecutionLog
from mediatheca.flows.learning.arms import Ledger
from mediatheca.flows.learning.config import LearningConfig, learning_config
from mediatheca.flows.learning.service import LearnedFusion
from mediatheca.flows.learning.settings import KIND, user_key
from mediatheca.flows.shown import forget_shown
from mediatheca.kernel.clock import wire_time
from mediatheca.kernel.errors import NotFoundError
from mediatheca.kernel.filters import parse_filter
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.listing import ListQuery
from mediatheca.stores.db.tx import Cmp, ReadTx, Row, Tx

MOST = 200_000
"""Interactions read at once."""


def dropping(learning: LearnedFusion, scope: Scope, retriever_id: str) -> Callable[[], None]:
    """To be done after a commit: what memory holds of a retriever is not current any more."""
    return lambda: learning.drop(scope, retriever_id)


def interaction_view(row: Row) -> dict[str, Any]:
    """An interaction as callers read it."""
    return {
        **row["body"],
        "interaction_id": row["interaction_id"],
        "feature_id": row["feature_id"],
        "document_id": row["feature_id"],
        "user_id": row["user_id"] or None,
        "session_id": row["session_id"] or None,
        "execution_id": row["execution_id"] or None,
        "deduplicated": False,
        "timestamp": wire_time(row["occurred_at"]),
        "learned": row["learned"],
    }


def remove_interaction(tx: Tx, learning: LearnedFusion, interaction_id: str) -> None:
    """Delete one, and take out what was learned from it.

    Raises:
        NotFoundError: there is none.
    """
    row = tx.row("interactions", {"interaction_id": interaction_id})
    if row is None:
        raise NotFoundError("interaction", interaction_id)
    _unlearn(tx, learning, [row])
    tx.delete("interactions", {"interaction_id": interaction_id})


def _unlearn(tx: Tx, learning: LearnedFusion, rows: Sequence[Row]) -> None:
    ledger = Ledger(-1)
    configs: dict[str, LearningConfig] = {}
    for row in rows:
        if not row["credit"]:
            continue
        retriever_id = row["retriever_id"]
        if retriever_id not in configs:
            record = tx.find("retriever", retriever_id)
            configs[retriever_id] = learning_config(record.body["stages"] if record else []).config
        moment, tuning = row["occurred_at"], configs[retriever_id].tuning
        ledger.add(retriever_id, row["credit"]["keys"], row["credit"]["arms"], moment, tuning)
    for retriever_id in ledger.write(tx):
        tx.after(dropping(learning, tx.scope, retriever_id))


def reset_user(tx: Tx, learning: LearnedFusion, retriever_id: str, user_id: str) -> int:
    """Forget what was learned about a person at one retriever; the interactions stay. Returns the rows removed."""
    key = user_key(retriever_id, user_id)
    tx.after(dropping(learning, tx.scope, retriever_id))
    return tx.delete("fusion_arms", {"retriever_id": retriever_id, "context_key": key})


def forget_user(tx: Tx, executions: ExecutionLog, learning: LearnedFusion, user_id: str) -> dict[str, int]:
    """Remove everything that is kept about a person in this namespace: interactions, what was learned from them, and
    the records of executions that name the person or that the interactions hang on."""
    rows = tx.rows("interactions", {"user_id": user_id})
    _unlearn(tx, learning, rows)
    tx.delete("interactions", {"user_id": user_id})
    contexts = 0
    for retriever in {row["retriever_id"] for row in rows} | {record.id for record in tx.resources("retriever")}:
        if retriever:
            contexts += min(1, reset_user(tx, learning, retriever, user_id))
            tx.delete("fusion_users", {"retriever_id": retriever, "user_key": user_key(retriever, user_id)})
    gone = _forget_executions(tx, {row["execution_id"] for row in rows if row["execution_id"]}, user_id)
    tx.after(lambda: executions.forget(tx.scope, gone, user_id))
    return {"interactions": len(rows), "learned_contexts": contexts, "executions": len(gone)}


def _forget_executions(tx: Tx, ids: set[str], user_id: str) -> set[str]:
    named = {"OR": [{"field": f"{place}user_id", "operator": "eq", "value": user_id} for place in ("", "inputs.")]}
    keep = parse_filter(named, case_sensitive=True)
    cursor: str | None = None
    gone = set(ids)
    while True:
        page = tx.page("executions", {}, ListQuery(limit=1000, cursor=cursor, filter=keep, include_total=False))
        gone |= {row["execution_id"] for row in page.rows}
        cursor = page.next_cursor
        if cursor is None:
            break
    listed = sorted(gone)
    forget_shown(tx, user_id, listed)
    for start in range(0, len(listed), 500):
        tx.delete("executions", {"execution_id": listed[start : start + 500]})
    return gone


def interactions_of(tx: ReadTx, retriever_id: str, since: datetime) -> list[Row]:
    """Interactions with a retriever since then, oldest first."""
    where = {"retriever_id": retriever_id, "occurred_at": Cmp(">=", since)}
    return tx.rows("interactions", where, order=("occurred_at", "interaction_id"), limit=MOST)


def forget_retriever(tx: Tx, retriever_id: str) -> None:
    """What hangs on a retriever that is deleted: interactions, learning, evaluations, publication and keys."""
    for table in ("interactions", "fusion_arms", "fusion_users", "publications", "retriever_keys"):
        tx.delete(table, {"retriever_id": retriever_id})
    for kind in ("evaluation", "weight_set", "calibration", KIND):
        tx.delete("resources", {"kind": kind, "parent": retriever_id})
