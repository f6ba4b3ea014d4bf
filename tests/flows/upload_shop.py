"""Uploads of a bucket of texts, over HTTP and straight to the blob store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
from datapath_app import Application
from datapath_shop import ok


@dataclass
class Uploads:
    """The uploads of a bucket of texts."""

    application: Application
    client: httpx.Client
    bucket: str

    def announce(self, **more: Any) -> dict[str, Any]:
        body = {"filename": "a.txt", "content_type": "text/plain", **more}
        made: dict[str, Any] = ok(self.client.post(f"/v1/buckets/{self.bucket}/uploads", json=body))
        return made

    def put(self, url: str, data: bytes) -> int:
        """As a stranger who holds the URL: to this server, or straight to the object store."""
        if self.application.services.blobs.bounds_put_size:
            return self.client.put(url, content=data, headers={"Authorization": ""}).status_code
        return httpx.put(url, content=data, trust_env=False).status_code

    def confirm(self, upload: dict[str, Any], **body: Any) -> httpx.Response:
        return self.client.post(f"/v1/uploads/{upload['upload_id']}/confirm", json=body)

    def get(self, upload: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = ok(self.client.get(f"/v1/buckets/{self.bucket}/uploads/{upload['upload_id']}"))
        return found

    def content(self, upload: dict[str, Any]) -> bytes:
        return self.application.services.blobs.get(self.get(upload)["s3_key"])

    def keys(self) -> list[str]:
        organization = self.application.organization
        return [info.key for info in self.application.services.blobs.list(f"{organization}/")]

    @classmethod
    def make(cls, application: Application) -> Uploads:
        shop = application.shop()
        schema = {"properties": {"file": {"type": "text"}}}
        body = {"bucket_name": "texts", "bucket_schema": schema}
        return cls(application, shop.client, ok(shop.client.post("/v1/buckets", json=body))["bucket_id"])
