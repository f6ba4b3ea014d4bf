"""The official client, both its hand-written face and its strictly parsing generated classes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from server import Tenant

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mixpeek
    from mixpeek import api as generated
    from mixpeek import models


@pytest.fixture
def mp(tenant: Tenant) -> Any:
    return mixpeek.Mixpeek(tenant.key, base_url=f"{tenant.server.url}/v1")


@pytest.fixture
def api(tenant: Tenant, namespace: str) -> Iterator[Any]:
    configuration = mixpeek.Configuration(
        host=tenant.server.url, access_token=tenant.key, api_key={"NamespaceHeader": namespace}
    )
    with mixpeek.ApiClient(configuration) as client:
        client.set_default_header("X-Namespace", namespace)
        yield client


def test_the_hand_written_client_works_through(mp: Any, tenant: Tenant) -> None:
    space = mp.namespaces.create(
        name="shop", feature_extractors=[{"feature_extractor_name": "text_extractor", "version": "v1"}]
    )
    mp = mixpeek.Mixpeek(tenant.key, namespace="shop", base_url=f"{tenant.server.url}/v1")
    assert mp.namespaces.get("shop").namespace_id == space.namespace_id
    assert [entry.namespace_name for entry in mp.namespaces.list().results] == ["shop"]
    made = mp.buckets.create(name="things", bucket_schema={"properties": {"photo": {"type": "image"}}})
    item = mp.buckets.upload(made.bucket_id, data="aGVsbG8=", metadata={"title": "t"})
    assert item.metadata.title == "t"
    page = mp.buckets.list_objects(made.bucket_id, page_size=5)
    assert [row.object_id for row in page.results] == [item.object_id]
    assert [bucket.bucket_id for bucket in mp.buckets.list().results] == [made.bucket_id]
    mp.buckets.delete(made.bucket_id)
    assert (
        mp.namespaces.create(namespace_id="byo", vector_configs=[{"name": "v", "dimension": 3}]).namespace_id == "byo"
    )
    mp.namespaces.delete("byo")
    with pytest.raises(Exception, match="409"):
        mp.namespaces.create(name="shop")


def test_generated_organization_user_and_key_classes_parse(api: Any, tenant: Tenant) -> None:
    organizations = generated.OrganizationsApi(api)
    assert organizations.get_organization().organization_id == tenant.organization_id
    keys = generated.OrganizationAPIKeysApi(api)
    made = keys.create_key_organizations_users_email(tenant.email, models.APIKeyCreateRequest(name="sdk"))
    assert isinstance(made, models.APIKeyCreateResponse)
    assert made.key
    turned = keys.rotate_key_organizations_users_email_name(tenant.email, "sdk")
    assert turned.key != made.key
    changed = keys.update_key_organizations_users_email_name(
        tenant.email, "sdk", models.APIKeyUpdateRequest(name="sdk2")
    )
    assert isinstance(changed, models.APIKeyModel)
    assert keys.delete_key_organizations_users_email_name(tenant.email, "sdk2").success is True


def test_generated_namespace_classes_parse(api: Any, namespace: str) -> None:
    namespaces = generated.NamespacesApi(api)
    extractors = [models.BaseFeatureExtractorModelInput(feature_extractor_name="image_extractor", version="v1")]
    made = namespaces.create_namespace(
        models.CreateNamespaceRequest(namespace_name="typed", feature_extractors=extractors)
    )
    assert isinstance(made, models.NamespaceModel)
    assert made.feature_extractors[0].feature_extractor_id == "image_extractor_v1"
    assert namespaces.get_namespace("typed").namespace_id == made.namespace_id
    assert namespaces.list_namespaces().total_count == 2
    assert namespaces.patch_namespace("typed", models.PatchNamespaceRequest(description="d")).description == "d"
    namespaces.delete_namespace("typed")


def test_generated_bucket_classes_parse_every_type(api: Any) -> None:
    buckets = generated.BucketsApi(api)
    properties = {kind.value: {"type": kind.value} for kind in models.BucketSchemaFieldType}
    request = models.BucketCreateRequest.from_dict(
        {"bucket_name": "typed", "bucket_schema": {"properties": properties}}
    )
    made = buckets.create_bucket(request)
    assert isinstance(made, models.BucketResponse)
    assert buckets.list_buckets().total_count == 1
    assert buckets.patch_bucket("typed", models.BucketPatchRequest(description="d")).description == "d"
    buckets.delete_bucket(made.bucket_id)


def test_generated_object_and_upload_classes_parse(api: Any, bucket: str) -> None:
    objects = generated.BucketObjectsApi(api)
    blob = {"property": "text", "type": "text", "data": "hello"}
    request = models.CreateObjectRequest.from_dict({"key_prefix": "/a", "blobs": [blob], "title": "t"})
    made = objects.create_object_buckets(bucket, request)
    assert isinstance(made, models.ObjectResponse)
    assert made.blobs[0].details.size_bytes == 5
    rows = models.CreateObjectsBatchRequest.from_dict(
        {"objects": [{"blobs": [blob]}, {"blobs": [{**blob, "data": "x"}]}]}
    )
    answer = objects.create_objects_batch_buckets(bucket, rows)
    assert (answer.succeeded_count, answer.succeeded[1].object_index) == (2, 1)
    assert objects.list_objects_buckets(bucket).pagination.total == 3
    seen = objects.get_object_buckets(bucket, made.object_id, return_presigned_urls=True)
    assert seen.additional_properties["title"] == "t"
    assert objects.delete_object_buckets(bucket, made.object_id) is None

    uploads = generated.BucketUploadsApi(api)
    wish = models.CreateUploadRequest(filename="p.jpg", content_type="image/jpeg")
    upload = uploads.create_upload_buckets(bucket, wish)
    assert isinstance(upload, models.UploadResponse)
    httpx.put(upload.presigned_url, content=b"\xff\xd8\xff" + b"0" * 50)
    done = uploads.confirm_upload_buckets(
        bucket, upload.upload_id, confirm_upload_request=models.ConfirmUploadRequest()
    )
    assert done.status == models.TaskStatusEnum.COMPLETED
    second = uploads.create_uploads_batch_buckets(bucket, models.BatchUploadRequest(uploads=[wish])).uploads[0]
    confirmations = models.BatchConfirmRequest(confirmations=[{"upload_id": second.upload_id}])
    batch = uploads.confirm_uploads_batch_buckets(bucket, confirmations)
    assert batch.task.status == models.TaskStatusEnum.FAILED
    assert uploads.list_uploads_buckets(bucket).stats.total_uploads == 2
    assert uploads.delete_upload_buckets(bucket, second.upload_id) is None


def test_generated_errors_carry_the_envelope(api: Any) -> None:
    with pytest.raises(mixpeek.exceptions.NotFoundException) as caught:
        generated.BucketsApi(api).get_bucket("bkt_none")
    assert '"type":"NotFoundError"' in caught.value.body
