"""A small library of texts in a collection, and how a migration of it is driven through HTTP."""

from __future__ import annotations

from typing import Any

import httpx

from helpers import ok, wait_for

E5, MINILM = "multilingual_e5_small", "all_minilm_l6_v2"
TEXTS = {
    "cat": "A cat sleeps on the sofa",
    "dog": "The dog runs through the park",
    "rocket": "A rocket was launched into space",
    "bread": "Fresh bread from the oven of the bakery",
    "river": "The river floods the valley in spring",
    "violin": "She plays the violin in an orchestra",
}


def uri(model: str) -> str:
    return f"mixpeek://text_extractor@v1/{model}"


class Library:
    """One bucket, one collection of its texts."""

    def __init__(self, client: httpx.Client, model: str = E5) -> None:
        self.client = client
        schema = {"properties": {"title": {"type": "string"}, "text": {"type": "text"}}}
        body = {"bucket_name": f"library {id(self)}", "bucket_schema": schema}
        self.bucket = ok(client.post("/v1/buckets", json=body))["bucket_id"]
        extractor = {
            "feature_extractor_name": "text_extractor",
            "parameters": {"embedding_model": model},
            "input_mappings": {"text": "text"},
            "field_passthrough": [{"source_path": "title"}],
        }
        made = {
            "collection_name": f"texts {id(self)}",
            "source": {"type": "bucket", "bucket_ids": [self.bucket]},
            "feature_extractor": extractor,
        }
        self.collection = ok(client.post("/v1/collections", json=made))["collection_id"]

    @classmethod
    def of(cls, client: httpx.Client, bucket: str, collection: str) -> Library:
        """One that is there already."""
        made = cls.__new__(cls)
        made.client, made.bucket, made.collection = client, bucket, collection
        return made

    @property
    def path(self) -> str:
        return f"/v1/collections/{self.collection}"

    def add(self, texts: dict[str, str]) -> list[str]:
        """Objects of these titles and texts, processed and searchable."""
        ids = []
        for title, text in texts.items():
            body = {"title": title, "text": text}
            ids.append(ok(self.client.post(f"/v1/buckets/{self.bucket}/objects", json=body))["object_id"])
        self.process()
        return ids

    def process(self, **options: Any) -> dict[str, Any]:
        answered = self.client.post(f"{self.path}/trigger", json=options)
        assert answered.status_code == 202, answered.text
        batch = answered.json()["batch_id"]
        path = f"/v1/buckets/{self.bucket}/batches/{batch}"

        def ended() -> Any:
            found = ok(self.client.get(path))
            return found if found["status"] in ("COMPLETED", "COMPLETED_WITH_ERRORS", "FAILED", "CANCELED") else None

        done: dict[str, Any] = wait_for(ended, 240)
        assert done["status"] == "COMPLETED", done
        return done

    def retriever(self, feature: str, top_k: int = 10) -> str:
        search = {"feature_uri": feature, "query": {"input_mode": "text", "text": "{{INPUT.query}}"}, "top_k": top_k}
        stage = {"stage_name": "search", "config": {"stage_id": "feature_search", "parameters": {"searches": [search]}}}
        body = {
            "retriever_name": f"find {id(self)} {feature[-20:]}".replace("/", " ").replace(":", " ").replace("@", " "),
            "collection_identifiers": [self.collection],
            "input_schema": {"properties": {"query": {"type": "text", "required": True}}},
            "stages": [stage],
        }
        return str(ok(self.client.post("/v1/retrievers", json=body))["retriever_id"])

    def found(self, retriever: str, query: str, limit: int = 10) -> list[str]:
        """Titles, best first. `degraded` would mean that the documents answered in place of an index being rebuilt."""
        body = {"inputs": {"query": query}, "limit": limit}
        answered = ok(self.client.post(f"/v1/retrievers/{retriever}/execute", json=body))
        return [item["title"] for item in answered["documents"]]

    # ---- migrating

    def migrate(self, model: str = MINILM, **options: Any) -> str:
        answered = self.client.post(f"{self.path}/migrate", json={"embedding_model": model, **options})
        assert answered.status_code == 202, answered.text
        return str(answered.json()["migration_id"])

    def migration(self, ident: str) -> dict[str, Any]:
        found: dict[str, Any] = ok(self.client.get(f"{self.path}/migrations/{ident}"))
        return found

    def reaches(self, ident: str, *states: str) -> dict[str, Any]:
        """Wait for a state in which no step is running."""

        def there() -> Any:
            found = self.migration(ident)
            settled = found["status"] in ("ready", "switched", "failed", "completed", "cancelled")
            return found if settled else None

        found: dict[str, Any] = wait_for(there, 240)
        assert found["status"] in states, found
        return found

    def step(self, ident: str, verb: str, *states: str, **options: Any) -> dict[str, Any]:
        answered = self.client.post(f"{self.path}/migrations/{ident}/{verb}", json=options)
        assert answered.status_code == 202, answered.text
        return self.reaches(ident, *states)

    def collection_view(self) -> dict[str, Any]:
        found: dict[str, Any] = ok(self.client.get(self.path))
        return found

    def vectors(self) -> dict[str, set[str]]:
        """Title → names of its vectors."""
        answered = ok(self.client.post(f"{self.path}/documents/list", json={"return_vectors": True, "page_size": 100}))
        return {item["title"]: set(item.get("vectors") or {}) for item in answered["results"]}
