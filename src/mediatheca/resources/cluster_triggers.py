"""Triggers of clusters under their older routes: the same records, seen as executions of a cluster.

These paths lie below `/clusters`, as an id of a cluster does; the fixed word is looked up first (`api.route_index`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Response
from pydantic import Field

from mediatheca.api.deps import Delete, Read, Reader, Write, Writer, answer
from mediatheca.flows.triggers.config import TriggerType
from mediatheca.flows.triggers.state import KIND, remove_trigger, require
from mediatheca.kernel.errors import NotFoundError, ValidationError
from mediatheca.resources.base import Spec
from mediatheca.resources.triggers import (
    AnyStatus,
    Limit,
    ListSpec,
    Offset,
    Status,
    TriggerPatch,
    TriggerSpec,
    declare,
    history,
    listing,
    patched,
    run_view,
    switched,
    trigger_views,
    warnings_on,
)
from mediatheca.stores.db.tx import ReadTx, Record, record

router = APIRouter(tags=["triggers"])
ACTION = "cluster"


class ExecutionConfig(Spec):
    """What a run executes; the cluster knows its collections itself."""

    collection_ids: list[str] = Field(default_factory=list, max_length=100)
    config: dict[str, Any] = Field(default_factory=dict)


class ClusterTriggerSpec(Spec):
    cluster_id: str | None = Field(None, max_length=200)
    execution_config: ExecutionConfig | None = None
    trigger_type: TriggerType
    schedule_config: dict[str, Any]
    description: str | None = Field(None, max_length=5000)
    status: Status | None = None


class ClusterListSpec(Spec):
    cluster_id: str | None = Field(None, max_length=200)
    trigger_type: TriggerType | None = None
    status: AnyStatus | None = None
    offset: Offset = 0
    limit: Limit = 50
    sort_by: str | None = None
    direction: Literal["asc", "desc"] | None = None


class HistorySpec(Spec):
    offset: Offset = 0
    limit: Limit = 50
    status_filter: str | None = Field(None, max_length=32)


def _views(tx: ReadTx, triggers: Sequence[Record]) -> list[dict[str, Any]]:
    wanted = [trigger.body["action_config"]["cluster_id"] for trigger in triggers]
    clusters = {found.id: found for found in tx.resources("cluster", {"id": wanted})} if wanted else {}
    return [_view(shown, clusters.get(shown["action_config"]["cluster_id"])) for shown in trigger_views(tx, triggers)]


def _view(shown: dict[str, Any], cluster: Record | None) -> dict[str, Any]:
    config = {key: value for key, value in shown["action_config"].items() if key != "cluster_id"}
    collections = [] if cluster is None else cluster.body.get("collection_ids") or []
    return {
        **shown,
        "cluster_id": shown["action_config"]["cluster_id"],
        "execution_config": {"collection_ids": list(collections), "config": config},
        "last_execution_job_id": shown["last_execution_task_id"],
    }


def _own(tx: ReadTx, identifier: str) -> Record:
    """Raises NotFoundError: there is none, or it does something else."""
    found = tx.get(KIND, identifier)
    if found.body["action_type"] != ACTION:
        raise NotFoundError("cluster trigger", identifier)
    return found


@router.post("/clusters/triggers", operation_id="create_cluster_trigger", response_model=None)
def create(spec: ClusterTriggerSpec, tx: Write, caller: Writer) -> Response:
    if spec.cluster_id is None:
        message = "is required: make a cluster with these collections and settings first, and name it here"
        raise ValidationError.at(("body", "cluster_id"), message, "missing")
    extra = spec.execution_config.config if spec.execution_config else {}
    action = {"action_type": ACTION, "raw": {**extra, "cluster_id": spec.cluster_id}}
    notes = warnings_on(caller, spec, spec.trigger_type, spec.schedule_config, action)
    made = TriggerSpec(
        action_type=ACTION,
        action_config=action["raw"],
        trigger_type=spec.trigger_type,
        schedule_config=spec.schedule_config,
        description=spec.description,
        status=spec.status,
    )
    return answer({**_views(tx, [declare(tx, made, caller.services)])[0], **notes})


@router.post("/clusters/triggers/list", operation_id="list_cluster_triggers", response_model=None)
def list_(tx: Read, caller: Reader, asked: Annotated[ClusterListSpec | None, Body()] = None) -> Response:
    asked = asked or ClusterListSpec()
    names = ("trigger_type", "status", "offset", "limit", "sort_by", "direction")
    given = ListSpec(resource_id=asked.cluster_id, **{name: getattr(asked, name) for name in names})
    page = listing(tx, given, action_type=ACTION)
    shown = _views(tx, [record(row) for row in page.rows])
    return answer({"results": shown, "total": page.total, "offset": page.offset, "limit": page.limit})


@router.get("/clusters/triggers/{identifier}", operation_id="get_cluster_trigger", response_model=None)
def get(identifier: str, tx: Read, caller: Reader) -> Response:
    return answer(_views(tx, [_own(tx, identifier)])[0])


@router.patch("/clusters/triggers/{identifier}", operation_id="patch_cluster_trigger", response_model=None)
def patch(identifier: str, spec: TriggerPatch, tx: Write, caller: Writer) -> Response:
    trigger = _own(tx, identifier)
    notes = warnings_on(caller, spec, trigger.body["trigger_type"], spec.schedule_config)
    return answer({**_views(tx, [patched(tx, trigger.id, spec, caller.services)])[0], **notes})


@router.delete("/clusters/triggers/{identifier}", operation_id="delete_cluster_trigger", response_model=None)
def remove(identifier: str, tx: Delete) -> Response:
    remove_trigger(tx, require(tx, _own(tx, identifier).id))
    return Response(status_code=204)


@router.post("/clusters/triggers/{identifier}/pause", operation_id="pause_cluster_trigger", response_model=None)
def pause(identifier: str, tx: Write, caller: Writer) -> Response:
    return answer(_views(tx, [switched(tx, _own(tx, identifier).id, "paused")])[0])


@router.post("/clusters/triggers/{identifier}/resume", operation_id="resume_cluster_trigger", response_model=None)
def resume(identifier: str, tx: Write, caller: Writer) -> Response:
    return answer(_views(tx, [switched(tx, _own(tx, identifier).id, "active")])[0])


@router.post(
    "/clusters/triggers/{identifier}/history", operation_id="list_cluster_trigger_history", response_model=None
)
def get_history(
    identifier: str, tx: Read, caller: Reader, asked: Annotated[HistorySpec | None, Body()] = None
) -> Response:
    asked = asked or HistorySpec()
    trigger = _own(tx, identifier)
    rows, total = history(tx, trigger, asked.offset, asked.limit, asked.status_filter)
    shown = [{"job_id": row["task_id"] or row["run_id"], **run_view(row)} for row in rows]
    told = {"trigger_id": trigger.id, "executions": shown, "total": total}
    return answer({**told, "offset": asked.offset, "limit": asked.limit})
