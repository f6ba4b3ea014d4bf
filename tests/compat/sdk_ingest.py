"""Every generated method of the account, ingestion and task groups: its arguments, and what its answer must say."""

from __future__ import annotations

from sdk_world import BUCKET, STANDALONE, Call, World


def _key(w: World, **more: object) -> dict[str, object]:
    email, name = w.fresh_key()
    return {"user_email": email, "key_name": name, **more}


def _in(w: World, **more: object) -> dict[str, object]:
    return {"bucket_identifier": w.bucket, **more}


def _upload(w: World, upload_id: str) -> dict[str, object]:
    return {"bucket_identifier": w.files, "upload_id": upload_id}


def _named(w: World) -> dict[str, str]:
    return {"namespace_name": w.name(f"made-{w.namespace}")}


GROUPED = {"group_by": [{"field": "name"}], "aggregations": [{"function": "count", "alias": "n"}]}

ACCOUNT: dict[str, Call] = {
    "AccountApi.whoami_me": Call(lambda w: {}, lambda a, w: a.key is not None),
    "OrganizationsApi.get_organization": Call(lambda w: {}, lambda a, w: bool(a.organization_id)),
    "OrganizationsApi.update_organization": Call(
        lambda w: {"organization_update_request": {"metadata": {"team": "search"}}},
        lambda a, w: a.metadata == {"team": "search"},
    ),
    "OrganizationUsersApi.create_user_organizations": Call(
        lambda w: {
            "user_create_request": {"email": f"{w.name('u')}.{w.namespace[3:9]}@example.com", "user_name": "Ada"}
        },
        lambda a, w: a["user_name"] == "Ada",
    ),
    "OrganizationUsersApi.list_users_organizations": Call(lambda w: {}),
    "OrganizationUsersApi.get_user_organizations_email": Call(
        lambda w: {"user_email": w.fresh_user()}, lambda a, w: a["user_name"] == "Somebody"
    ),
    "OrganizationUsersApi.update_user_organizations_email": Call(
        lambda w: {"user_email": w.fresh_user(), "user_update_request": {"user_name": "Grace"}},
        lambda a, w: a["user_name"] == "Grace",
    ),
    "OrganizationUsersApi.delete_user_organizations_email": Call(lambda w: {"user_email": w.fresh_user()}),
    "OrganizationAPIKeysApi.create_key_organizations_users_email": Call(
        lambda w: {
            "user_email": w.fresh_user(),
            "api_key_create_request": {"name": "reader", "permissions": ["read"], "expires_at": "2099-01-01T00:00:00Z"},
        },
        lambda a, w: a.key.startswith("sk_") and a.name == "reader",
    ),
    "OrganizationAPIKeysApi.list_keys_organizations_users_email": Call(
        lambda w: {"user_email": w.fresh_key()[0]}, lambda a, w: len(a["results"]) == 1
    ),
    "OrganizationAPIKeysApi.update_key_organizations_users_email_name": Call(
        lambda w: _key(w, api_key_update_request={"description": "for tests"}),
        lambda a, w: a.description == "for tests",
    ),
    "OrganizationAPIKeysApi.rotate_key_organizations_users_email_name": Call(_key, lambda a, w: bool(a.key)),
    "OrganizationAPIKeysApi.delete_key_organizations_users_email_name": Call(_key),
}

