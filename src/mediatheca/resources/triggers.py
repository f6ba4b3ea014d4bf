"""Triggers: what runs by itself, and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Query, Response
from pydantic import Field

from mediatheca.api.deps import Caller, Delete, Read, Reader, Write, Writer, answer
from mediatheca.flows.bodies import key_notes
from mediatheca.flows.services import Services
from mediatheca.flows.triggers.actions import action_notes, parse_action
from mediatheca.flows.triggers.conditions import drift_index, watched
from mediatheca.flows.triggers.config import TriggerType, parse_schedule, unread_schedule_keys
from mediatheca.flows.triggers.runs import run_now
from mediatheca.flows.triggers.state import KIND, create_trigger, remove_trigger, require, schedule, set_status
from mediatheca.jobs.schedule import from_us, next_due
from mediatheca.kernel import clock
from mediatheca.kernel.errors import ConflictError, ValidationError
from mediatheca.kernel.filters import parse_filter
from mediatheca.kernel.ids import check_name
from mediatheca.resources.base import Spec, notes_on
from mediatheca.resources.tasks import task_view
from mediatheca.stores.db.listing import ListQuery, Page
from mediatheca.stores.db.tx import ReadTx, Record, Row, Tx, record

router = APIRouter(tags=["triggers"])
Status = Literal["active", "paused", "disabled"]
AnyStatus = Literal["active", "paused", "disabled", "failed"]
OVERDUE = timedelta(seconds=60)
SORTABLE = ("created_at", "updated_at", "name", "status", "action_type", "trigger_type", "last_triggered_at")
_REFERENCES = ("cluster_id", "taxonomy_id", "collection_id", "bucket_id", "retriever_id", "alert_id")
Limit = Annotated[int, Field(ge=1, le=1000)]
Offset = Annotated[int, Field(ge=0, le=10_000)]


class TriggerSpec(Spec):
    """The body of create."""

    action_type: str = Field(max_length=64)
    action_config: dict[str, Any]
    trigger_type: TriggerType
    schedule_config: dict[str, Any]
    name: str | None = Field(None, max_length=200)
    description: str | None = Field(None, max_length=5000)
    status: Status | None = None


class TriggerPatch(Spec):
    """What may change later: when it runs, not what it does."""

    schedule_config: dict[str, Any] | None = None
    description: str | None = Field(None, max_length=5000)
    status: Status | None = None
    name: str | None = Field(None, max_length=200)


class ListSpec(Spec):
    """What a list may ask for."""

    action_type: str | None = None
    trigger_type: TriggerType | None = None
    status: AnyStatus | None = None
    resource_id: str | None = Field(None, max_length=200)
    offset: Offset = 0
    limit: Limit = 50
    sort_by: str | None = None
    direction: Literal["asc", "desc"] | None = None


# ---- making and changing, also for the routes of cluster triggers


def declare(tx: Tx, spec: TriggerSpec, services: Services, *, parent: str = "") -> Record:
    """Check a trigger and store it.

    Raises:
        NotFoundError: something it names does not exist.
        ValidationError: what makes no sense, a schedule that never fires among it.
    """
    if spec.name is not None:
        check_name("name", spec.name, "trig")
    action = parse_action(tx, spec.action_type, spec.action_config)
    config = _schedule(tx, spec.trigger_type, spec.schedule_config, action, services)
    body: Row = {"action_type": spec.action_type, "action_config": action, "trigger_type": spec.trigger_type}
    body |= {"schedule_config": config, "description": spec.description, "status": spec.status or "active"}
    return create_trigger(tx, body, spec.name, parent=parent)


def _schedule(tx: ReadTx, kind: TriggerType, raw: Any, action: Mapping[str, Any], services: Services) -> dict[str, Any]:
    """The schedule's configuration, its collections looked up."""
    config = parse_schedule(kind, raw, clock.now())
    if config.get("collection_id"):
        config["collection_id"] = tx.get("collection", config["collection_id"]).id
    if kind == "conditional":
        for collection_id in watched(tx, config, action):
            if config["condition_type"] == "drift":
                drift_index(services, collection_id, config.get("feature_uri"))
    return config


