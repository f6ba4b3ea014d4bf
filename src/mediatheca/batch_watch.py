"""`mediatheca batch watch`: a progress bar of a batch, over the public API."""

from __future__ import annotations

import time
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from mediatheca.kernel.errors import MediathecaError, UnavailableError

ENDED = ("COMPLETED", "COMPLETED_WITH_ERRORS", "FAILED", "CANCELED")
_POLL_S = 1.0
_PATIENCE_S = 60.0
"""How long a server may not answer: it may be restarting."""
_SHOWN_REASONS = 5
_BUSY = (429, 502, 503, 504)


class WatchError(MediathecaError):
    """The server refuses; the message is its own."""

    status = 400
    type = "WatchError"


def watch(url: str, key: str, namespace: str, batch_id: str, console: Console | None = None) -> int:
    """Show the bar until the batch has ended. The exit status: 0 completed, 1 not wholly.

    Raises:
        WatchError: there is no such batch, or the key is not good for it.
        UnavailableError: the server does not answer.
    """
    headers = {"Authorization": f"Bearer {key}", "X-Namespace": namespace}
    with httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False) as client:
        out = console or Console()
        batch = _get(client, f"/v1/batches/{batch_id}", patience_s=0)
        if batch["status"] == "DRAFT":
            raise WatchError(f"batch '{batch_id}' is a draft: submit it first")
        if batch["status"] not in ENDED:
            out.print(f"{batch_id}: {batch['object_count']} objects, {batch['total_tiers']} tiers", highlight=False)
            _follow(client, batch, out)
            batch = _get(client, f"/v1/batches/{batch_id}")
        _summarise(batch, out)
        return 0 if batch["status"] == "COMPLETED" else 1


def _follow(client: httpx.Client, batch: dict[str, Any], console: Console) -> None:
    """The task is polled, not the batch: that lists every object."""
    columns = (
        TextColumn("{task.description}"), BarColumn(40), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as bars:
        bar = bars.add_task(batch["batch_id"], total=None, rate="")
        while True:
            task = _get(client, f"/v1/tasks/{batch['task_id']}")
            _show(bars, bar, batch["batch_id"], task)
            if task["status"] in ENDED:
                return
            time.sleep(_POLL_S)


def _show(bars: Progress, bar: TaskID, name: str, task: dict[str, Any]) -> None:
    told = task.get("progress") or {}
    stage = (told.get("current_stage") or {}).get("name", task["status"].lower())
    rate, left = told.get("items_per_second") or 0, told.get("eta_seconds")
    text = f"{rate:g}/s" + (f", {_duration(left)} left" if left else "")
    if told.get("failed"):
        text += f", {told['failed']} failed"
    if told.get("retrying"):
        text += f", {told['retrying']} tried again"
    shown = {"total": told.get("total"), "completed": told.get("processed", 0)}
    bars.update(bar, **shown, description=f"{name} {stage}", rate=text)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _summarise(batch: dict[str, Any], console: Console) -> None:
    console.print(
        f"{batch['batch_id']} {batch['status']}: {batch['documents_written']} documents written", highlight=False
    )
    for tier in batch.get("tier_tasks", ()):
        audit = tier["audit"]
        counts = f"{audit['processed']} processed, {audit['skipped']} left out, {audit['failed']} failed"
        line = f"  tier {tier['tier_num']} {tier['status']}: {tier['source_documents_fetched']} read, {counts}"
        console.print(line, highlight=False)
    reasons = [f"{row['object_id']}: {row['reason']}" for row in batch["failed_objects"][:_SHOWN_REASONS]]
    for reason in reasons:
        console.print(f"  {reason}", highlight=False, markup=False)


def _get(client: httpx.Client, path: str, patience_s: float = _PATIENCE_S) -> dict[str, Any]:
    """A request that outlives a restart of the server, if that is short."""
    until = time.monotonic() + patience_s
    while True:
        try:
            response = client.get(path)
        except httpx.TransportError as error:
            if time.monotonic() >= until:
                raise UnavailableError(f"{client.base_url} does not answer: {error}") from error
        else:
            if response.status_code not in _BUSY or time.monotonic() >= until:
                return _body(response, path)
        time.sleep(_POLL_S)


def _body(response: httpx.Response, path: str) -> dict[str, Any]:
    told = response.headers.get("content-type", "").startswith("application/json")
    body: dict[str, Any] = response.json() if told else {}
    if response.status_code >= 400:
        raise WatchError(body.get("error", {}).get("message") or f"{path}: HTTP {response.status_code}")
    return body