NAMESPACES: dict[str, Call] = {
    "NamespacesApi.create_namespace": Call(
        lambda w: {
            "create_namespace_request": {
                **_named(w),
                "feature_extractors": [{"feature_extractor_name": "text_extractor", "version": "v1"}],
            }
        },
        lambda a, w: a.feature_extractors[0].feature_extractor_id == "text_extractor_v1",
    ),
    "NamespacesApi.list_namespaces": Call(lambda w: {}, lambda a, w: a.total_count >= 2),
    "NamespacesApi.list_namespaces_get": Call(lambda w: {"limit": 1}, lambda a, w: len(a.results) == 1),
    "NamespacesApi.get_namespace": Call(
        lambda w: {"namespace_identifier": w.namespace}, lambda a, w: a.collection_count == 1 and a.bucket_count == 2
    ),
    "NamespacesApi.patch_namespace": Call(
        lambda w: {"namespace_identifier": w.byo, "patch_namespace_request": {"description": "colours"}},
        lambda a, w: a.description == "colours",
    ),
    "NamespacesApi.update_namespace": Call(
        lambda w: {"namespace_identifier": w.fresh_standalone(), "update_namespace_request": _named(w)},
        lambda a, w: a.namespace_name.startswith("made-"),
    ),
    "NamespacesApi.delete_namespace": Call(lambda w: {"namespace_identifier": w.fresh_standalone(), "force": True}),
    "NamespacesApi.get_namespace_stats": Call(
        lambda w: {"namespace_identifier": w.namespace}, lambda a, w: a.namespace_id == w.namespace
    ),
    "NamespacesApi.get_namespace_stats_batch": Call(
        lambda w: {"namespace_stats_batch_request": {"namespace_ids": [w.namespace, w.byo]}}
    ),
    "NamespacesApi.ensure_namespace_indexes": Call(
        lambda w: {"namespace_identifier": w.namespace, "force_rebuild": True},
        lambda a, w: a["rebuilt"] == [w.collection],
    ),
    "BYODocumentsApi.create_standalone_namespace": Call(
        lambda w: {
            "create_standalone_namespace_request_model": {
                "namespace_id": w.name(f"byo2-{w.namespace}"),
                "vector_configs": [{"name": v["name"], "dimension": v["dimension"]} for v in STANDALONE],
            }
        },
        lambda a, w: a.mode == "standalone",
    ),
}

BUCKETS: dict[str, Call] = {
    "BucketsApi.create_bucket": Call(
        lambda w: {"bucket_create_request": {"bucket_name": w.name("b"), "bucket_schema": BUCKET}},
        lambda a, w: a.bucket_schema.properties["price"].type == "float",
    ),
    "BucketsApi.list_buckets": Call(lambda w: {}, lambda a, w: a.total_count >= 2),
    "BucketsApi.list_buckets_get": Call(lambda w: {"page_size": 1}, lambda a, w: a.pagination.next_page is not None),
    "BucketsApi.get_bucket": Call(lambda w: {"bucket_identifier": "products"}, lambda a, w: a.bucket_id == w.bucket),
    "BucketsApi.patch_bucket": Call(
        lambda w: _in(w, bucket_patch_request={"description": "what we sell"}),
        lambda a, w: a.description == "what we sell",
    ),
    "BucketsApi.update_bucket": Call(
        lambda w: {
            "bucket_identifier": w.fresh_bucket(),
            "bucket_update_request": {"bucket_name": w.name("renamed"), "bucket_schema": BUCKET},
        },
        lambda a, w: a.bucket_name.startswith("renamed"),
    ),
    "BucketsApi.delete_bucket": Call(lambda w: {"bucket_identifier": w.fresh_bucket()}, lambda a, w: a["success"]),
    "BucketObjectsApi.create_object_buckets": Call(
        lambda w: {
            "bucket_identifier": w.fresh_bucket(),
            "create_object_request": {
                "key_prefix": "/shelf",
                "blobs": [{"property": "description", "type": "text", "data": "A lamp"}],
            },
        },
        lambda a, w: a.object_id.startswith("obj_") and a.blobs[0].var_property == "description",
    ),
    "BucketObjectsApi.create_objects_batch_buckets": Call(
        lambda w: {
            "bucket_identifier": w.fresh_bucket(),
            "create_objects_batch_request": {"objects": [{"key_prefix": "/a"}, {"key_prefix": "/b"}]},
        },
        lambda a, w: (a.succeeded_count, a.failed_count) == (2, 0),
    ),
    "BucketObjectsApi.list_objects_buckets": Call(_in, lambda a, w: len(a.results) >= 3),
    "BucketObjectsApi.list_objects_get_buckets": Call(lambda w: _in(w, limit=2), lambda a, w: len(a.results) == 2),
    "BucketObjectsApi.get_object_buckets": Call(
        lambda w: _in(w, object_identifier=w.objects[0]), lambda a, w: a.object_id == w.objects[0]
    ),
    "BucketObjectsApi.patch_object_buckets": Call(
        lambda w: _in(w, object_identifier=w.fresh_object(), patch_object_request={"metadata": {"shelf": 3}})
    ),
    "BucketObjectsApi.update_object_buckets": Call(
        lambda w: _in(w, object_identifier=w.fresh_object(), update_object_request={"metadata": {"shelf": 4}})
    ),
    "BucketObjectsApi.delete_object_buckets": Call(
        lambda w: _in(w, object_identifier=w.fresh_object()), lambda a, w: a is None
    ),
    "BucketObjectsApi.aggregate_objects_buckets": Call(
        lambda w: _in(w, object_aggregation_request=GROUPED), lambda a, w: a.total_groups >= 3
    ),
    "BucketObjectsApi.bulk_soft_delete_objects_buckets": Call(
        lambda w: _in(w, bulk_soft_delete_request={"object_ids": [w.fresh_object()], "reason": "recalled"}),
        lambda a, w: (a.requested, a.soft_deleted) == (1, 1),
    ),
}

