"""Retrievers: stages checked and compiled once, executed many times.

normalise (spellings) → plan (checks, templates) → execute (stages, budgets) → paging → present. `RetrieveEngine` is the
one entry; what it needs from outside is in `seams`.
"""

from __future__ import annotations

from mediatheca.flows.retrieve.engine import RetrieveEngine
from mediatheca.flows.retrieve.normalise import declared_collections
from mediatheca.flows.retrieve.plan import Plan
from mediatheca.flows.retrieve.request import ExecuteRequest
from mediatheca.flows.retrieve.seams import ContentEmbedder, ExecutionContext, Fetch, Searcher, Sign

__all__ = [
    "ContentEmbedder",
    "ExecuteRequest",
    "ExecutionContext",
    "Fetch",
    "Plan",
    "RetrieveEngine",
    "Searcher",
    "Sign",
    "declared_collections",
]
