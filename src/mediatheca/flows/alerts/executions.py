"""Executions of alerts as clients read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mediatheca.kernel.clock import wire_time
from mediatheca.stores.db.tx import ReadTx, Row


def execution_view(row: Row, deliveries: Sequence[Mapping[str, Any]] = ()) -> Row:
    """An execution as clients read it."""
    body = row["body"]
    shown = [_delivery(entry) for entry in deliveries]
    if not shown and body.get("said") == "deferred":
        shown = [{"channel_type": name, "status": "deferred", "error": None} for name in body.get("channels") or ()]
    return {
        "execution_id": row["execution_id"],
        "alert_id": row["alert_id"],
        "collection_id": row["collection_id"],
        "triggered": bool(row["triggered"]),
        "trigger_reason": body["trigger_reason"] or None,
        "match_count": body["match_count"],
        "matches": body["matches"],
        "source_documents": body["source_documents"],
        "executed_at": wire_time(row["created_at"]),
        "duration_ms": body["duration_ms"],
        "deliveries": shown,
        "notified": body.get("said") == "notify",
        "status": "failed" if body["error"] else "completed",
        "error": body["error"],
        "next_step": body.get("next_step"),
        "system": body.get("system") or None,
    }


def _delivery(row: Mapping[str, Any]) -> Row:
    channel = row["channel"] if isinstance(row["channel"], Mapping) else {}
    error = row["last_error"] if row["status"] != "delivered" else None
    return {
        "channel_type": str(channel.get("channel") or channel.get("channel_type") or "none"),
        "status": row["status"],
        "error": error,
        "attempts": row["attempts"],
        "delivery_id": row["delivery_id"],
    }


def deliveries_of(tx: ReadTx, execution_ids: Sequence[str]) -> dict[str, list[Row]]:
    """Execution → its deliveries."""
    found: dict[str, list[Row]] = {}
    for row in tx.rows("deliveries", {"target_kind": "alert", "message_id": list(execution_ids)}):
        found.setdefault(row["message_id"], []).append(row)
    return found


def execution_views(tx: ReadTx, rows: Sequence[Row]) -> list[Row]:
    """Executions with what became of their notifications."""
    sent = deliveries_of(tx, [row["execution_id"] for row in rows])
    return [execution_view(row, sent.get(row["execution_id"], ())) for row in rows]
