"""Migrations as records: what is built beside what, how far it is, and what may be asked of it next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mediatheca.flows.indexing import stored_vectors
from mediatheca.flows.ingest.plan import add_task, change_task
from mediatheca.kernel import clock
from mediatheca.kernel.documents import VectorIndex
from mediatheca.kernel.errors import ConflictError, NotFoundError
from mediatheca.stores.db.tx import ReadTx, Record, Tx

KIND = "collection_migration"
PREFIX = "mig"
JOB = "collection.migrate"
TASK = "api_namespaces_migrations_run"
ENDED = ("completed", "cancelled")
FROM: Mapping[str, tuple[str, ...]] = {
    "build": ("pending", "failed", "ready"),
    "switch": ("ready",),
    "rollback": ("switched",),
    "finish": ("switched",),
    "cancel": ("pending", "building", "ready", "failed"),
}
"""Verb → the states it may be asked in."""
DOING = {
    "build": "building", "switch": "switching", "rollback": "rolling_back", "finish": "finishing",
    "cancel": "cancelling",
}  # fmt: skip
"""Verb → the state while its job runs."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One output of the extractor: the index it has, the one it gets, and the stored text both embed (if any)."""

    old: VectorIndex
    new: VectorIndex
    text: str | None

    def turned(self) -> Pair:
        return replace(self, old=self.new, new=self.old)


def pairs_of(record: Record, *, backwards: bool = False) -> list[Pair]:
    """The outputs that change. `backwards`: from the new model to the old."""
    found = []
    for entry in record.body["pairs"]:
        old, new = stored_vectors({"vector_indexes": [entry["old"], entry["new"]]})
        pair = Pair(old, new, entry["text"])
        found.append(pair.turned() if backwards else pair)
    return found


def with_all_vectors(collection: Record) -> Record:
    """The collection as its documents are written while two models stand side by side."""
    indexes = [*collection.body.get("vector_indexes", []), *collection.body.get("side_indexes", [])]
    return replace(collection, body={**collection.body, "vector_indexes": indexes})


def get_migration(tx: ReadTx, collection_id: str, ident: str) -> Record:
    """Raises NotFoundError: the collection has no such migration."""
    found = tx.find(KIND, ident, collection_id)
    if found is None:
        raise NotFoundError("migration", ident)
    return found


def open_migration(tx: ReadTx, collection: Record) -> Record | None:
    """The one that is neither completed nor cancelled."""
    ident = collection.body.get("migration_id")
    return None if not ident else tx.find(KIND, ident, collection.id)


def ask(tx: Tx, record: Record, verb: str, options: Mapping[str, Any] | None = None) -> Record:
    """Enqueue the next step, with a task to poll.

    Raises:
        ConflictError: not in this state.
    """
    status = record.body["status"]
    if status not in FROM[verb]:
        wanted = " or ".join(FROM[verb])
        raise ConflictError(f"migration '{record.id}' is {status}; {verb} is possible when it is {wanted}")
    if verb == "cancel":  # a build in the air stops at its next look
        tx.cancel_jobs(record.id)
    inputs = {"migration_id": record.id, "collection_id": record.parent, "verb": verb}
    task = add_task(tx, TASK, inputs)
    body = {**record.body, "status": DOING[verb], "before": status, "task_id": task, "error_message": None}
    changed = tx.change(record, {**body, "options": dict(options or {})})
    # Not in the group of its task: whoever kills the task leaves no collection between two models.
    tx.enqueue(JOB, {"migration_id": record.id, "verb": verb, "task_id": task}, lock=f"{JOB}:{record.parent}",
               group=record.id)  # fmt: skip
    tx.emit(f"migration.{verb}", record.id, {"collection_id": record.parent})
    return changed


def note(tx: Tx, record: Record, values: Mapping[str, Any]) -> Record:
    """Store progress."""
    return tx.change(record, {**record.body, **values})


def end(tx: Tx, record: Record, values: Mapping[str, Any], status: str) -> Record:
    """A step is over: the record says its state, the task its outcome."""
    body = {**record.body, **values, "status": status, "updated_step_at": clock.wire_time(clock.now())}
    changed = tx.change(record, body)
    task = tx.row("tasks", {"task_id": body["task_id"]})
    if task is not None and task["status"] != "CANCELED":
        failed = body.get("error_message")
        change_task(
            tx, body["task_id"], "FAILED" if failed else "COMPLETED", {"migration_id": record.id, **shown(body)}
        )
        if failed:
            tx.update("tasks", {"task_id": body["task_id"]}, {"error": failed})
    tx.emit(f"migration.{status}", record.id, {"collection_id": record.parent})
    return changed


def shown(body: Mapping[str, Any]) -> dict[str, Any]:
    """What a task tells of a migration."""
    return {name: body.get(name) for name in ("status", "progress", "report", "error_message")}


def migration_view(record: Record) -> dict[str, Any]:
    body = record.body
    names = ("status", "task_id", "progress", "report", "error_message", "parameters", "compare", "auto_switch")
    return {
        "migration_id": record.id,
        "collection_id": record.parent,
        **{name: body.get(name) for name in names},
        "from": [_index(entry["old"]) for entry in body["pairs"]],
        "to": [_index(entry["new"]) for entry in body["pairs"]],
        "index_map": {entry["old"]["feature_uri"]: entry["new"]["feature_uri"] for entry in body["pairs"]},
        "failed_documents": [{"document_id": k, "reason": v} for k, v in list(body["failed"].items())[:100]],
        "next": [verb for verb, states in FROM.items() if body["status"] in states],
        "created_at": record.created_at,
        "updated_at": record.updated_at,
    }


def _index(entry: Mapping[str, Any]) -> dict[str, Any]:
    names: Sequence[str] = ("name", "feature_uri", "model", "weights", "dimensions", "metric")
    return {name: entry[name] for name in names}
