"""What is applied to the documents of a collection after they were written, as readers of its four lists see it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from mediatheca.stores.db.tx import Record

Listed: TypeAlias = Literal[
    "taxonomy_applications", "cluster_applications", "alert_applications", "retriever_enrichments"
]


def applications(collection: Record, listed: Listed) -> list[dict[str, Any]]:
    """The entries of one list that work on new documents, the most urgent first, then as they were written.

    Left out: those switched off, and those that only work when they are asked to.
    """
    entries = [entry for entry in collection.body.get(listed) or () if works_on_new(entry)]
    return sorted(entries, key=lambda entry: -int(entry.get("priority") or 0))


def works_on_new(entry: Mapping[str, Any]) -> bool:
    """Whether an entry does something by itself when documents are written."""
    if entry.get("enabled") is False or entry.get("auto_execute_on_batch") is False:
        return False
    return entry.get("execution_mode") in (None, "materialize", "on_ingest")
