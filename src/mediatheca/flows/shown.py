"""What was shown to whom: which documents a session, or a person, has seen already. They are kept under hashes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from mediatheca.kernel.bandit import context_key
from mediatheca.kernel.filter_checks import MAX_ITEMS
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.tx import ReadTx, Row, Tx

By = Literal["session", "user"]
MAX_SEEN = MAX_ITEMS
"""Documents that are left out, those seen last: what one condition of a filter may hold."""
_EXECUTIONS = 200
"""Answers looked at, the newest."""


def viewer_key(by: By, scope: Scope, ident: str) -> str:
    """A hash: it does not give away who it is. Empty for nobody."""
    return context_key(f"seen-{by}", scope.namespace_id, ident) if ident else ""


def user_named(user_id: Any, inputs: Mapping[str, Any]) -> str:
    """Who asks: what the request says, else an input of that name."""
    found = user_id or inputs.get("user_id") or ""
    return found if isinstance(found, str) else str(found)


def shown_rows(scope: Scope, executions: Iterable[Row]) -> list[Row]:
    """The rows to keep of these executions; none of those that nobody is named in."""
    made = []
    for row in executions:
        body = row["body"]
        session = viewer_key("session", scope, body.get("session_id") or "")
        user = viewer_key("user", scope, user_named(body.get("user_id"), body.get("inputs") or {}))
        documents = _ids(row)
        if (session or user) and documents:
            keys = {"session_key": session, "user_key": user, "documents": documents}
            made.append({"execution_id": row["execution_id"], **keys, "created_at": row["created_at"]})
    return made


def _ids(row: Row) -> list[str]:
    return [ident for ident, _ in row["body"].get("ranking") or () if ident]


def seen_by(tx: ReadTx, by: By, ident: str, recent: Sequence[Row]) -> list[str]:
    """Documents this session or person was shown or did something with, the newest first, at most `MAX_SEEN`.

    `recent`: records of executions that may not be in the database yet.
    """
    key = viewer_key(by, tx.scope, ident)
    found: dict[str, None] = {}
    column = f"{by}_key"
    for row in shown_rows(tx.scope, recent):
        if row[column] == key:
            found |= dict.fromkeys(row["documents"])
    newest = ("-created_at",)
    for row in tx.rows("shown_results", {column: key}, columns=("documents",), order=newest, limit=_EXECUTIONS):
        found |= dict.fromkeys(row["documents"])
    where = {f"{by}_id": ident}
    for row in tx.rows("interactions", where, columns=("feature_id",), order=newest, limit=MAX_SEEN):
        found.setdefault(row["feature_id"])
    return list(found)[:MAX_SEEN]


def forget_shown(tx: Tx, user_id: str, execution_ids: Sequence[str]) -> None:
    """Remove what is kept of the answers a person was shown."""
    tx.delete("shown_results", {"user_key": viewer_key("user", tx.scope, user_id)})
    for start in range(0, len(execution_ids), 500):
        tx.delete("shown_results", {"execution_id": execution_ids[start : start + 500]})
