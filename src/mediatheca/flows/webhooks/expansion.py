"""The job that tells a webhook of every document of one event: thousands of messages, in small transactions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog

from mediatheca.flows.delivery import Outgoing, enqueue_deliveries, refs_of
from mediatheca.flows.webhooks.messages import document_events, documents_of, message
from mediatheca.jobs.queue import Job
from mediatheca.jobs.worker import Handler, Run
from mediatheca.kernel.event_catalogue import EXPANDED
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.event_feed import Event

log = structlog.get_logger()

EXPAND = "webhook.expand"
CHUNK = 500
"""Messages of one transaction."""


def webhook_jobs(database: Database) -> Mapping[str, Handler]:
    return {EXPAND: lambda run: _expand(database, run)}


def _expand(database: Database, run: Run) -> None:
    """A repeat after a crash writes what is missing: a message that is queued already is not queued again."""
    job = run.job
    organization = Scope(job.scope.organization_id)
    webhook_id = job.payload["webhook_id"]
    event = _event(database, job)
    with database.read(organization) as reading:
        webhook = reading.find("webhook", webhook_id)
    channels = tuple(refs_of(webhook)) if webhook is not None and webhook.body["is_active"] else ()
    documents = documents_of(event) if event is not None and channels else []
    for start in range(0, len(documents), CHUNK):
        run.check()
        assert event is not None
        name = EXPANDED[event.type]
        told = [
            Outgoing("webhook", webhook_id, channels, one.event_id, name, message(one, name))
            for one in document_events(event, name, documents[start : start + CHUNK])
        ]
        database.run(organization, lambda tx, told=told: enqueue_deliveries(tx, told))  # type: ignore[misc]
    database.run(job.scope, lambda tx: tx.finish_job(job.job_id, job.token))


def _event(database: Database, job: Job) -> Event | None:
    """The event as it was; None: it was too old to be kept when its turn came."""
    with database.read(job.scope) as tx:
        row: dict[str, Any] | None = tx.row("events", {"event_id": job.payload["event_id"]})
    if row is None:
        return None
    return Event(
        job.payload["position"], row["event_id"], row["type"], row["resource_id"], job.scope, row["actor"],
        row["payload"], row["created_at"],
    )  # fmt: skip


def expansion_died(database: Database, job: Job, reason: str) -> None:
    """Some documents were not told of: it is recorded."""
    if job.kind != EXPAND:
        return
    told = {"consumer": "webhooks", **job.payload, "reason": reason[:500]}
    database.run(job.scope, lambda tx: tx.emit("event.consumer_failed", job.payload["event_id"], told))
