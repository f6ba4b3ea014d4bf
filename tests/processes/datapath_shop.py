"""A namespace with a bucket, a collection of the test extractor and a retriever, driven over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from datapath_plugins.hashed import NAME, SEPARATOR, URI, vector_of
from datapath_process import wait_until

ENDED = ("COMPLETED", "COMPLETED_WITH_ERRORS", "FAILED", "CANCELED")


def ok(response: httpx.Response) -> Any:
    """The body of a success."""
    assert response.status_code < 300, (response.request.method, str(response.url), response.status_code, response.text)
    return response.json() if response.content else None


def parts_of(number: int, version: int) -> list[str]:
    """The paragraphs of an object: how many there are changes with the version."""
    count = 1 + (number * 7 + version * 5) % 3
    return [f"object {number} version {version} part {part} {number * 7919 + version:x}" for part in range(count)]


def content(number: int, version: int) -> dict[str, Any]:
    """An object whose documents can all be told apart, and told from those of its other versions."""
    return {"number": number, "version": version, "text": SEPARATOR.join(parts_of(number, version))}


@dataclass
class Shop:
    """Ids of what `make` made."""

    client: httpx.Client
    namespace: str
    bucket: str
    collection: str
    retriever: str

    @classmethod
    def make(cls, client: httpx.Client, name: str = "shop") -> Shop:
        body: dict[str, Any] = {"namespace_name": name, "feature_extractors": [{"feature_extractor_name": NAME}]}
        namespace = ok(client.post("/v1/namespaces", json=body))["namespace_id"]
        client.headers["X-Namespace"] = namespace
        fields = {"number": "integer", "version": "integer", "text": "string", "tag": "string"}
        schema = {"properties": {name: {"type": kind} for name, kind in fields.items()}}
        bucket = ok(client.post("/v1/buckets", json={"bucket_name": "things", "bucket_schema": schema}))["bucket_id"]
        shop = cls(client, namespace, bucket, "", "")
        shop.collection = shop.add_collection("found")
        shop.retriever = shop.add_retriever("search")
        return shop

    def at(self, client: httpx.Client) -> Shop:
        """The same after a restart, which has another port."""
        client.headers["X-Namespace"] = self.namespace
        return Shop(client, self.namespace, self.bucket, self.collection, self.retriever)

    def add_collection(self, name: str) -> str:
        extractor = {"feature_extractor_name": NAME, "version": "v1", "input_mappings": {"text": "text"}}
        body = {
            "collection_name": name,
            "source": {"type": "bucket", "bucket_ids": [self.bucket]},
            "feature_extractor": {**extractor, "field_passthrough": ["number", "version", "tag"]},
        }
        return str(ok(self.client.post("/v1/collections", json=body))["collection_id"])

    def add_retriever(self, name: str, collection: str | None = None) -> str:
        query = {"input_mode": "vector", "value": "{{INPUT.query}}"}
        search = {"feature_uri": str(URI), "query": query, "top_k": 20}
        config = {"stage_id": "feature_search", "parameters": {"searches": [search], "final_top_k": 20}}
        body = {
            "retriever_name": name,
            "collection_identifiers": [collection or self.collection],
            "stages": [{"stage_name": "search", "stage_type": "filter", "config": config}],
            "input_schema": {"query": {"type": "array", "required": True}},
        }
        return str(ok(self.client.post("/v1/retrievers", json=body))["retriever_id"])

    # ---- objects

    def create(self, objects: Sequence[dict[str, Any]]) -> list[str]:
        made = ok(self.client.post(f"/v1/buckets/{self.bucket}/objects/batch", json={"objects": list(objects)}))
        assert not made.get("failed"), made["failed"]
        return [row["object_id"] for row in made["succeeded"]]

    def update(self, object_id: str, fields: dict[str, Any]) -> None:
        ok(self.client.patch(f"/v1/buckets/{self.bucket}/objects/{object_id}", json=fields))

    def delete(self, object_id: str) -> None:
        ok(self.client.delete(f"/v1/buckets/{self.bucket}/objects/{object_id}"))

    def objects(self) -> dict[str, dict[str, Any]]:
        """All objects of the bucket by id."""
        return {row["object_id"]: row for row in self._pages(f"/v1/buckets/{self.bucket}/objects/list")}

    def pages_of(self, path: str) -> list[dict[str, Any]]:
        """All rows of a list that is read with GET."""
        found: list[dict[str, Any]] = []
        cursor = None
        while True:
            page = ok(self.client.get(path, params={"limit": 100} | ({"cursor": cursor} if cursor else {})))
            found += page["results"]
            cursor = page["pagination"]["next_cursor"]
            if not cursor:
                return found

    def _pages(self, path: str) -> list[dict[str, Any]]:
        """All rows, by cursor: what is written meanwhile moves nothing to another page."""
        found: list[dict[str, Any]] = []
        cursor = None
        while True:
            body = {"limit": 500} | ({"cursor": cursor} if cursor else {})
            page = ok(self.client.post(path, json=body))
            found += page["results"]
            cursor = page["pagination"]["next_cursor"]
            if not cursor:
                return found

    # ---- batches

    def trigger(self, collection: str | None = None, **body: Any) -> str:
        return str(
            ok(self.client.post(f"/v1/collections/{collection or self.collection}/trigger", json=body))["batch_id"]
        )

    def batch(self, batch_id: str) -> dict[str, Any]:
        found: dict[str, Any] = ok(self.client.get(f"/v1/buckets/{self.bucket}/batches/{batch_id}"))
        return found

    def ended(self, batch_id: str, timeout_s: float = 300) -> dict[str, Any]:
        """The batch when it has ended."""

        def look() -> dict[str, Any] | None:
            batch = self.batch(batch_id)
            return batch if batch["status"] in ENDED else None

        return wait_until(look, timeout_s) or {}

    def process(self, **body: Any) -> dict[str, Any]:
        """Trigger and wait."""
        return self.ended(self.trigger(**body))

    def cancel(self, batch_id: str) -> dict[str, Any]:
        answer: dict[str, Any] = ok(self.client.post(f"/v1/buckets/{self.bucket}/batches/{batch_id}/cancel"))
        return answer

    def retry(self, batch_id: str) -> dict[str, Any]:
        answer: dict[str, Any] = ok(self.client.post(f"/v1/buckets/{self.bucket}/batches/{batch_id}/retry", json={}))
        return answer

    def failures(self, batch_id: str) -> list[dict[str, Any]]:
        path = f"/v1/buckets/{self.bucket}/batches/{batch_id}/failed-documents"
        found: list[dict[str, Any]] = ok(self.client.get(path, params={"limit": 1000}))["results"]
        return found

    # ---- documents

    def documents(self, collection: str | None = None) -> list[dict[str, Any]]:
        """All documents, from the document store."""
        return self._pages(f"/v1/collections/{collection or self.collection}/documents/list")

    def texts(self, collection: str | None = None) -> list[str]:
        """The sorted texts of all documents, from the document store."""
        return sorted(row["text"] for row in self.documents(collection))

    def delete_document(self, document_id: str) -> None:
        ok(self.client.delete(f"/v1/collections/{self.collection}/documents/{document_id}"))

    def execute(self, text: str, limit: int = 10) -> dict[str, Any]:
        """Search with the vector of a text."""
        body = {"inputs": {"query": vector_of(text).tolist()}, "limit": limit}
        answer: dict[str, Any] = ok(self.client.post(f"/v1/retrievers/{self.retriever}/execute", json=body))
        return answer

    def search(self, text: str, limit: int = 10) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.execute(text, limit)["documents"]
        return found

    def finds(self, text: str) -> bool:
        """Whether the document of this text is found by its own vector, at the first rank or level with it."""
        hits = self.search(text)
        return any(hit["text"] == text and hit["score"] > hits[0]["score"] - 1e-5 for hit in hits)
