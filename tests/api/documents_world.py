"""A real application over real embedded stores, with a collection to write documents into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from fastapi import FastAPI
from fastapi.testclient import TestClient

from mediatheca.api.app import build_api
from mediatheca.flows.indexing import Indexer
from mediatheca.flows.services import Services
from mediatheca.flows.tables import TableLeases
from mediatheca.flows.tenancy import create_organization
from mediatheca.jobs.queue import JobQueue
from mediatheca.kernel.documents import Document, VectorIndex
from mediatheca.kernel.models import ModelInfo
from mediatheca.kernel.scope import Scope
from mediatheca.providers import ModelSettings, Provider
from mediatheca.providers._catalog import ModelCatalog
from mediatheca.settings import Settings
from mediatheca.stores.blobs.local import LocalBlobs
from mediatheca.stores.db.engine import Database
from mediatheca.stores.documents.lance import LanceDocuments
from mediatheca.stores.fetch import Fetcher
from mediatheca.stores.index.edge import EdgeIndex

MODEL = ModelInfo("letters", "letters", "sha256:letters", 8)
URI = "mixpeek://text_extractor@v1/letters"
TEXT = VectorIndex("text_extractor_v1_letters", URI, 8, "cosine", False, "letters", "sha256:letters", ("text",))
IMAGE = VectorIndex("image_extractor_v1_pixels", "mixpeek://image_extractor@v1/pixels", 4, modalities=("image",))


class Letters:
    """A model small enough to reason about: how often each of eight letters occurs."""

    info = MODEL
    inline = True

    def embed_texts(self, texts: Sequence[str], *, query: bool) -> npt.NDArray[np.float32]:
        counts = np.array([[text.lower().count(letter) for letter in "aeioulrs"] for text in texts], np.float32) + 0.01
        found: npt.NDArray[np.float32] = counts / np.linalg.norm(counts, axis=1, keepdims=True)
        return found


LETTERS = Provider(
    "letters",
    1,
    lambda name, settings: MODEL if name == "letters" else None,
    lambda info, settings: Letters(),
    lambda settings: ["letters"],
)


def vector_of(text: str) -> list[float]:
    found: list[float] = Letters().embed_texts([text], query=False)[0].tolist()
    return found


class World:
    """The stores and services of one server; `client` talks to it as one tenant."""

    def __init__(self, folder: Path) -> None:
        settings = Settings(data_dir=folder)
        self.db = Database(settings.database)
        self.db.migrate()
        documents = LanceDocuments(settings.documents)
        leases = TableLeases(self.db)
        self.index = EdgeIndex(Path(settings.index))
        indexer = Indexer(self.db, documents, self.index, leases)
        blobs = LocalBlobs(folder / "blobs", b"x" * 32)
        models = ModelCatalog(ModelSettings(folder / "models"), [LETTERS])
        queue = JobQueue(self.db, 30)
        # Documents need no extraction and no retriever; those parts have tests of their own.
        nothing = cast(Any, None)
        self.services = Services(
            settings, self.db, documents, indexer, blobs, Fetcher(), models, {}, nothing, queue, leases, nothing
        )
        self.app: FastAPI = build_api(self.services)
        self.home = self.tenant("home", "key-of-home")

    def tenant(self, name: str, key: str) -> Tenant:
        create_organization(self.db, name, f"{name}@example.org", key)
        plain = TestClient(self.app, headers={"Authorization": f"Bearer {key}"})
        made = plain.post("/v1/namespaces", json={"namespace_name": "shop"})
        assert made.status_code == 200, made.text
        namespace_id = made.json()["namespace_id"]
        actor = self.app.state.auth.actor(f"Bearer {key}")
        plain.headers["X-Namespace"] = namespace_id
        return Tenant(self, plain, Scope(actor.organization_id, namespace_id))

    def close(self) -> None:
        self.services.indexer.close()
        self.index.close()
        self.services.documents.close()
        self.db.close()


@dataclass
class Tenant:
    """One organization with a namespace `shop`."""

    world: World
    client: TestClient
    scope: Scope

    def collection(self, name: str = "things", indexes: Sequence[VectorIndex] = (TEXT, IMAGE)) -> str:
        """A collection as the collections resource stores it."""
        extractor = {"feature_extractor_name": "text_extractor", "version": "v1", "parameters": {}, "inputs": {}}
        body = {
            "description": None,
            "source": {"type": "bucket", "bucket_ids": []},
            "source_bucket_schemas": {},
            "enabled": True,
            "metadata": {},
            "feature_extractor": {**extractor, "feature_extractor_id": "text_extractor_v1"},
            "input_schema": {"properties": {}},
            "output_schema": {"properties": {}},
            "vector_indexes": [asdict(index) for index in indexes],
            "indexed_fields": {"title": "text", "price": "float", "color": "keyword"},
        }
        with self.world.db.begin(self.scope) as tx:
            made = tx.put("collection", "col", name, body)
            tx.insert("document_tables", [{"collection_id": made.id}])
        return made.id

    def derive(self, collection_id: str, documents: Sequence[Document]) -> None:
        """What an extraction leaves: documents of objects, committed and indexed."""
        services = self.world.services
        with services.leases.acquire(self.scope, collection_id) as lease:
            services.documents.ensure(collection_id, (TEXT, IMAGE))
            services.documents.upsert(collection_id, documents, lease.seq)
            services.leases.commit(lease)
        services.indexer.catch_up(self.scope, collection_id)

    def call(self, method: str, path: str, body: Any = None, status: int = 200, **params: Any) -> Any:
        """Send a request under `/v1` and give the JSON of the answer, whose status is checked."""
        answer = self.client.request(method, f"/v1{path}", json=body, params=params)
        assert answer.status_code == status, (answer.status_code, answer.text)
        return answer.json()

    def events(self, kind: str) -> list[tuple[str, str]]:
        with self.world.db.read(self.scope) as tx:
            return [(row["resource_id"], row["actor"]) for row in tx.rows("events", {"type": kind}, order=("seq",))]
