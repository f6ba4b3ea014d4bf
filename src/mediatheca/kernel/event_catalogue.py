"""Every type of event there is: what it says, about what, and under which other names subscribers know it.

An event is one row, written in the transaction of what it tells about. Its payload is in docs/events.md. A name is
`resource.verb`, or `resource.part.verb`; a test looks that whatever the code emits is named here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Operation: TypeAlias = Literal["insert", "update", "delete", "other"]


@dataclass(frozen=True, slots=True)
class EventType:
    """`also_as`: names that subscribers know it by besides its own; a batch of documents is told one by one there.
    `public`: False for what only administrators see in the feed; it never leaves the server."""

    name: str
    resource: str
    operation: Operation
    summary: str
    also_as: tuple[str, ...] = ()
    public: bool = True


_VERBS: Mapping[str, tuple[Operation, str]] = {
    "created": ("insert", "was made"),
    "updated": ("update", "was changed"),
    "deleted": ("delete", "was deleted"),
    "rotated": ("update", "was replaced by a new one"),
    "revoked": ("update", "was revoked"),
    "canceled": ("update", "was canceled"),
}
_ROWS: tuple[tuple[str, str, str], ...] = (
    ("organization", "an organization", "created updated"),
    ("namespace", "a namespace", "created updated deleted"),
    ("bucket", "a bucket", "created updated deleted"),
    ("object", "an object of a bucket", "created updated deleted"),
    ("upload", "an upload", "created canceled"),
    ("storage_connection", "a connection", "created updated deleted"),
    ("sync", "a sync of a bucket", "created updated deleted"),
    ("collection", "a collection", "created updated deleted"),
    ("plugin", "an uploaded plug-in", "created deleted"),
    ("model", "an uploaded model", "created deleted"),
    ("document", "a document", "created updated deleted"),
    ("batch", "a batch", "created canceled deleted"),
    ("annotation", "an annotation", "created updated deleted"),
    ("retriever", "a retriever", "created updated deleted"),
    ("retriever_template", "a template of retrievers", "created updated deleted"),
    ("retriever_key", "a key of a published retriever", "created revoked"),
    ("evaluation", "an evaluation of a retriever", "created deleted"),
    ("evaluation_dataset", "a data set of evaluations", "created updated deleted"),
    ("benchmark", "a benchmark", "created deleted"),
    ("weight_set", "a set of learned weights", "created deleted"),
    ("learned_fusion", "learned fusion of a retriever", "updated"),
    ("taxonomy", "a taxonomy", "created updated deleted"),
    ("cluster", "a cluster", "created updated deleted"),
    ("trigger", "a trigger", "created updated deleted"),
    ("alert", "an alert", "created updated deleted"),
    ("notification_template", "a template of notices", "created updated deleted"),
    ("webhook", "a webhook", "created updated deleted"),
    ("channel", "a stored channel", "created updated deleted"),
)
_PRIVATE: tuple[tuple[str, str, str], ...] = (
    ("user", "a user", "created updated deleted"),
    ("api_key", "an API key", "created updated rotated revoked"),
    ("secret", "a secret", "created updated deleted"),
)


def _rows(rows: tuple[tuple[str, str, str], ...], *, public: bool) -> Iterator[EventType]:
    for resource, what, verbs in rows:
        for verb in verbs.split():
            operation, did = _VERBS[verb]
            yield EventType(f"{resource}.{verb}", resource, operation, f"{what} {did}", public=public)


def _event(name: str, operation: Operation, summary: str, *also_as: str, public: bool = True) -> EventType:
    return EventType(name, name.split(".", 1)[0], operation, summary, also_as, public)


def _migration_events() -> Iterator[EventType]:
    """Of collections that go over to another model: what was asked, and where it ended."""
    for verb in ("build", "switch", "rollback", "finish", "cancel"):
        yield _event(f"migration.{verb}", "other", f"{verb} was asked of a migration")
    for status in ("pending", "ready", "switched", "completed", "cancelled"):
        yield _event(f"migration.{status}", "update", f"a migration is {status}")
    yield _event("migration.failed", "update", "a step of a migration has failed", "resource.execution_failed")


_EVENTS = (
    *_rows(_ROWS, public=True),
    *_rows(_PRIVATE, public=False),
    _event("secret.accessed", "other", "a secret was read by an execution", public=False),
    _event("secret.rewrapped", "update", "secrets were wrapped by a new master key", public=False),
    _event("object.soft_deleted", "update", "an object was switched off; its row stays"),
    _event("objects.created.batch", "insert", "several objects were made in one request"),
    _event("upload.completed", "update", "an upload was confirmed"),
    _event("upload.failed", "update", "the file of an upload was refused, or nobody confirmed it"),
    _event("storage_connection.tested", "other", "a connection works"),
    _event("storage_connection.failed", "other", "a connection does not work"),
    _event("storage_connection.suspended", "update", "a connection was switched off: it failed again and again"),
    _event("sync.paused", "update", "a sync was paused"),
    _event("sync.resumed", "update", "a sync was resumed"),
    _event("sync.started", "other", "a run of a sync has begun"),
    _event("sync.completed", "other", "a run of a sync has ended"),
    _event("sync.failed", "other", "a run of a sync has failed", "resource.execution_failed"),
    _event("sync.interrupted", "other", "a run of a sync was stopped by hand"),
    _event("collection.triggered", "other", "the objects of a collection's bucket are processed again"),
    _event("collection.documents.written", "insert", "an ingest wrote documents; they are named", "document.created"),
    _event("collection.documents.batch_completed", "other", "all documents of a batch are searchable"),
    _event("documents.updated.batch", "update", "many documents were changed; they are named", "document.updated"),
    _event("documents.deleted.batch", "delete", "many documents were deleted; they are named", "document.deleted"),
    _event("collection.reembed", "other", "text vectors of a collection are made anew"),
    _event("collection.schema_synced", "update", "fields that documents have were added to a collection's schema"),
    *_migration_events(),
    _event("plugin.deployed", "update", "an uploaded plug-in can be used"),
    _event("plugin.failed", "update", "an uploaded plug-in could not be deployed", "resource.execution_failed"),
    _event("plugin.enabled", "insert", "a plug-in of the organization was switched on in a namespace"),
    _event("plugin.undeployed", "update", "an uploaded plug-in cannot be used any more"),
    _event("model.deployed", "update", "an uploaded model can be used"),
    _event("batch.queued", "update", "a batch was submitted"),
    _event("batch.processing", "update", "a batch is being processed"),
    _event("batch.completed", "update", "a batch has ended", "collection.documents.batch_completed"),
    _event("batch.failed", "update", "a batch has failed", "resource.execution_failed"),
    _event("batch.reset", "update", "a batch may be run again"),
    _event("batch.tier_canceled", "update", "a tier of a batch was stopped"),
    _event("batch.documents_deleted", "delete", "the documents of a batch were deleted"),
    _event("retriever.published", "update", "a retriever was published"),
    _event("retriever.unpublished", "update", "a retriever is no longer published"),
    _event("retriever.publication_updated", "update", "what is shown of a published retriever was changed"),
    _event("retriever.calibrated", "update", "scores of a retriever were calibrated"),
    _event("retriever.calibration_deleted", "update", "the calibration of a retriever was deleted"),
    _event("evaluation.completed", "update", "an evaluation has ended", "resource.executed"),
    _event("evaluation.failed", "update", "an evaluation has failed", "resource.execution_failed"),
    _event("benchmark.completed", "update", "a benchmark has ended", "resource.executed"),
    _event("benchmark.failed", "update", "a benchmark has failed", "resource.execution_failed"),
    _event("weight_set.completed", "update", "weights were learned", "resource.executed"),
    _event("weight_set.failed", "update", "weights could not be learned", "resource.execution_failed"),
    _event("weight_set.shipped", "update", "learned weights went into their retriever"),
    _event("learned_fusion.opted_out", "update", "a user opted out of learned weights"),
    _event("learned_fusion.opted_in", "update", "a user opted in to learned weights"),
    _event("learned_fusion.reset", "delete", "what was learned of a user was forgotten"),
    _event("taxonomy.materialized", "update", "a taxonomy was applied to a collection"),
    _event("taxonomy.execution_failed", "other", "a taxonomy could not be applied", "resource.execution_failed"),
    _event("cluster.execution.started", "other", "a cluster run has begun"),
    _event("cluster.execution.completed", "other", "a cluster run has ended"),
    _event("cluster.execution.failed", "other", "a cluster run has failed"),
    _event("trigger.paused", "update", "a trigger was paused"),
    _event("trigger.resumed", "update", "a trigger was resumed"),
    _event("trigger.disabled", "update", "a trigger was switched off: it cannot run, or failed again and again"),
    _event("trigger.fired", "other", "a trigger began its action"),
    _event("trigger.execution.completed", "other", "the action of a trigger has ended"),
    _event("trigger.execution.failed", "other", "the action of a trigger has failed"),
    _event("alert.triggered", "other", "documents matched an alert"),
    _event("alert.execution.completed", "other", "an alert was evaluated"),
    _event("alert.execution.failed", "other", "an alert could not be evaluated"),
    _event("webhook.disabled", "update", "a webhook was switched off because its receiver does not answer"),
    _event("webhook.secret_rotated", "update", "a webhook got a new signing secret"),
    _event("event.consumer_failed", "other", "an event could not be handed on and was left out", public=False),
)

EVENTS: Mapping[str, EventType] = {event.name: event for event in _EVENTS}
"""By name, in the order of the documentation."""

EXPANDED: Mapping[str, str] = {
    "collection.documents.written": "document.created",
    "documents.updated.batch": "document.updated",
    "documents.deleted.batch": "document.deleted",
}
"""Events that name `document_ids` → the event that each of these documents is told as."""


def subscribed_names(name: str) -> tuple[str, ...]:
    """The names under which an event of this type is told to subscribers; none for what does not leave the server.
    A type that is not named here is of a resource of a third party."""
    event = EVENTS.get(name)
    if event is None:
        return (name,)
    return (event.name, *event.also_as) if event.public else ()