def patched(tx: Tx, identifier: str, patch: TriggerPatch, services: Services) -> Record:
    """Change a trigger.

    Raises:
        ConflictError: what it does would change; or the name is taken.
    """
    fixed = sorted({"action_type", "action_config", "trigger_type"} & set(patch.model_extra or {}))
    if fixed:
        raise ConflictError(f"{', '.join(fixed)} of a trigger cannot change; make another trigger")
    trigger = require(tx, identifier)
    body, name = dict(trigger.body), trigger.name
    if patch.name is not None:
        name = check_name("name", patch.name, "trig")
    if patch.description is not None:
        body["description"] = patch.description
    if patch.schedule_config is not None:
        raw = patch.schedule_config
        body["schedule_config"] = _schedule(tx, body["trigger_type"], raw, body["action_config"], services)
        body |= {"event_counter": 0, "event_due_at": None, "baseline_snapshot": None}
    trigger = tx.change(trigger, body, name)
    if patch.schedule_config is not None:
        schedule(tx, trigger, clock.now())
    if patch.status is not None and patch.status != body["status"]:
        trigger = set_status(tx, trigger, patch.status)
    tx.emit("trigger.updated", trigger.id, {"version": trigger.version})
    return trigger


def switched(tx: Tx, identifier: str, status: Status) -> Record:
    """Pause or resume."""
    trigger = require(tx, identifier)
    if trigger.body["status"] == status:
        return trigger
    trigger = set_status(tx, trigger, status)
    tx.emit("trigger.resumed" if status == "active" else "trigger.paused", trigger.id, {})
    return trigger


# ---- views


def trigger_views(tx: ReadTx, triggers: Sequence[Record]) -> list[dict[str, Any]]:
    """What callers read."""
    due = next_due(tx, [trigger.id for trigger in triggers])
    return [_view(trigger, tx.scope.organization_id, due.get(trigger.id)) for trigger in triggers]


def _view(trigger: Record, organization_id: str, due: datetime | None) -> dict[str, Any]:
    body = trigger.body
    pending = from_us(body["event_due_at"]) if body["event_due_at"] else due
    shown = {key: value for key, value in body.items() if key not in ("event_due_at", "baseline_snapshot")}
    baseline = body["baseline_snapshot"]
    return {
        "trigger_id": trigger.id,
        "name": None if trigger.name == trigger.id else trigger.name,
        "namespace_id": trigger.namespace_id,
        "internal_id": organization_id,
        **shown,
        "baseline_snapshot": None if baseline is None else {k: v for k, v in baseline.items() if k != "mean"},
        "next_scheduled_at": pending,
        "next_run_at": pending,
        "last_status": body["last_execution_status"],
        "is_overdue": body["status"] == "active" and due is not None and due < clock.now() - OVERDUE,
        "created_at": trigger.created_at,
        "updated_at": trigger.updated_at,
    }


def listing(tx: ReadTx, asked: ListSpec, **conditions: str) -> Page:
    """A page of triggers. `conditions`: fields of the body that must have a value.

    Raises:
        ValidationError: `sort_by` is no field of triggers.
    """
    if asked.sort_by is not None and asked.sort_by not in SORTABLE:
        message = f"'{asked.sort_by[:50]}' is no field to sort by; known: {', '.join(SORTABLE)}"
        raise ValidationError.at(("body", "sort_by"), message, "sort")
    sent = {name: getattr(asked, name) for name in ("action_type", "trigger_type", "status")}
    equal: list[dict[str, Any]] = [{name: value} for name, value in {**sent, **conditions}.items() if value]
    if asked.resource_id:
        equal.append({"OR": [{f"action_config.{name}": asked.resource_id} for name in _REFERENCES]})
    field, down = asked.sort_by or "created_at", (asked.direction or "desc") == "desc"
    sort = () if field == "created_at" and down else ((field, down),)
    keep = parse_filter({"AND": equal}, path="body") if equal else None
    return tx.page("resources", {"kind": KIND}, ListQuery(asked.limit, asked.offset, filter=keep, sort=sort))


def _listed(tx: ReadTx, asked: ListSpec) -> Response:
    page = listing(tx, asked)
    shown = trigger_views(tx, [record(row) for row in page.rows])
    return answer({"results": shown, "total": page.total, "offset": page.offset, "limit": page.limit})


def history(tx: ReadTx, trigger: Record, offset: int, limit: int, status: str | None) -> tuple[list[Row], int]:
    """Runs of a trigger, the newest first, and how many there are."""
    where: dict[str, Any] = {"trigger_id": trigger.id} | ({"status": status} if status else {})
    page = tx.page("trigger_runs", where, ListQuery(limit, offset))
    return page.rows, page.total or 0


def run_view(row: Row) -> dict[str, Any]:
    """A run as the history shows it."""
    ended = row["finished_at"]
    return {
        "run_id": row["run_id"],
        "task_id": row["task_id"],
        "triggered_at": row["created_at"],
        "due_at": from_us(row["due_at"]),
        "status": row["status"],
        "execution_time_ms": None if ended is None else round((ended - row["created_at"]).total_seconds() * 1000),
        "error": row["body"].get("error"),
        **{key: value for key, value in row["body"].items() if key != "error"},
    }


