"""Messages that wait to be sent: queued in the transaction of what they tell about, shown, and sent once more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from mediatheca.flows.delivery.refs import ChannelRef
from mediatheca.kernel import clock
from mediatheca.kernel.errors import ConflictError, NotFoundError
from mediatheca.kernel.ids import new_id
from mediatheca.stores.db.listing import ListQuery, Page
from mediatheca.stores.db.tx import Cmp, ReadTx, Row, Tx

TargetKind = Literal["webhook", "alert", "channel"]
ENDED = ("delivered", "failed", "canceled", "not_configured")
MAX_REPLAY = 10_000
_OF_ORGANIZATION = frozenset({"webhook", "channel"})
_CHUNK = 500


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message for all channels of a target."""

    target_kind: TargetKind
    target_id: str
    channels: Sequence[ChannelRef]
    message_id: str
    """At most 64 characters. The same message is queued once for each channel, however often it is asked for."""
    event_type: str
    body: dict[str, Any]
    """What a webhook posts. `title` and `text` in it, where they are, are what people read."""
    always: bool = False
    """Also while the target is switched off: for tests of it."""


def enqueue_delivery(
    tx: Tx,
    *,
    target_kind: TargetKind,
    target_id: str,
    channels: Sequence[ChannelRef],
    message_id: str,
    event_type: str,
    body: dict[str, Any],
    always: bool = False,
    delay_s: float = 0.0,
) -> list[str]:
    """Queue a message in this transaction: it is sent if, and only if, the transaction commits.

    Deliveries of webhooks and stored channels belong to the organization, those of alerts to their namespace.

    Returns:
        Ids of what is new: a message that is queued already is left as it is.
    """
    message = Outgoing(target_kind, target_id, channels, message_id, event_type, body, always)
    return enqueue_deliveries(tx, [message], delay_s=delay_s)


def enqueue_deliveries(tx: Tx, messages: Sequence[Outgoing], *, delay_s: float = 0.0) -> list[str]:
    """`enqueue_delivery` for many messages in few statements."""
    ids: list[str] = []
    levels: dict[bool, list[Outgoing]] = {True: [], False: []}
    for message in messages:
        levels[message.target_kind in _OF_ORGANIZATION].append(message)
    for of_organization, group in levels.items():
        level = tx.within("") if of_organization else tx
        for start in range(0, len(group), _CHUNK):
            ids += _insert(level, group[start : start + _CHUNK], delay_s)
    return ids


def _insert(tx: Tx, messages: Sequence[Outgoing], delay_s: float) -> list[str]:
    rows = {
        (message.target_id, ref.index, message.message_id): _row(message, ref, delay_s)
        for message in messages
        for ref in message.channels
    }
    try:
        tx.insert("deliveries", list(rows.values()))
    except ConflictError:  # one is queued already, which is rare: looking first made writing several times slower
        for key in _known(tx, messages):
            rows.pop(key, None)
        return [ident for row in rows.values() for ident in _alone(tx, row)]
    return [str(row["delivery_id"]) for row in rows.values()]


def _alone(tx: Tx, row: Row) -> list[str]:
    try:
        tx.insert("deliveries", [row])
    except ConflictError:
        return []
    return [str(row["delivery_id"])]


def _known(tx: ReadTx, messages: Sequence[Outgoing]) -> list[tuple[str, int, str]]:
    where = {
        "target_id": {message.target_id for message in messages},
        "message_id": {message.message_id for message in messages},
    }
    found = tx.rows("deliveries", where, columns=("target_id", "channel_no", "message_id"))
    return [(row["target_id"], row["channel_no"], row["message_id"]) for row in found]


def _row(message: Outgoing, ref: ChannelRef, delay_s: float) -> Row:
    moment = clock.now()
    return {
        "delivery_id": new_id("dlv"),
        "target_kind": message.target_kind,
        "target_id": message.target_id,
        "channel_no": ref.index,
        "channel": {"channel": ref.channel, "channel_id": ref.channel_id, "always": message.always},
        "message_id": message.message_id,
        "event_type": message.event_type,
        "body": message.body,
        "status": "pending",
        "attempts": 0,
        # 0: at once. Compared with the database's time, which a delay of minutes need not be exact by.
        "run_at": int((moment.timestamp() + delay_s) * 1e6) if delay_s else 0,
        "created_at": moment,
    }