UPLOADS: dict[str, Call] = {
    "BucketUploadsApi.create_upload_buckets": Call(
        lambda w: {
            "bucket_identifier": w.files,
            "create_upload_request": {"filename": "a.txt", "content_type": "text/plain"},
        },
        lambda a, w: a.presigned_url.startswith("http"),
    ),
    "BucketUploadsApi.create_uploads_batch_buckets": Call(
        lambda w: {
            "bucket_identifier": w.files,
            "batch_upload_request": {"uploads": [{"filename": "b.txt", "content_type": "text/plain"}] * 2},
        },
    ),
    "BucketUploadsApi.confirm_upload_buckets": Call(
        lambda w: _upload(w, w.fresh_upload()), lambda a, w: a.object_id is not None
    ),
    "BucketUploadsApi.confirm_uploads_batch_buckets": Call(
        lambda w: {
            "bucket_identifier": w.files,
            "batch_confirm_request": {"confirmations": [{"upload_id": w.fresh_upload()}]},
        },
        lambda a, w: a.confirmations_count == 1,
    ),
    "BucketUploadsApi.list_uploads_buckets": Call(lambda w: {"bucket_identifier": w.files}),
    "BucketUploadsApi.get_upload_buckets": Call(lambda w: _upload(w, w.fresh_upload(sent=False))),
    "BucketUploadsApi.delete_upload_buckets": Call(
        lambda w: _upload(w, w.fresh_upload(sent=False)), lambda a, w: a is None
    ),
}

_HEAL = "body_heal_tier_v1_buckets_bucket_identifier_batches_batch_id_tiers_tier_num_heal_post"

