"""How the receivers of a webhook fare, and switching off a webhook whose receiver is not there any more.

What is known is one row beside the webhook (kind `webhook_health`), written in the transaction that records the results
of deliveries. A webhook is switched off when its only channel answers 410; when nothing has arrived for five days
although it was tried; or after a hundred failures in a row that took at least an hour. That is told as an event
(`webhook.disabled`), which other webhooks may have asked for, and to the e-mail channels of the webhook itself.
Switching it on again forgets the failures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from mediatheca.flows.delivery import Recorded, enqueue_delivery, refs_of
from mediatheca.flows.webhooks.subscriptions import KIND
from mediatheca.kernel.clock import wire_time
from mediatheca.kernel.ids import new_id
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.system_tx import SystemTx
from mediatheca.stores.db.tx import ReadTx, Record, Tx, record

HEALTH = "webhook_health"
DISABLE_AFTER_S = 5 * 86_400
"""Without a single arrival, although it was tried."""
FAILURES, FAILING_S = 100, 3_600
"""So many failures in a row, over at least so many seconds."""
_ERROR = 500
_NEW: Mapping[str, Any] = {
    "consecutive_failures": 0,
    "first_failure_at": None,
    "last_failure_at": None,
    "last_failure_cause": None,
    "last_success_at": None,
    "last_error": None,
    "last_status": None,
    "paused_at": None,
    "paused_reason": None,
    "disabled_reason": None,
}
_TRIED = frozenset({"delivered", "failed", "pending"})


def begin_health(tx: Tx, webhook: Record) -> None:
    """With a new webhook, in its transaction."""
    tx.put(HEALTH, "whh", webhook.id, dict(_NEW), ident=webhook.id)


def end_health(tx: Tx, webhook: Record) -> None:
    """With a webhook that is deleted."""
    tx.delete("resources", {"kind": HEALTH, "id": webhook.id})


def clear_health(tx: Tx, webhook: Record) -> None:
    """A webhook is switched on again: its failures are forgotten, when it last succeeded is not."""
    held = _held(tx, webhook.id)
    _store(tx, webhook.id, {**_NEW, "last_success_at": held.get("last_success_at")})


def health_of(tx: ReadTx, idents: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What is known of webhooks, by id."""
    rows = tx.rows("resources", {"kind": HEALTH, "id": list(idents)}, columns=("id", "body")) if idents else []
    found = {row["id"]: row["body"] for row in rows}
    return {ident: {**_NEW, **found.get(ident, {})} for ident in idents}


def note_results(tx: SystemTx, results: Sequence[Recorded]) -> None:
    """Take in the outcome of attempts; switch off what is dead. Called in the transaction that records them."""
    of: dict[tuple[str, str], list[Recorded]] = {}
    for result in results:
        if result.target_kind == KIND and result.status in _TRIED:
            of.setdefault((result.scope.organization_id, result.target_id), []).append(result)
    for (organization_id, webhook_id), attempts in sorted(of.items()):
        _note(tx.for_scope(Scope(organization_id)), webhook_id, attempts)


def _note(tx: Tx, webhook_id: str, attempts: Sequence[Recorded]) -> None:
    rows = tx.rows("resources", {"kind": KIND, "id": webhook_id}, hold="update")
    if not rows:
        return
    webhook, health = record(rows[0]), _held(tx, webhook_id)
    for attempt in sorted(attempts, key=lambda each: each.at):
        health = _after(health, attempt)
    reason = _dead(webhook, health, attempts) if webhook.body["is_active"] else ""
    if reason:
        moment = wire_time(attempts[-1].at)
        health |= {"paused_at": moment, "paused_reason": reason, "disabled_reason": reason}
    _store(tx, webhook_id, health)
    if reason:
        _disable(tx, webhook, health, reason)


def _after(health: Mapping[str, Any], attempt: Recorded) -> dict[str, Any]:
    moment = wire_time(attempt.at)
    if attempt.status == "delivered":
        good = {"consecutive_failures": 0, "first_failure_at": None, "last_success_at": moment}
        return {**health, **good, "last_status": attempt.http_status}
    error = attempt.error[:_ERROR]
    return {
        **health,
        "consecutive_failures": health["consecutive_failures"] + 1,
        "first_failure_at": health["first_failure_at"] or moment,
        "last_failure_at": moment,
        "last_failure_cause": error,
        "last_error": error,
        "last_status": attempt.http_status,
    }


def _dead(webhook: Record, health: Mapping[str, Any], attempts: Sequence[Recorded]) -> str:
    """Why a webhook is switched off; empty: it is not."""
    if any(attempt.gone for attempt in attempts) and len(refs_of(webhook)) == 1:
        return "the receiver answered 410 (gone): it wants no more messages"
    if not health["first_failure_at"]:
        return ""
    first = datetime.fromisoformat(health["first_failure_at"])
    failing = max(attempt.at for attempt in attempts) - first
    if failing >= timedelta(seconds=DISABLE_AFTER_S):
        return f"nothing has arrived since {wire_time(first)}; last error: {health['last_error']}"
    if health["consecutive_failures"] >= FAILURES and failing >= timedelta(seconds=FAILING_S):
        return f"{health['consecutive_failures']} attempts in a row have failed; last error: {health['last_error']}"
    return ""


def _disable(tx: Tx, webhook: Record, health: Mapping[str, Any], reason: str) -> None:
    tx.change(webhook, {**webhook.body, "is_active": False})
    told = {"name": webhook.name, "reason": reason, "consecutive_failures": health["consecutive_failures"]}
    tx.emit("webhook.disabled", webhook.id, told)
    people = [ref for ref in refs_of(webhook) if ref.channel == "email"]
    if not people:
        return
    body = {
        "event_type": "webhook.disabled",
        "subject": {"type": KIND, "id": webhook.id},
        "data": told,
        "title": f"The webhook '{webhook.name}' was switched off",
        "text": f"The webhook '{webhook.name}' ({webhook.id}) was switched off: {reason}\n\n"
        "Mend the receiver, then switch the webhook on again (PATCH is_active: true); "
        "messages of the meantime can be replayed.",
    }
    enqueue_delivery(
        tx, target_kind=KIND, target_id=webhook.id, channels=people, message_id=new_id("evt"),
        event_type="webhook.disabled", body=body, always=True,
    )  # fmt: skip


def _held(tx: ReadTx, webhook_id: str) -> dict[str, Any]:
    row = tx.row("resources", {"kind": HEALTH, "id": webhook_id})
    return {**_NEW, **(row["body"] if row else {})}


def _store(tx: Tx, webhook_id: str, health: Mapping[str, Any]) -> None:
    """Without a new version and without telling anybody: this happens with every delivery."""
    tx.update("resources", {"kind": HEALTH, "id": webhook_id}, {"body": dict(health)})
