"""From events to messages: a consumer of events that queues what each webhook is to be told.

The messages are written in the transaction that moves the cursor, so each event becomes messages exactly once. One that
names many documents, for webhooks that want them one by one, becomes a job instead (`expansion`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mediatheca.flows.delivery import Outgoing, enqueue_deliveries
from mediatheca.flows.webhooks.expansion import EXPAND
from mediatheca.flows.webhooks.messages import document_events, documents_of, message
from mediatheca.flows.webhooks.subscriptions import KIND, Subscription, Subscriptions
from mediatheca.jobs.dispatch import Take
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.event_feed import Event
from mediatheca.stores.db.system_tx import SystemTx

INLINE = 200
"""So many documents of one event are told at once; more are the work of a job."""
PAGE_ROWS = 5_000
"""When so many messages are to be written in one transaction, jobs expand the rest."""


def outgoing(subscription: Subscription, event: Event, name: str, body: dict[str, Any] | None = None) -> Outgoing:
    """The message of one event to one webhook."""
    return Outgoing(
        target_kind=KIND,
        target_id=subscription.webhook_id,
        channels=subscription.channels,
        message_id=event.event_id,
        event_type=name,
        body=message(event, name) if body is None else body,
    )


@dataclass(slots=True)
class _Plan:
    """What one page of events leads to, by organization."""

    messages: dict[str, list[Outgoing]] = field(default_factory=dict)
    jobs: list[tuple[Scope, dict[str, Any]]] = field(default_factory=list)
    rows: int = 0

    def tell(self, organization_id: str, told: Sequence[Outgoing]) -> None:
        self.messages.setdefault(organization_id, []).extend(told)
        self.rows += sum(len(each.channels) for each in told)

    def write(self, tx: SystemTx) -> None:
        for organization_id, told in self.messages.items():
            enqueue_deliveries(tx.for_scope(Scope(organization_id)), told)
        for scope, payload in self.jobs:
            tx.for_scope(scope).enqueue(EXPAND, payload, lock=f"{EXPAND}:{payload['webhook_id']}")


class WebhookFanout:
    """The consumer; see `jobs.dispatch.Consumer`."""

    name = "webhooks"
    types: frozenset[str] = frozenset()

    def __init__(self, database: Database) -> None:
        self._subscriptions = Subscriptions(database)

    def take(self, events: Sequence[Event]) -> Take | None:
        plan = _Plan()
        self._subscriptions.begin()
        for event in events:
            subscriptions = self._subscriptions.of(event.scope.organization_id)
            if subscriptions:
                self._plan(plan, event, subscriptions)
        return plan.write if plan.messages or plan.jobs else None

    def _plan(self, plan: _Plan, event: Event, subscriptions: Sequence[Subscription]) -> None:
        bodies: dict[str, dict[str, Any]] = {}
        for subscription in subscriptions:
            name = subscription.name_for(event)
            if name is not None:
                if name not in bodies:
                    bodies[name] = message(event, name)
                plan.tell(event.scope.organization_id, [outgoing(subscription, event, name, bodies[name])])
            each = subscription.each_for(event)
            if each is not None:
                self._each(plan, event, subscription, each)

    @staticmethod
    def _each(plan: _Plan, event: Event, subscription: Subscription, name: str) -> None:
        documents = documents_of(event)
        if len(documents) > INLINE or plan.rows > PAGE_ROWS:
            payload = {"event_id": event.event_id, "position": event.position, "webhook_id": subscription.webhook_id}
            plan.jobs.append((event.scope, payload))
            return
        told = [outgoing(subscription, one, name) for one in document_events(event, name, documents)]
        plan.tell(event.scope.organization_id, told)
