"""Execution records, written behind: the hot path never waits for the database, and may lose the last second.

The newest are readable at once from memory. The scheduler forgets the old ones (`prune`).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import structlog

from mediatheca.flows.shown import shown_rows
from mediatheca.kernel import clock
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.retention import prune_rows
from mediatheca.stores.db.tx import Row, Tx

log = structlog.get_logger()

FLUSH_S = 0.5
_MEMORY = 1_000
_BUFFER = 20_000
MAX_RANKING = 100
"""Documents of a page that a record names, for comparing a replay with it."""
ADHOC = ""
"""The retriever id of an execution of stages that are not stored."""
_KEPT = (
    *("status", "execution_time", "stage_statistics", "budget", "warnings", "degraded", "limits", "error", "seed"),
    *("cache_hit", "cached_at", "completeness", "interpretation", "pagination", "facets", "did_you_mean"),
)


class ExecutionLog:
    """Collects records and stores them in batches."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._buffer: deque[tuple[Scope, dict[str, Any]]] = deque(maxlen=_BUFFER)
        # A plain dict: threads list it while the event loop adds to it, which an ordered one does not bear.
        self._recent: dict[tuple[Scope, str], dict[str, Any]] = {}
        self._flushing = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="executions", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(5)
        self.flush()

    def add(
        self, scope: Scope, retriever_id: str, inputs: dict[str, Any], answer: dict[str, Any], **extra: Any
    ) -> None:
        """Remember an execution, with `extra` in its body. Inputs are kept for replay; long ones (files) are cut."""
        body = {name: answer[name] for name in _KEPT if name in answer} | extra
        body["inputs"] = {name: v if len(str(v)) <= 2_000 else f"{str(v)[:100]}…" for name, v in inputs.items()}
        body["cut_inputs"] = [name for name, value in inputs.items() if body["inputs"][name] != value]
        body["returned"] = len(answer["documents"])
        body["ranking"] = [[item.get("document_id"), item.get("score")] for item in answer["documents"][:MAX_RANKING]]
        row = {"execution_id": answer["execution_id"], "retriever_id": retriever_id, "status": answer["status"]}
        row |= {"body": body, "created_at": clock.now()}
        self._buffer.append((scope, row))
        self._recent[scope, row["execution_id"]] = row
        if len(self._recent) > _MEMORY:
            self._recent.pop(next(iter(self._recent)), None)

    def find(self, scope: Scope, execution_id: str) -> dict[str, Any] | None:
        """A record by id, from memory or the database."""
        row = self._recent.get((scope, execution_id))
        if row is None:
            with self._db.read(scope) as tx:
                row = tx.row("executions", {"execution_id": execution_id})
        return row

    def forget(self, scope: Scope, execution_ids: Collection[str], user_id: str) -> None:
        """Drop what memory holds of these executions, and of all that name this person; `flush` before."""

        def named(row: dict[str, Any]) -> bool:
            body = row["body"]
            return row["execution_id"] in execution_ids or user_id in (
                body.get("user_id"),
                body["inputs"].get("user_id"),
            )

        for key, row in list(self._recent.items()):
            if key[0] == scope and named(row):
                self._recent.pop(key, None)

    def recent(self, scope: Scope, retriever_id: str | None = None) -> list[dict[str, Any]]:
        """The records of a scope that are still in memory, newest first; of one retriever where it is named."""
        rows = [row for (held, _), row in list(self._recent.items()) if held == scope]
        return [row for row in reversed(rows) if retriever_id in (None, row["retriever_id"])]

    def flush(self) -> None:
        """Store what has been collected."""
        by_scope: dict[Scope, list[dict[str, Any]]] = {}
        with self._flushing:
            while self._buffer:
                scope, row = self._buffer.popleft()
                by_scope.setdefault(scope, []).append(row)
            for scope, rows in by_scope.items():
                try:
                    self._db.run(scope, partial(_store, rows))
                except Exception as error:  # what one tenant sent must not cost another's records, nor end the thread
                    reason = getattr(error, "message", type(error).__name__)
                    log.error("executions.lost", organization=scope.organization_id, count=len(rows), error=reason)

    def prune(self, days: float, count: int) -> int:
        """Forget records older than `days`, and all but the newest `count` of each namespace; 0 means no limit.

        Returns how many. What is still in memory can be read a little longer.
        """
        before = clock.now() - timedelta(days=days) if days else None
        prune_rows(self._db, "shown_results", before, count or None)
        return prune_rows(self._db, "executions", before, count or None)

    def _loop(self) -> None:
        while not self._closing.wait(FLUSH_S):
            self.flush()


def _store(rows: Sequence[Row], tx: Tx) -> None:
    tx.insert("executions", rows)
    shown = shown_rows(tx.scope, rows)
    if shown:
        tx.insert("shown_results", shown)
