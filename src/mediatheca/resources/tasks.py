"""Tasks: what a caller polls while something long runs. Rows of their own table."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from mediatheca.api.deps import Delete, Raw, Read, answer, json_body, names_in
from mediatheca.api.lists import Listed, listed
from mediatheca.flows.ingest.outlook import of_task
from mediatheca.flows.ingest.plan import BATCH_TASK, ENDED, TIER_TASK, cancel_batch, change_task, get_batch
from mediatheca.flows.ingest.progress import progress
from mediatheca.flows.ingest.tier_actions import cancel_tier
from mediatheca.kernel.errors import NotFoundError
from mediatheca.stores.db.listing import ListQuery
from mediatheca.stores.db.tx import ReadTx, Row

router = APIRouter(tags=["tasks"])


def task_view(row: Row, progress: dict[str, Any] | None = None) -> dict[str, Any]:
    """A task; `progress` where it is known better than the row says."""
    return {
        "task_id": row["task_id"],
        "task_type": row["task_type"],
        "status": row["status"],
        "inputs": row["inputs"],
        "outputs": row["outputs"],
        "additional_data": row["additional_data"],
        "progress": progress or row["progress"],
        "error": row["error"],
        "error_message": row["error"],
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
    }


def _get(tx: ReadTx, task_id: str) -> Row:
    row = tx.row("tasks", {"task_id": task_id})
    if row is None:
        raise NotFoundError("task", task_id)
    return row


def _page(tx: ReadTx, query: ListQuery, where: dict[str, Any]) -> Response:
    page = tx.page("tasks", where, query)
    return answer(listed(page, [task_view(row) for row in page.rows]))


@router.post("/tasks/list", operation_id="list_tasks", response_model=None)
def list_post(raw: Raw, query: Listed, tx: Read) -> Response:
    body = json_body(raw)
    return _page(tx, query, {key: names for key in ("status", "task_type") if (names := names_in(body, key))})


@router.get("/tasks", operation_id="list_tasks_get", response_model=None)
def list_get(query: Listed, tx: Read, status: str | None = None) -> Response:
    return _page(tx, query, {"status": status} if status else {})


@router.get("/tasks/{task_id}", operation_id="get_task", response_model=None)
def get(task_id: str, tx: Read) -> Response:
    row = _get(tx, task_id)
    batch = tx.row("batches", {"task_id": task_id}) if row["task_type"] == BATCH_TASK else None
    if batch is None:
        return answer(task_view(row))
    return answer({**task_view(row, progress(tx, batch)), **of_task(tx, batch)})


@router.delete("/tasks/{task_id}", operation_id="kill_task", response_model=None)
def kill(task_id: str, tx: Delete) -> Response:
    """Stop what the task stands for; a task that has ended stays as it is."""
    task = _get(tx, task_id)
    batch = tx.row("batches", {"task_id": task_id})
    if batch is not None:
        cancel_batch(tx, batch, "task canceled")
    elif task["task_type"] == TIER_TASK and task["status"] not in ENDED:
        given = task["additional_data"]
        cancel_tier(tx, get_batch(tx, given["batch_id"]), given["tier_num"], "task canceled")
    elif task["status"] not in ENDED:
        change_task(tx, task_id, "CANCELED", {})
        tx.cancel_jobs(task_id)
    return answer({"success": True, "message": f"task '{task_id}' is {_get(tx, task_id)['status']}"})