# ---- routes


def _one(tx: ReadTx, trigger: Record, notes: Mapping[str, Any] | None = None) -> Response:
    return answer({**trigger_views(tx, [trigger])[0], **(notes or {})})


def warnings_on(
    caller: Caller, spec: Spec, kind: TriggerType, config: Any, action: Row | None = None
) -> dict[str, Any]:
    """Warnings for unknown keys of the body, of its schedule and of its `action` (`action_type`, `raw`).

    Raises:
        ValidationError: the server is strict, and there are some.
    """
    strict = caller.services.settings.strict
    notes = key_notes(unread_schedule_keys(kind, config), strict=strict)
    return notes_on(caller, spec, *notes, *(action_notes(**action, strict=strict) if action else ()))


@router.post("/triggers", operation_id="create_trigger", response_model=None)
def create(spec: TriggerSpec, tx: Write, caller: Writer) -> Response:
    action = {"action_type": spec.action_type, "raw": spec.action_config}
    notes = warnings_on(caller, spec, spec.trigger_type, spec.schedule_config, action)
    return _one(tx, declare(tx, spec, caller.services), notes)


@router.post("/triggers/list", operation_id="list_triggers", response_model=None)
def list_post(tx: Read, caller: Reader, asked: Annotated[ListSpec | None, Body()] = None) -> Response:
    return _listed(tx, asked or ListSpec())


@router.get("/triggers", operation_id="list_triggers_get", response_model=None)
def list_get(
    tx: Read, caller: Reader, action_type: str | None = None, trigger_type: TriggerType | None = None,
    status: AnyStatus | None = None, resource_id: str | None = None, offset: Annotated[int, Query(ge=0, le=10_000)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50, sort_by: str | None = None,
    direction: Literal["asc", "desc"] | None = None,
) -> Response:  # fmt: skip
    asked = ListSpec(
        action_type=action_type, trigger_type=trigger_type, status=status, resource_id=resource_id, offset=offset,
        limit=limit, sort_by=sort_by, direction=direction,
    )  # fmt: skip
    return _listed(tx, asked)


@router.get("/triggers/{identifier}", operation_id="get_trigger", response_model=None)
def get(identifier: str, tx: Read, caller: Reader) -> Response:
    return _one(tx, tx.get(KIND, identifier))


@router.patch("/triggers/{identifier}", operation_id="patch_trigger", response_model=None)
def patch(identifier: str, spec: TriggerPatch, tx: Write, caller: Writer) -> Response:
    kind = tx.get(KIND, identifier).body["trigger_type"]
    return _one(
        tx, patched(tx, identifier, spec, caller.services), warnings_on(caller, spec, kind, spec.schedule_config)
    )


@router.delete("/triggers/{identifier}", operation_id="delete_trigger", response_model=None)
def remove(identifier: str, tx: Delete) -> Response:
    remove_trigger(tx, require(tx, identifier))
    return Response(status_code=204)


@router.post("/triggers/{identifier}/pause", operation_id="pause_trigger", response_model=None)
def pause(identifier: str, tx: Write, caller: Writer) -> Response:
    return _one(tx, switched(tx, identifier, "paused"))


@router.post("/triggers/{identifier}/resume", operation_id="resume_trigger", response_model=None)
def resume(identifier: str, tx: Write, caller: Writer) -> Response:
    """What was due meanwhile is not made up for."""
    return _one(tx, switched(tx, identifier, "active"))


@router.post("/triggers/{identifier}/execute", operation_id="execute_trigger", response_model=None)
def execute(identifier: str, tx: Write, caller: Writer) -> Response:
    """Run it now, whatever its schedule and status; the task may be polled."""
    run = run_now(caller.services, tx, require(tx, identifier))
    task = tx.row("tasks", {"task_id": run["task_id"]})
    assert task is not None  # made in this transaction, or open in it
    return answer(task_view(task))


@router.get("/triggers/{identifier}/history", operation_id="get_trigger_history", response_model=None)
def get_history(
    identifier: str, tx: Read, caller: Reader, offset: Annotated[int, Query(ge=0, le=10_000)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50, status: str | None = None, status_filter: str | None = None,
) -> Response:  # fmt: skip
    trigger = tx.get(KIND, identifier)
    rows, total = history(tx, trigger, offset, limit, status or status_filter)
    shown = [run_view(row) for row in rows]
    return answer({"trigger_id": trigger.id, "executions": shown, "total": total, "offset": offset, "limit": limit})
