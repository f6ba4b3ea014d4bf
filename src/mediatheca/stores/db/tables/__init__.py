"""The tables of the control plane. Configuration is rows of `resources`; what is big or busy has its own table.

Every table that belongs to a tenant has `organization_id` and `namespace_id` (empty at organization level); `Tx` adds
both to every statement. Times are microseconds since 1970, UTC.
"""

from __future__ import annotations

from mediatheca.stores.db.tables.access import api_keys, publications, request_windows, retriever_keys
from mediatheca.stores.db.tables.automation import (
    alert_matches,
    alert_runs,
    alert_states,
    cluster_runs,
    deliveries,
    event_cursors,
    follow_ups,
    taxonomy_runs,
    taxonomy_stats,
    taxonomy_versions,
    trigger_runs,
)
from mediatheca.stores.db.tables.buckets import blobs, objects, uploads
from mediatheca.stores.db.tables.columns import NOW_US, Json, UtcTime, metadata
from mediatheca.stores.db.tables.configuration import resources, retriever_versions, server_state
from mediatheca.stores.db.tables.documents import annotation_rows, document_tables, tombstones
from mediatheca.stores.db.tables.ingestion import (
    batch_objects,
    batches,
    cached_results,
    chunks,
    derivations,
    failed_items,
)
from mediatheca.stores.db.tables.retrieval import executions, fusion_arms, fusion_users, interactions, shown_results
from mediatheca.stores.db.tables.syncs import sync_failures, sync_items, sync_jobs
from mediatheca.stores.db.tables.work import events, jobs, schedules, tasks

__all__ = [
    "NOW_US",
    "Json",
    "UtcTime",
    "alert_matches",
    "alert_runs",
    "alert_states",
    "annotation_rows",
    "api_keys",
    "batch_objects",
    "batches",
    "blobs",
    "cached_results",
    "chunks",
    "cluster_runs",
    "deliveries",
    "derivations",
    "document_tables",
    "event_cursors",
    "events",
    "executions",
    "failed_items",
    "follow_ups",
    "fusion_arms",
    "fusion_users",
    "interactions",
    "jobs",
    "metadata",
    "objects",
    "publications",
    "request_windows",
    "resources",
    "retriever_keys",
    "retriever_versions",
    "schedules",
    "server_state",
    "shown_results",
    "sync_failures",
    "sync_items",
    "sync_jobs",
    "tasks",
    "taxonomy_runs",
    "taxonomy_stats",
    "taxonomy_versions",
    "tombstones",
    "trigger_runs",
    "uploads",
]
