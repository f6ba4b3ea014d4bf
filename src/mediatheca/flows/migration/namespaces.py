"""Migrations of a namespace as the wire has them: the collections of a namespace go over to other models together.

Every collection has a migration of its own (`plan.py`), which switches by itself when it is built; the state here is
the sum of theirs. Copies into another namespace are no migration but a clone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mediatheca.flows.migration.plan import MigrateSpec, check_compare, plan, start
from mediatheca.flows.migration.state import DOING, FROM, ask, open_migration
from mediatheca.flows.migration.state import KIND as COLLECTION_MIGRATION
from mediatheca.flows.plugins.scoped import scoped
from mediatheca.flows.services import Services
from mediatheca.kernel import clock
from mediatheca.kernel.clock import wire_time
from mediatheca.kernel.errors import ConflictError, MediathecaError, ValidationError
from mediatheca.kernel.ids import new_id
from mediatheca.stores.db.tx import ReadTx, Record, Tx

KIND = "namespace_migration"
ENDED = ("completed", "failed", "cancelled")
_STATES = {
    "pending": "pending", "ready": "in_progress", "switched": "completed", "completed": "completed",
    "failed": "failed", "cancelled": "cancelled", **dict.fromkeys(DOING.values(), "in_progress"),
}  # fmt: skip
_STAGES = ("batch_processing", "benchmark_evaluation", "finalization")


@dataclass(slots=True)
class Verdict:
    """Which collections would change, and what stands against it."""

    collections: list[tuple[Record, MigrateSpec]] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[dict[str, Any]] = field(default_factory=list)

    def shown(self) -> dict[str, Any]:
        count = len(self.collections)
        return {
            "valid": not self.errors, "errors": self.errors, "warnings": self.warnings,
            "estimated_resources": {"collections": count}, "estimated_duration_seconds": None,
        }  # fmt: skip


def _problem(code: str, message: str, collection: Record | None = None, severity: str = "error") -> dict[str, Any]:
    named = {} if collection is None else {"resource_id": collection.id, "resource_type": "collection"}
    return {"error_code": code, "message": message, "severity": severity, **named}


def validate(tx: ReadTx, services: Services, config: Mapping[str, Any], told: Sequence[str] = ()) -> Verdict:
    """Look at a configuration; `tx` is in the namespace it names as its source. `told`: warnings to give with it."""
    found = Verdict(warnings=[_problem("no_effect", message, severity="warning") for message in told])
    if config.get("migration_type") != "re_extract" or config.get("target_namespace_id") not in (
        None, "", tx.scope.namespace_id,
    ):  # fmt: skip
        message = "only re_extract within one namespace is a migration here; leave target_namespace_id out"
        found.errors.append(_problem("not_supported", message))
    wanted = config.get("feature_extractors") or []
    if not wanted:
        found.errors.append(_problem("missing", "feature_extractors: name extractors with their new parameters"))
    options = {name: config[name] for name in ("compare", "threshold") if config.get(name) is not None}
    spec = MigrateSpec(**options, auto_switch=config.get("auto_switch") is not False)
    try:
        check_compare(tx, spec.compare)
    except ValidationError as error:
        found.errors.append(_problem(error.type, error.message))
    if found.errors:
        return found
    services = scoped(services, tx.scope)
    for collection in _chosen(tx, config.get("filters") or {}, found):
        _look(tx, services, collection, wanted, spec, found)
    if not found.collections and not found.errors:
        found.errors.append(_problem("nothing", "no collection uses one of these extractors"))
    return found


def _chosen(tx: ReadTx, filters: Mapping[str, Any], found: Verdict) -> Sequence[Record]:
    named = filters.get("collection_ids")
    if not named:
        return tx.resources("collection")
    chosen = []
    for ident in named:
        collection = tx.find("collection", str(ident))
        if collection is None:
            found.errors.append(_problem("not_found", f"collection '{ident}' does not exist"))
        else:
            chosen.append(collection)
    return chosen


def _look(
    tx: ReadTx, services: Services, collection: Record, wanted: Sequence[Mapping[str, Any]], spec: MigrateSpec,
    found: Verdict,
) -> None:  # fmt: skip
    config = collection.body.get("feature_extractor") or {}
    for entry in wanted:
        version = entry.get("version") or config.get("version")
        names = (entry.get("feature_extractor_name"), version)
        if names != (config.get("feature_extractor_name"), config.get("version")):
            continue
        parameters = dict(entry.get("parameters") or {})
        try:
            if open_migration(tx, collection) is not None:
                raise ConflictError("another migration of this collection is open; finish or cancel it first")
            plan(services, collection, parameters)
        except MediathecaError as error:
            found.errors.append(_problem(error.type, error.message, collection))
            return
        found.collections.append((collection, spec.model_copy(update={"parameters": parameters})))
        return


def create(
    tx: Tx, services: Services, namespace_id: str, config: Mapping[str, Any], told: Sequence[str] = ()
) -> tuple[Record, Verdict]:
    """Store a migration of a namespace, pending when it can be started, else a draft. `tx`: the organization's."""
    verdict = validate(tx.within(namespace_id), services, config, told)
    ident = new_id("mig")
    body = {
        "config": {**config, "source_namespace_id": namespace_id},
        "status": "draft" if verdict.errors else "pending",
        "validation_result": verdict.shown(),
        "children": {},
        "task_id": None,
    }
    return tx.put(KIND, "mig", ident, body, ident=ident), verdict


