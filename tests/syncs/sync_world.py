"""A bucket, a folder of a store, and the syncs between them."""

from __future__ import annotations

import uuid
from typing import Any

from helpers import ok, wait_for
from mediatheca.jobs.schedule import to_us
from mediatheca.kernel import clock
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.tx import ReadTx
from server import Server, Tenant, new_tenant
from store_folders import BUCKET, S3Files

TEXTS = {"properties": {"content": {"type": "text"}, "topic": {"type": "string"}, "n": {"type": "integer"}}}
ENDED = ("completed", "failed", "interrupted", "skipped")


class SyncWorld:
    """One organization's."""

    def __init__(self, server: Server, endpoint: str) -> None:
        self.server = server
        self.tenant: Tenant = new_tenant(server)
        with self.tenant.client() as client:
            self.namespace = str(ok(client.post("/v1/namespaces", json={"namespace_name": "main"}))["namespace_id"])
        self.client = self.tenant.client(self.namespace)
        self.files = S3Files(endpoint, f"{uuid.uuid4().hex}/films")
        self.bucket = self.new_bucket("things")

    def close(self) -> None:
        """Nothing of it runs by itself any more, beside the tests that come later."""
        self.client.close()
        with self.server.app.services.db.begin(self.scope) as tx:
            tx.update("schedules", {}, {"enabled": False})

    @property
    def scope(self) -> Scope:
        return Scope(self.tenant.organization_id, self.namespace)

    def read(self) -> Any:
        """A transaction of the namespace, to look into the tables."""
        return self.server.app.services.db.read(self.scope)

    def new_bucket(self, name: str, schema: dict[str, Any] | None = None, **more: Any) -> str:
        body = {"bucket_name": name, "bucket_schema": schema or TEXTS, **more}
        return str(ok(self.client.post("/v1/buckets", json=body))["bucket_id"])

    def collection(self) -> str:
        """A collection that takes the texts of the bucket."""
        body = {
            "collection_name": "texts",
            "source": {"type": "bucket", "bucket_ids": [self.bucket]},
            "feature_extractor": {
                "feature_extractor_name": "passthrough_extractor",
                "version": "v1",
                "field_passthrough": ["topic", "source_path"],
            },
        }
        return str(ok(self.client.post("/v1/collections", json=body))["collection_id"])

    def connection(self, **config: Any) -> dict[str, Any]:
        return {
            "name": f"store {uuid.uuid4().hex[:8]}",
            "provider_type": "s3",
            "provider_config": {**self.files.config, "credentials": self.files.credentials, "bucket": BUCKET, **config},
        }

    def connect(self, **config: Any) -> str:
        made = ok(self.client.post("/v1/organizations/connections", json=self.connection(**config)))
        return str(made["connection_id"])

    @property
    def path(self) -> str:
        return f"/v1/buckets/{self.bucket}/syncs"

    def sync(self, **body: Any) -> str:
        """A new sync of the folder."""
        given = {"connection_id": self.connect()} if "connection_id" not in body else {}
        made = ok(self.client.post(self.path, json={"source_path": self.files.folder, **given, **body}))
        return str(made["sync_config_id"])

    def trigger(self, sync: str, **query: Any) -> dict[str, Any]:
        return dict(ok(self.client.post(f"{self.path}/{sync}/trigger", params=query)))

    def make_due(self, sync: str) -> None:
        """The schedule of a sync is due now, and then again after its interval."""
        with self.server.app.services.db.begin(self.scope) as tx:
            assert tx.update("schedules", {"schedule_id": sync}, {"next_at": to_us(clock.now())})

    def job(self, sync: str, job: str) -> dict[str, Any]:
        return dict(ok(self.client.get(f"{self.path}/{sync}/jobs/{job}")))

    def run(self, sync: str, status: str = "completed", **query: Any) -> dict[str, Any]:
        """Trigger, and wait for its end."""
        started = self.trigger(sync, **query)
        assert started["status"] == "running", started
        return self.ended(sync, started["sync_job_id"], status)

    def ended(self, sync: str, ident: str, status: str = "completed") -> dict[str, Any]:
        def over() -> dict[str, Any] | None:
            found = self.job(sync, ident)
            return found if found["status"] in ENDED else None

        job: dict[str, Any] = wait_for(over)
        assert job["status"] == status, job
        return job

    def get(self, sync: str) -> dict[str, Any]:
        return dict(ok(self.client.get(f"{self.path}/{sync}")))

    def failures(self, sync: str, **body: Any) -> list[dict[str, Any]]:
        return list(ok(self.client.post(f"{self.path}/{sync}/dlq", json=body))["results"])

    def objects(self, bucket: str | None = None) -> dict[str, dict[str, Any]]:
        """The objects of the bucket by the file they were made of."""
        found, path = {}, f"/v1/buckets/{bucket or self.bucket}/objects/list"
        listed = ok(self.client.post(path, json={"limit": 1000}))["results"]
        for each in listed:
            found[each["blobs"][0]["details"]["filename"] if each["blobs"] else each["object_id"]] = each
        assert len(found) == len(listed)
        return found

    def content(self, name: str) -> bytes:
        """What is stored of a file."""
        ident = self.objects()[name]["object_id"]
        with self.read() as tx:
            return self.stored(tx, ident)

    def stored(self, tx: ReadTx, object_id: str) -> bytes:
        (blob,) = tx.rows("blobs", {"object_id": object_id})
        return self.server.app.services.blobs.get(blob["store_key"])

    def stored_files(self) -> int:
        """How many files of this namespace lie in the blob store."""
        prefix = f"{self.tenant.organization_id}/{self.namespace}/blobs/"
        return len(list(self.server.app.services.blobs.list(prefix)))
