"""The tables of the control plane. Configuration is rows of `resources`; what is big or busy has its own table.

Every table that belongs to a tenant has `organization_id` and `namespace_id` (empty at organization level); `Tx` adds
both to every statement. Times are microseconds since 1970, UTC.
"""

from __future__ import annotations

from mediatheca.stores.db.tables.access import api_keys, publications, retriever_keys
from mediatheca.stores.db.tables.buckets import blobs, objects, uploads
from mediatheca.stores.db.tables.columns import NOW_US, Json, UtcTime, metadata
from mediatheca.stores.db.tables.configuration import resources, retriever_versions, server_state
from mediatheca.stores.db.tables.documents import annotation_rows, document_tables, tombstones
from mediatheca.stores.db.tables.ingestion import batch_objects, batches, cached_results, chunks, derivations, failures
from mediatheca.stores.db.tables.retrieval import executions, fusion_arms, fusion_users, interactions
from mediatheca.stores.db.tables.work import events, jobs, schedules, tasks

__all__ = [
    "NOW_US",
    "Json",
    "UtcTime",
    "annotation_rows",
    "api_keys",
    "batch_objects",
    "batches",
    "blobs",
    "cached_results",
    "chunks",
    "derivations",
    "document_tables",
    "events",
    "executions",
    "failures",
    "fusion_arms",
    "fusion_users",
    "interactions",
    "jobs",
    "metadata",
    "objects",
    "publications",
    "resources",
    "retriever_keys",
    "retriever_versions",
    "schedules",
    "server_state",
    "tasks",
    "tombstones",
    "uploads",
]
