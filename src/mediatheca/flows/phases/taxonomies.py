"""Phase 1: the taxonomies that are applied to a collection."""

from __future__ import annotations

from mediatheca.flows.follow_up import Phase
from mediatheca.flows.taxonomies.applications import at_ingest
from mediatheca.flows.taxonomies.follow import run_taxonomies

TAXONOMIES = Phase(1, "taxonomies", lambda tx, collection: bool(at_ingest(collection)), run_taxonomies)
