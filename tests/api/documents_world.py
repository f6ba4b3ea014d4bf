"""A real application over real embedded stores, with a collection to write documents into."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from documents_plugins.letters import MODEL, Letters
from fastapi.testclient import TestClient

from mediatheca.app import build
from mediatheca.flows.tenancy import create_organization
from mediatheca.kernel.documents import Document, VectorIndex
from mediatheca.kernel.scope import Scope
from mediatheca.settings import Settings
from mediatheca.stores.db.engine import Database

URI = "mixpeek://text_extractor@v1/letters"
TEXT = VectorIndex("text_extractor_v1_letters", URI, 8, "cosine", False, "letters", MODEL.weights, ("text",))
IMAGE = VectorIndex("image_extractor_v1_pixels", "mixpeek://image_extractor@v1/pixels", 4, modalities=("image",))
_numbers = itertools.count(1)


def vector_of(text: str) -> list[float]:
    found: list[float] = Letters().embed_texts([text], query=False)[0].tolist()
    return found


def new_collection(
    db: Database, scope: Scope, name: str, indexes: Sequence[VectorIndex], indexed_fields: dict[str, str]
) -> str:
    """A collection as the collections resource stores it; returns its id."""
    extractor = {"feature_extractor_name": "text_extractor", "version": "v1", "parameters": {}, "inputs": {}}
    body = {
        "description": None,
        "source": {"type": "bucket", "bucket_ids": []},
        "source_bucket_schemas": {},
        "enabled": True,
        "metadata": {},
        "embedding_task": None,
        "feature_extractor": {**extractor, "feature_extractor_id": "text_extractor_v1"},
        "input_schema": {"properties": {}},
        "output_schema": {"properties": {}},
        "vector_indexes": [asdict(index) for index in indexes],
        "indexed_fields": indexed_fields,
    }
    with db.begin(scope) as tx:
        made = tx.put("collection", "col", name, body)
        tx.insert("document_tables", [{"collection_id": made.id}])
    return made.id


class World:
    """The application of one server. Tests own a tenant each."""

    def __init__(self, folder: Path) -> None:
        self.app = build(Settings(data_dir=folder, workers=0, plugins="documents_plugins", log_level="error"))
        self.app.start()
        self.services = self.app.services
        self.db = self.services.db

    def tenant(self) -> Tenant:
        number = next(_numbers)
        ident, key = create_organization(self.db, f"documents {number}", f"documents{number}@example.org")
        client = TestClient(self.app.asgi, headers={"Authorization": f"Bearer {key}"})
        made = client.post("/v1/namespaces", json={"namespace_name": "shop"})
        assert made.status_code == 200, made.text
        client.headers["X-Namespace"] = made.json()["namespace_id"]
        actor = self.app.asgi.state.auth.actor(f"Bearer {key}")
        return Tenant(self, client, Scope(ident, made.json()["namespace_id"]), actor.key_id)

    def close(self) -> None:
        self.app.close()


@dataclass
class Tenant:
    """One organization with a namespace `shop`."""

    world: World
    client: TestClient
    scope: Scope
    key_id: str

    def collection(self, name: str = "things", indexes: Sequence[VectorIndex] = (TEXT, IMAGE)) -> str:
        fields = {"title": "text", "price": "float", "color": "keyword"}
        return new_collection(self.world.db, self.scope, name, indexes, fields)

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
