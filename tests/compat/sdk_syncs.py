"""Every generated method of the syncs of a bucket. The store they read from is not there: runs fail, and say so."""

from __future__ import annotations

from typing import Any

from sdk_world import Call, World


def _store(w: World) -> str:
    config = {
        "bucket": "shelf",
        "region": "us-east-1",
        "endpoint_url": w.url,
        "credentials": {"type": "access_key", "access_key_id": "AKIA", "secret_access_key": "swordfish"},
    }
    body = {"name": w.name(f"store-{w.namespace}"), "provider_type": "s3", "provider_config": config}
    made = w.request("POST", "/organizations/connections", {**body, "test_before_save": False})
    return str(made["connection_id"])


def _config(w: World) -> dict[str, Any]:
    """A sync with everything that the typed models know."""
    mapping = {
        "note": {"target_type": "blob", "source": {"type": "file"}, "blob_property": "note"},
        "topic": {"target_type": "field", "source": {"type": "tag", "key": "topic"}, "transform": "lowercase"},
    }
    filters = {"include_patterns": ["*.txt"], "min_size_bytes": 1, "modified_after": "2026-01-01T00:00:00Z"}
    return {
        "connection_id": w.once("store", lambda: _store(w)),
        "source_path": "notes/",
        "sync_mode": "continuous",
        "polling_interval_seconds": 3600,
        "file_filters": filters,
        "schema_mapping": {"mappings": mapping},
        "reconcile": {"on_delete": True},
        "metadata": {"team": "films"},
    }


def _sync(w: World) -> dict[str, Any]:
    made = w.request("POST", f"/buckets/{w.files}/syncs", _config(w))
    return {"bucket_id": w.files, "sync_config_id": made["sync_config_id"]}


def _job(w: World) -> dict[str, Any]:
    sync = _sync(w)
    job = w.request("POST", f"/buckets/{w.files}/syncs/{sync['sync_config_id']}/trigger")
    return {**sync, "sync_job_id": job["sync_job_id"]}


def _paused(w: World) -> dict[str, Any]:
    sync = _sync(w)
    w.request("POST", f"/buckets/{w.files}/syncs/{sync['sync_config_id']}/pause")
    return sync


def _triggered(w: World) -> dict[str, Any]:
    return {name: value for name, value in _job(w).items() if name != "sync_job_id"}


SYNCS: dict[str, Call] = {
    "BucketSyncsApi.create_sync_configuration_buckets": Call(
        lambda w: {"bucket_id": w.files, "sync_create_request": _config(w)},
        lambda a, w: (
            a.status.value == "PENDING"
            and a.schema_mapping.mappings["topic"].actual_instance.source.actual_instance.key == "topic"
            and a.reconcile.on_filter_drift is True
            and "swordfish" not in str(a.to_dict())
        ),
    ),
    "BucketSyncsApi.list_sync_configurations_buckets": Call(
        lambda w: {"bucket_id": w.files, "list_sync_configurations_request": {"is_active": True}} if _sync(w) else {},
        lambda a, w: a.total == len(a.results) >= 1,
    ),
    "BucketSyncsApi.get_sync_configuration_buckets_id_config": Call(_sync, lambda a, w: a.locked is False),
    "BucketSyncsApi.update_sync_configuration_buckets_id_config": Call(
        lambda w: {**_sync(w), "sync_update_request": {"batch_size": 7, "description": "notes"}},
        lambda a, w: (a.batch_size, a.description, a.polling_interval_seconds) == (7, "notes", 3600),
    ),
    "BucketSyncsApi.pause_sync_configuration_buckets_id_config": Call(_sync, lambda a, w: a.paused is True),
    "BucketSyncsApi.resume_sync_configuration_buckets_id_config": Call(_paused, lambda a, w: a.paused is False),
    "BucketSyncsApi.trigger_sync_configuration_buckets_id_config": Call(
        lambda w: {**_sync(w), "full_sync": True}, lambda a, w: a["status"] == "running" and a["full_sync"] is True
    ),
    "BucketSyncsApi.force_unlock_sync_configuration_buckets_id_config": Call(
        _triggered, lambda a, w: a["success"] is True
    ),
    "BucketSyncsApi.list_sync_jobs_buckets_id_config": Call(
        _triggered, lambda a, w: a.total == len(a.results) == 1 and a.results[0].trigger.value == "manual"
    ),
    "BucketSyncsApi.get_sync_job_buckets_id_config": Call(_job, lambda a, w: a.status.value in ("running", "failed")),
    "BucketSyncsApi.get_sync_metrics_buckets_id_config": Call(_sync, lambda a, w: a.healthy is True),
    "BucketSyncsApi.list_dlq_entries_buckets_id_syncs_config": Call(_sync, lambda a, w: a.total == 0),
    "BucketSyncsApi.requeue_dlq_entries_buckets_id_syncs_config": Call(_sync, lambda a, w: a.requeued == 0),
    "BucketSyncsApi.bulk_mark_dlq_permanently_failed_buckets_id_syncs_config": Call(
        lambda w: {**_sync(w), "bulk_mark_dlq_request": {"error_types": ["access_denied"]}},
        lambda a, w: a.updated == 0,
    ),
    "BucketSyncsApi.delete_sync_configuration_buckets_id_config": Call(_sync, lambda a, w: a["success"] is True),
}
