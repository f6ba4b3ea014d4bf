"""What the failures of a batch have in common: their categories, one word for all of them, and the first of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mediatheca.stores.db.tx import ReadTx, Row

RUNTIME = "runtime"
_CATEGORIES = {
    "fetch": "network", "timeout": "resource", "memory": "resource", "crash": "resource", "input": "validation",
    "passthrough": "validation", "result": "validation", "object": "validation", "job": "dependency",
}  # fmt: skip
_UNKNOWN = "unknown"
_FAILURES = {
    "fetch": "infrastructure", "timeout": "timeout", "memory": "infrastructure", "crash": "infrastructure",
    "input": "validation", "passthrough": "validation", "result": "pipeline", "object": "validation",
    "job": "infrastructure", "extract": "pipeline",
}  # fmt: skip


def category(phase: str) -> str:
    """What is to be looked at when an item failed in this phase: dependency, validation, runtime, network, resource."""
    return _CATEGORIES.get(phase, RUNTIME)


def by_category(counts: Mapping[str, int]) -> dict[str, int]:
    """Failures by phase as failures by category."""
    found: dict[str, int] = {}
    for phase, count in counts.items():
        found[category(phase)] = found.get(category(phase), 0) + count
    return found


@dataclass(frozen=True, slots=True)
class Errors:
    """The failures of a batch that stand."""

    summary: dict[str, int] = field(default_factory=dict)
    """How many in each category."""
    failure_category: str | None = None
    """timeout, infrastructure, pipeline, validation or unknown: what most of them are."""
    first: str | None = None
    first_extracting: str | None = None
    """The first reason that an extractor gave."""


def errors_of(tx: ReadTx, batch_id: str) -> Errors:
    """Looks at all failures of a batch; to be asked when it has some."""
    where = {"batch_id": batch_id, "outcome": "failed", "retried_at": None}
    phases = {row["phase"]: int(row["count"]) for row in tx.sums("failed_items", where, (), by=("phase",))}
    kinds: dict[str, int] = {}
    for phase, count in phases.items():
        kind = _FAILURES.get(phase, _UNKNOWN)
        kinds[kind] = kinds.get(kind, 0) + count
    extracting = {**where, "phase": "extract"} if "extract" in phases else None
    return Errors(
        by_category(phases),
        max(kinds, key=lambda kind: (kinds[kind], kind), default=None),
        _first(tx, where),
        _first(tx, extracting) if extracting else None,
    )


def _first(tx: ReadTx, where: Row) -> str | None:
    order: Any = ("created_at", "item_id")
    found = tx.rows("failed_items", where, columns=("reason",), order=order, limit=1)
    return found[0]["reason"] if found else None