def begin(tx: Tx, services: Services, record: Record) -> Record:
    """Start the migration of every collection.

    Raises:
        ConflictError: it was started before, or is a dry run.
        ValidationError: it cannot be done.
    """
    if record.body["status"] not in ("draft", "pending"):
        raise ConflictError(f"migration '{record.id}' is {record.body['status']}; create a new one")
    config = record.body["config"]
    if config.get("dry_run"):
        raise ConflictError(f"migration '{record.id}' is a dry run; create one without dry_run")
    inside = tx.within(config["source_namespace_id"])
    verdict = validate(inside, services, config)
    if verdict.errors:
        first = verdict.errors[0]["message"]
        raise ValidationError.at(("body", "config"), first, "not_valid")
    children = {}
    for collection, spec in verdict.collections:
        made = start(inside, services, collection, spec)
        children[made.id] = made.body["task_id"]
    values = {"status": "in_progress", "children": children, "task_id": next(iter(children.values()))}
    return tx.change(record, {**record.body, **values, "started_at": wire_time(clock.now())})


def cancel(tx: Tx, record: Record, reason: str | None) -> Record:
    """Give up the collections that have not switched yet.

    Raises:
        ConflictError: it has ended.
    """
    if state_of(tx, record) in ENDED:
        raise ConflictError(f"migration '{record.id}' is {state_of(tx, record)}")
    for child in children_of(tx, record):
        if child.body["status"] in FROM["cancel"]:
            ask(tx.within(child.namespace_id), child, "cancel")
    values = {"status": "cancelled", "cancelled_at": wire_time(clock.now()), "cancel_reason": reason}
    return tx.change(record, {**record.body, **values})


def children_of(tx: ReadTx, record: Record) -> list[Record]:
    inside = tx.within(record.body["config"]["source_namespace_id"])
    found = [inside.find(COLLECTION_MIGRATION, ident) for ident in record.body["children"]]
    return [child for child in found if child is not None]


def state_of(tx: ReadTx, record: Record) -> str:
    """Its state: that of its collections once it runs."""
    if record.body["status"] != "in_progress":
        return str(record.body["status"])
    states = [_STATES[child.body["status"]] for child in children_of(tx, record)]
    for state in ("in_progress", "pending", "failed", "cancelled"):
        if state in states:
            return "in_progress" if state == "pending" else state
    return "completed"


def view(tx: ReadTx, record: Record) -> dict[str, Any]:
    """As callers read it."""
    status, children, body = state_of(tx, record), children_of(tx, record), record.body
    resources = [
        {
            "resource_id": child.parent, "resource_type": "collection", "status": _STATES[child.body["status"]],
            "progress_percent": _percent(child), "error_message": child.body.get("error_message"),
        }
        for child in children
    ]  # fmt: skip
    percent = sum(map(_percent, children)) / len(children) if children else 0.0
    times = [child.updated_at for child in children if child.updated_at]
    errors = [entry["error_message"] for entry in resources if entry["error_message"]]
    ended = status in ENDED and body.get("started_at")
    return {
        "migration_id": record.id,
        "internal_id": tx.scope.organization_id,
        "namespace_id": body["config"]["source_namespace_id"],
        "config": body["config"],
        "status": status,
        "progress": {
            "overall_status": status, "overall_progress_percent": percent, "resources": resources,
            "current_stage": None if status != "in_progress" else _STAGES[0],
            "stages": [{"stage": stage, "status": status, "progress_percent": percent} for stage in _STAGES],
            "started_at": body.get("started_at"),
        },
        "validation_result": body["validation_result"],
        "task_id": body["task_id"],
        "created_at": record.created_at,
        "started_at": body.get("started_at"),
        "completed_at": max(times, default=None) if ended else None,
        "error_message": errors[0] if errors else None,
        "additional_data": {"collection_migrations": list(body["children"])},
    }  # fmt: skip


def _percent(child: Record) -> float:
    if _STATES[child.body["status"]] == "completed":
        return 100.0
    progress = child.body["progress"]
    total = progress.get("documents") or 0
    return round(min(99.0, 100.0 * progress["built"] / total), 1) if total else 0.0
