"""A small catalogue of products behind a real server, with the helpers that the tables of SDK calls use."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx
from mixpeek import Mixpeek

TEXT_URI = "mixpeek://text_extractor@v1/multilingual_e5_large_instruct_v1"
PRODUCTS = [
    {"name": "Mug", "description": "A red mug for tea and coffee", "price": 12.5},
    {"name": "Headphones", "description": "Wireless headphones with a long battery life", "price": 99.0},
    {"name": "Lawn mower", "description": "Cuts the grass of a large garden", "price": 310.0},
]
BUCKET = {"properties": {"name": {"type": "string"}, "description": {"type": "text"}, "price": {"type": "float"}}}
FILES = {"properties": {"note": {"type": "text"}}}
STANDALONE = [{"name": "colour", "dimension": 3, "distance": "cosine"}]
ENDED = ("COMPLETED", "COMPLETED_WITH_ERRORS", "FAILED", "CANCELED")


class Call(NamedTuple):
    """Arguments of one generated method, and what must hold of its typed answer."""

    arguments: Callable[[World], Mapping[str, Any]]
    holds: Callable[[Any, World], bool] = lambda answer, world: answer is not None


@dataclass
class World:
    """Ids of one of everything, made with the hand-written client; `fresh_…` makes another one."""

    client: Mixpeek
    url: str
    namespace: str
    bucket: str = ""
    files: str = ""
    objects: list[str] = field(default_factory=list)
    collection: str = ""
    batch: str = ""
    task: str = ""
    documents: list[str] = field(default_factory=list)
    retriever: str = ""
    byo: str = ""
    numbers: Any = field(default_factory=itertools.count)
    kept: dict[str, Any] = field(default_factory=dict)

    def name(self, kind: str = "thing") -> str:
        return f"{kind}-{next(self.numbers)}"

    def request(self, method: str, path: str, body: Any = None, namespace: str | None = None) -> Any:
        return self.client._request(method, path, body=body, namespace=namespace)

    def once(self, what: str, make: Callable[[], Any]) -> Any:
        """What `make` gave when it was first asked for."""
        if what not in self.kept:
            self.kept[what] = make()
        return self.kept[what]

    def task_ended(self, task_id: str) -> str:
        for _ in range(4_800):
            task = self.request("GET", f"/tasks/{task_id}")
            if task["status"] in ENDED:
                assert task["status"] == "COMPLETED", task
                return task_id
            time.sleep(0.05)
        raise AssertionError(f"the task did not end: {task}")

    # ---- the ones every call may use

    def build(self) -> World:
        self.bucket = self.client.buckets.create(bucket_name="products", bucket_schema=BUCKET)["bucket_id"]
        self.files = self.client.buckets.create(bucket_name="files", bucket_schema=FILES)["bucket_id"]
        self.objects = [self.fresh_object(**product) for product in PRODUCTS]
        self.collection = self.fresh_collection("texts")
        triggered = self.client.collections.trigger(self.collection)
        self.batch, self.task = triggered["batch_id"], triggered["task_id"]
        self.wait(self.batch)
        listed = self.client.documents.list(self.collection)["results"]
        self.documents = [document["document_id"] for document in listed]
        self.retriever = self.fresh_retriever("search")
        self.byo = self.fresh_standalone()
        return self

    def wait(self, batch_id: str) -> dict[str, Any]:
        for _ in range(4_800):
            batch: dict[str, Any] = self.request("GET", f"/batches/{batch_id}")
            if batch["status"] in ENDED:
                return batch
            time.sleep(0.05)
        raise AssertionError(f"the batch did not end: {batch}")

    # ---- more of a kind

    def fresh_bucket(self) -> str:
        return str(self.client.buckets.create(name=self.name("bucket"), bucket_schema=BUCKET)["bucket_id"])

    def fresh_object(self, bucket: str = "", **fields: Any) -> str:
        made = self.client.buckets.upload(bucket or self.bucket, **(fields or {"name": "Spare", "description": "x"}))
        return str(made["object_id"])

    def fresh_collection(self, name: str = "") -> str:
        made = self.client.collections.create(
            collection_name=name or self.name("collection"),
            source={"type": "bucket", "bucket_ids": [self.bucket]},
            feature_extractor={
                "feature_extractor_name": "text_extractor",
                "version": "v1",
                "input_mappings": {"text": "description"},
                "field_passthrough": ["name", "price"],
            },
        )
        return str(made["collection_id"])

    def fresh_batch(self, *, submit: bool = False) -> str:
        path = f"/buckets/{self.bucket}/batches"
        body = {"object_ids": self.objects[:2], "collection_ids": [self.collection]}
        batch = str(self.request("POST", path, body)["batch_id"])
        if submit:
            self.request("POST", f"{path}/{batch}/submit")
        return batch

    def bucket_with_draft(self) -> str:
        self.fresh_batch()
        return self.bucket

    def ended_batch(self) -> str:
        batch = self.fresh_batch(submit=True)
        self.wait(batch)
        return batch

    def fresh_document(self, **payload: Any) -> str:
        body = {"name": "Teapot", "description": "A pot for tea", **payload}
        return str(self.request("POST", f"/collections/{self.collection}/documents", body)["document_id"])

    def fresh_retriever(self, name: str = "") -> str:
        made = self.client.retrievers.create(
            retriever_name=name or self.name("retriever"),
            collection_identifiers=[self.collection],
            stages=[search_stage()],
            input_schema={"query": {"type": "string"}},
        )
        return str(made["retriever_id"])

    def execution(self) -> str:
        ran = self.client.retrievers.execute(self.retriever, inputs={"query": "something to drink from"})
        return str(ran["execution_id"])

    def adhoc_execution(self) -> str:
        return str(self.client.search("something to drink from", collection=self.collection)["execution_id"])

    def fresh_standalone(self) -> str:
        made = self.client.namespaces.create(namespace_id=self.name(f"byo-{self.namespace}"), vector_configs=STANDALONE)
        return str(made["namespace_id"])

    def byo_document(self) -> str:
        document = {"id": self.name("colour"), "vectors": {"colour": [1.0, 0.0, 0.0]}, "payload": {"name": "red"}}
        made = self.client.namespaces.documents.upsert(namespace_id=self.byo, documents=[document])
        return str(made["document_ids"][0])

    def fresh_upload(self, *, sent: bool = True) -> str:
        body = {"filename": f"{self.name('note')}.txt", "content_type": "text/plain"}
        upload = self.request("POST", f"/buckets/{self.files}/uploads", body)
        if sent:
            content = f"A note called {upload['upload_id']}".encode()
            put = httpx.put(upload["presigned_url"], content=content, headers={"Content-Type": "text/plain"})
            assert put.status_code == 200, put.text
        return str(upload["upload_id"])

    def fresh_email(self) -> str:
        return f"{self.name('user')}.{self.namespace.replace('_', '-')}@example.com"

    def fresh_user(self) -> str:
        email = self.fresh_email()
        self.request("POST", "/organizations/users", {"email": email, "user_name": "Somebody"})
        return email

    def fresh_key(self) -> tuple[str, str]:
        """(email, key name)"""
        email, name = self.fresh_user(), self.name("key")
        self.request("POST", f"/organizations/users/{email}/api-keys", {"name": name})
        return email, name


def search_stage(query: str = "{{INPUT.query}}", top_k: int = 5) -> dict[str, Any]:
    """The `feature_search` stage as the documentation writes it."""
    search = {"feature_uri": TEXT_URI, "query": {"input_mode": "text", "value": query}, "top_k": top_k}
    parameters = {"searches": [search], "final_top_k": top_k}
    config = {"stage_id": "feature_search", "parameters": parameters}
    return {"stage_name": "semantic", "stage_type": "filter", "config": config}