BATCHES: dict[str, Call] = {
    "BucketBatchesApi.create_batch_buckets_batches": Call(
        lambda w: _in(w, create_batch_request={"object_ids": w.objects, "collection_ids": [w.collection]}),
        lambda a, w: a.status == "DRAFT" and sorted(a.object_ids) == sorted(w.objects),
    ),
    "BucketBatchesApi.list_batches_buckets": Call(_in, lambda a, w: w.batch in {b.batch_id for b in a.results}),
    "BucketBatchesApi.get_batch_buckets_batches": Call(
        lambda w: _in(w, batch_id=w.batch), lambda a, w: a.status == "COMPLETED"
    ),
    "BucketBatchesApi.patch_batch_buckets_batches": Call(
        lambda w: _in(w, batch_id=w.batch, patch_batch_request={"metadata": {"campaign_id": "spring"}}),
        lambda a, w: a.metadata.campaign_id == "spring",
    ),
    "BucketBatchesApi.delete_batch_buckets_batches": Call(lambda w: _in(w, batch_id=w.fresh_batch())),
    "BucketBatchesApi.add_objects_to_batch_buckets_batches": Call(
        lambda w: _in(w, batch_id=w.fresh_batch(), add_objects_to_batch_request={"object_ids": w.objects}),
        lambda a, w: sorted(a.object_ids) == sorted(w.objects),
    ),
    "BucketBatchesApi.submit_batch_buckets_batches": Call(
        lambda w: _in(w, batch_id=w.fresh_batch()), lambda a, w: bool(a.task_id)
    ),
    "BucketBatchesApi.cancel_batch_buckets_batches": Call(
        lambda w: _in(w, batch_id=w.fresh_batch()), lambda a, w: a.status == "CANCELED"
    ),
    "BucketBatchesApi.retry_batch_buckets_batches": Call(
        lambda w: _in(w, batch_id=w.batch, retry_batch_request={"retry_mode": "all"})
    ),
    "BucketBatchesApi.resubmit_batch_buckets_batches": Call(
        lambda w: _in(w, batch_id=w.ended_batch()), lambda a, w: a["status"] == "QUEUED"
    ),
    "BucketBatchesApi.get_batch_audit_buckets_batches": Call(lambda w: _in(w, batch_id=w.batch)),
    "BucketBatchesApi.get_failed_documents_buckets_batches_batch": Call(lambda w: _in(w, batch_id=w.batch)),
    "BucketBatchesApi.diagnose_batch_buckets_batches": Call(
        lambda w: _in(w, batch_id=w.batch), lambda a, w: a["infrastructure"]["collections"][w.collection]["caught_up"]
    ),
    "BucketBatchesApi.get_batch_logs_buckets_batches": Call(
        lambda w: _in(w, batch_id=w.batch), lambda a, w: "batch.queued" in a["logs"]
    ),
    "BucketBatchesApi.cancel_tier_buckets_batches_batch_id_num": Call(
        lambda w: _in(w, batch_id=w.batch, tier_num=0), lambda a, w: (a["canceled"], a["already_terminal"]) == (0, 1)
    ),
    "BucketBatchesApi.cancel_job_buckets_batches_batch_id_tiers_num_ray": Call(
        lambda w: _in(w, batch_id=w.batch, tier_num=0, ray_job_id=w.collection), lambda a, w: a["canceled"] == 0
    ),
    "BucketBatchesApi.heal_tier_buckets_batches_batch_id_num": Call(
        lambda w: _in(w, batch_id=w.batch, tier_num=0, **{_HEAL: {"action": "sync_status"}}),
        lambda a, w: a["started"] == 0,
    ),
    "BucketBatchesApi.retry_tier_buckets_batches_batch_id_num": Call(
        lambda w: _in(w, batch_id=w.batch, tier_num=0), lambda a, w: a["retried_object_count"] == 0
    ),
    "BucketBatchesApi.estimate_batch_cost_buckets_batches": Call(
        lambda w: _in(w, batch_id=w.fresh_batch()),
        lambda a, w: (a.object_count, a.already_extracted_count, a.estimated_credits) == (2, 2, 0),
    ),
    "BucketBatchesApi.bulk_submit_batches_buckets": Call(
        lambda w: _in(w, bulk_submit_batches_request={"chunk_size": 2, "max_objects": 3}),
        lambda a, w: [b.object_count for b in a.batches] == [2, 1],
    ),
    "BucketBatchesApi.submit_all_drafts_buckets_batches": Call(
        lambda w: {"bucket_identifier": w.bucket_with_draft()}, lambda a, w: a["submitted"] >= 1
    ),
    "BucketBatchesApi.delete_batch_documents_buckets_batches": Call(
        lambda w: _in(w, batch_id=w.ended_batch()), lambda a, w: a["deleted_count"] >= 0
    ),
    "BatchesApi.list_all_batches": Call(lambda w: {}, lambda a, w: a.total_count >= 1),
    "BatchesApi.get_batch_by_id_batches": Call(lambda w: {"batch_id": w.batch}, lambda a, w: a.bucket_id == w.bucket),
    "BatchesApi.cancel_batch_by_id_batches": Call(
        lambda w: {"batch_id": w.fresh_batch()}, lambda a, w: a.status == "CANCELED"
    ),
    "BatchesApi.get_queue_status_batches": Call(lambda w: {}, lambda a, w: a["waiting_count"] == len(a["waiting"])),
    "TasksApi.get_task": Call(lambda w: {"task_id": w.task}, lambda a, w: a.status == "COMPLETED"),
    "TasksApi.list_tasks": Call(lambda w: {}, lambda a, w: w.task in {t.task_id for t in a.results}),
    "TasksApi.kill_task": Call(lambda w: {"task_id": w.task}),
}
