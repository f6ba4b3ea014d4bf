"""Which collections a taxonomy is attached to, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mediatheca.flows.applications import applications
from mediatheca.kernel.assignments import Style
from mediatheca.stores.db.tx import ReadTx, Record

FIELD: Literal["taxonomy_applications"] = "taxonomy_applications"


@dataclass(frozen=True, slots=True)
class Application:
    """One entry of a collection's `taxonomy_applications`."""

    taxonomy_id: str
    version: int | None = None
    mode: str = "materialize"
    target_collection_id: str | None = None
    filters: Mapping[str, Any] | None = None
    phase: int = 1
    priority: int = 0
    style: Style = "combined"

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Application:
        style: Any = entry.get("hierarchical_enrichment_style") or "combined"
        return cls(
            taxonomy_id=entry["taxonomy_id"],
            version=entry.get("version"),
            mode=entry.get("execution_mode") or "materialize",
            target_collection_id=entry.get("target_collection_id"),
            filters=entry.get("scroll_filters"),
            phase=entry.get("execution_phase") or 1,
            priority=entry.get("priority") or 0,
            style=style,
        )


def at_ingest(collection: Record) -> list[Application]:
    """Those that label what is written, in the order in which they run."""
    found = [Application.of(entry) for entry in applications(collection, FIELD)]
    return sorted(found, key=lambda entry: (entry.phase, -entry.priority))


def application_of(collection: Record, taxonomy: Record) -> Application | None:
    """How a taxonomy is attached to a collection; None: it is not.

    A taxonomy whose source collection is the one to be classified counts as attached to it.
    """
    for entry in map(Application.of, collection.body.get(FIELD) or ()):
        if entry.taxonomy_id in (taxonomy.id, taxonomy.name):
            return entry
    return Application(taxonomy.id) if taxonomy.body["enriched"] == collection.id else None


def attached(tx: ReadTx, taxonomy: Record) -> list[Record]:
    """The collections that name a taxonomy among their applications."""
    names = (taxonomy.id, taxonomy.name)
    return [
        collection
        for collection in tx.resources("collection")
        if any(entry["taxonomy_id"] in names for entry in collection.body.get(FIELD) or ())
    ]