def delivery_view(row: Mapping[str, Any]) -> dict[str, Any]:
    """A delivery as callers see it: what was sent, how it went, and what comes next."""
    waiting = row["status"] in ("pending", "sending")
    return {
        "delivery_id": row["delivery_id"],
        f"{row['target_kind']}_id": row["target_id"],
        "channel_type": row["channel"]["channel"],
        "channel_id": row["channel"]["channel_id"] or None,
        "channel_no": row["channel_no"],
        "message_id": row["message_id"],
        "event_id": row["message_id"],
        "event_type": row["event_type"],
        "status": row["status"],
        "attempts": row["attempts"],
        "next_attempt_at": _moment(row["run_at"]) or row["created_at"] if waiting else None,
        "request": row["body"],
        "response_status": row["last_status"],
        "response_body": row["response"],
        "error": row["last_error"],
        "created_at": row["created_at"],
        "finished_at": row["finished_at"],
    }


def _moment(microseconds: int) -> datetime | None:
    return datetime.fromtimestamp(microseconds / 1e6, UTC) if microseconds else None


def list_deliveries(tx: ReadTx, kind: TargetKind, target_id: str, query: ListQuery, status: str = "") -> Page:
    """A page of the deliveries of a target, as rows."""
    where: dict[str, Any] = {"target_kind": kind, "target_id": target_id} | ({"status": status} if status else {})
    return _level(tx, kind).page("deliveries", where, query)


def get_delivery(tx: ReadTx, kind: TargetKind, target_id: str, delivery_id: str) -> Row:
    """One delivery of a target. Raises NotFoundError."""
    where = {"target_kind": kind, "target_id": target_id, "delivery_id": delivery_id}
    found = _level(tx, kind).row("deliveries", where)
    if found is None:
        raise NotFoundError("delivery", delivery_id)
    return found


def _level(tx: ReadTx, kind: TargetKind) -> ReadTx:
    return tx.within("") if kind in _OF_ORGANIZATION else tx


def replay(tx: Tx, kind: TargetKind, target_id: str, delivery_id: str) -> Row:
    """Send a delivery once more, with the same message id. One that still waits is sent now.

    Raises:
        NotFoundError: there is none of this id.
        ConflictError: it is being sent.
    """
    found = get_delivery(tx, kind, target_id, delivery_id)
    level = tx.within("") if kind in _OF_ORGANIZATION else tx
    if not level.update("deliveries", {"delivery_id": delivery_id, "status": [*ENDED, "pending"]}, _again()):
        raise ConflictError(f"delivery '{delivery_id}' is being sent; look at it again in a moment")
    return {**found, **_again()}


def replay_many(
    tx: Tx, kind: TargetKind, target_id: str, *, since: datetime, until: datetime | None = None, status: str = "failed"
) -> int:
    """Send again what ended this way in a span of time, at most ten thousand, the oldest first; how many."""
    level = tx.within("") if kind in _OF_ORGANIZATION else tx
    where: dict[str, Any] = {"target_kind": kind, "target_id": target_id, "created_at": Cmp(">=", since)}
    wanted = level.rows(
        "deliveries", where | {"status": status}, columns=("delivery_id", "created_at"), order=("delivery_id",),
        limit=MAX_REPLAY + 1,
    )  # fmt: skip
    ids = [row["delivery_id"] for row in wanted if until is None or row["created_at"] < until][:MAX_REPLAY]
    return sum(
        level.update("deliveries", {"delivery_id": ids[start : start + _CHUNK], "status": status}, _again())
        for start in range(0, len(ids), _CHUNK)
    )


def _again() -> Row:
    return {"status": "pending", "attempts": 0, "run_at": 0, "finished_at": None, "last_error": None}
