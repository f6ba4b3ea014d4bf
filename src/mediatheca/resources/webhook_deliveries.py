"""What webhooks were told: the log, sending again, a test message, and new signing secrets."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Annotated, Literal

from anyio import sleep, to_thread
from fastapi import APIRouter, Body, Response
from pydantic import Field

from mediatheca.api.deps import Caller, OrgRead, OrgReader, OrgWrite, OrgWriter, answer, in_slow_thread
from mediatheca.api.lists import Listed, listed
from mediatheca.flows.delivery import (
    delivery_view,
    enqueue_delivery,
    get_delivery,
    list_deliveries,
    refs_of,
    replay,
    replay_many,
)
from mediatheca.flows.delivery.queue import ENDED
from mediatheca.flows.webhooks import changes
from mediatheca.flows.webhooks.subscriptions import KIND
from mediatheca.kernel import clock
from mediatheca.kernel.clock import wire_time
from mediatheca.kernel.errors import ConflictError, ValidationError
from mediatheca.kernel.ids import new_id
from mediatheca.resources.base import Spec
from mediatheca.resources.webhooks import PATHS
from mediatheca.stores.db.tx import Record, Row, Tx

router = APIRouter(tags=["webhooks"])

TEST = "webhook.test"
_POLL_S = 0.1
_STATUSES = (*ENDED, "pending", "sending")


class TestSpec(Spec):
    """How long to wait for the outcome."""

    __test__ = False
    wait_seconds: float = Field(5.0, ge=0, le=15)


class ReplaySpec(Spec):
    """What to send again: what ended with `status` between these times (ISO-8601)."""

    since: datetime
    until: datetime | None = None
    status: Literal["failed", "canceled", "delivered", "not_configured"] = "failed"


class RotateSpec(Spec):
    """How long the old secret signs besides the new one."""

    grace_seconds: int = Field(86_400, ge=0, le=changes.MAX_GRACE_S)


async def send_test(identifier: str, caller: OrgWriter, spec: Annotated[TestSpec | None, Body()] = None) -> Response:
    """Send a test message to every channel, also of a webhook that is switched off, and wait for the outcome."""
    services = caller.services

    def work(tx: Tx) -> tuple[Record, list[str]]:
        return _enqueue_test(tx, caller, identifier)

    def enqueue() -> tuple[Record, list[str]]:
        return services.db.run(caller.organization, work, caller.actor.key_id)

    webhook, idents = await in_slow_thread(enqueue)
    deadline = time.monotonic() + (spec or TestSpec(wait_seconds=5.0)).wait_seconds
    while True:
        rows = await to_thread.run_sync(_rows, caller, webhook.id, idents)
        if all(row["status"] in ENDED or row["attempts"] for row in rows) or time.monotonic() > deadline:
            break
        await sleep(_POLL_S)
    return answer({
        "webhook_id": webhook.id,
        "success": bool(rows) and all(row["status"] == "delivered" for row in rows),
        "event_type": TEST,
        "deliveries": [delivery_view(row) for row in rows],
    })  # fmt: skip


def _enqueue_test(tx: Tx, caller: Caller, identifier: str) -> tuple[Record, list[str]]:
    webhook = tx.get(KIND, identifier)
    message_id = new_id("evt")
    body = {
        "event_id": message_id,
        "event_type": TEST,
        "occurred_at": wire_time(clock.now()),
        "namespace_id": webhook.body["namespace_id"] or None,
        "organization_id": caller.organization.organization_id,
        "subject": {"type": KIND, "id": webhook.id},
        "data": {"webhook_name": webhook.name, "message": "This is a test: nothing has happened."},
        "metadata": {"actor": caller.actor.key_id, "position": None, "source_event_type": TEST},
        "cache_scope": {"scope": "key", "id": webhook.id},
        "truncated": False,
    }
    made = enqueue_delivery(
        tx, target_kind=KIND, target_id=webhook.id, channels=refs_of(webhook), message_id=message_id,
        event_type=TEST, body=body, always=True,
    )  # fmt: skip
    return webhook, made


def _rows(caller: Caller, webhook_id: str, idents: list[str]) -> list[Row]:
    with caller.services.db.read(caller.organization) as tx:
        return [get_delivery(tx, KIND, webhook_id, ident) for ident in idents]


def deliveries(identifier: str, query: Listed, tx: OrgRead, caller: OrgReader, status: str = "") -> Response:
    """The log, newest first: what was sent, how often it was tried, what came back. Kept for thirty days."""
    if status and status not in _STATUSES:
        message = f"must be one of {', '.join(_STATUSES)}, got '{status[:40]}'"
        raise ValidationError.at(("query", "status"), message, "enum")
    webhook = tx.get(KIND, identifier)
    page = list_deliveries(tx, KIND, webhook.id, query, status)
    return answer(listed(page, [delivery_view(row) for row in page.rows]))


def delivery(identifier: str, delivery_id: str, tx: OrgRead) -> Response:
    """One delivery."""
    return answer(delivery_view(get_delivery(tx, KIND, tx.get(KIND, identifier).id, delivery_id)))


def replay_one(identifier: str, delivery_id: str, tx: OrgWrite, caller: OrgWriter) -> Response:
    """Send a delivery once more, under the same id."""
    webhook = _active(tx, identifier)
    return answer(delivery_view(replay(tx, KIND, webhook.id, delivery_id)))


def replay_some(identifier: str, spec: ReplaySpec, tx: OrgWrite, caller: OrgWriter) -> Response:
    """Send again what ended in some way in a span of time; at most ten thousand, the oldest first."""
    for field, moment in (("since", spec.since), ("until", spec.until)):
        if moment is not None and moment.tzinfo is None:
            raise ValidationError.at(("body", field), "needs a time zone, as in 2026-01-31T12:00:00Z", "timezone")
    webhook = _active(tx, identifier)
    count = replay_many(tx, KIND, webhook.id, since=spec.since, until=spec.until, status=spec.status)
    return answer({"webhook_id": webhook.id, "replayed": count, "status": spec.status})


def _active(tx: Tx, identifier: str) -> Record:
    webhook = tx.get(KIND, identifier)
    if not webhook.body["is_active"]:
        raise ConflictError(f"the webhook '{webhook.name}' is switched off; PATCH is_active: true first")
    return webhook


async def rotate(identifier: str, caller: OrgWriter, spec: Annotated[RotateSpec | None, Body()] = None) -> Response:
    """Make a new signing secret, shown this once. For `grace_seconds` messages are signed with both."""
    grace = (spec or RotateSpec(grace_seconds=86_400)).grace_seconds

    def work() -> tuple[Record, str]:
        return changes.rotate(caller.services, caller.organization, caller.actor.key_id, identifier, grace)

    webhook, secret = await in_slow_thread(work)
    return answer({"webhook_id": webhook.id, "signing_secret": secret, "grace_seconds": grace})


for path, suffix in PATHS.items():
    for handler, method, below, operation in (
        (send_test, "POST", "/{identifier}/test", "test_webhook"),
        (deliveries, "GET", "/{identifier}/deliveries", "list_webhook_deliveries"),
        (delivery, "GET", "/{identifier}/deliveries/{delivery_id}", "get_webhook_delivery"),
        (replay_one, "POST", "/{identifier}/deliveries/{delivery_id}/replay", "replay_webhook_delivery"),
        (replay_some, "POST", "/{identifier}/replay", "replay_webhook_deliveries"),
        (rotate, "POST", "/{identifier}/secret/rotate", "rotate_webhook_secret"),
    ):
        router.add_api_route(
            path + below, handler, methods=[method], operation_id=f"{operation}_organizations{suffix}",
            name=f"{operation}_organizations{suffix}", response_model=None,
        )  # fmt: skip
