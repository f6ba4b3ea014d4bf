"""Phase 4: retrievers whose results are written into new documents."""

from __future__ import annotations

from mediatheca.flows.applications import applications
from mediatheca.flows.enrichment.retriever_enrichment import LIST, run_retriever_enrichments
from mediatheca.flows.follow_up import Phase

ENRICHMENTS = Phase(
    4, "enrichments", lambda tx, collection: bool(applications(collection, LIST)), run_retriever_enrichments
)
