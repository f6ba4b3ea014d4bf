"""A shop with documents and retrievers behind a real server: what evaluation, learning and publishing are tested on."""

from __future__ import annotations

from typing import Any

import httpx
from documents_world import TEXT, URI, new_collection, vector_of

from helpers import ok, wait_for
from mediatheca.kernel.scope import Scope
from server import Server, Tenant, new_tenant

GOODS = [
    ("mug", "red mug for tea", 5.0, "secret-1"),
    ("cup", "white cup for coffee", 4.0, "secret-2"),
    ("pot", "tea pot with a red lid", 20.0, "secret-3"),
    ("tree", "green tree in a garden", 90.0, "secret-4"),
    ("sea", "blue sea at night", 0.0, "secret-5"),
    ("rose", "red rose", 3.0, "secret-6"),
]
SCHEMA = {"query": {"type": "string", "required": True}, "user_id": {"type": "string"}, "country": {"type": "string"}}


def search(value: str = "{{INPUT.query}}", **more: Any) -> dict[str, Any]:
    return {"feature_uri": URI, "query": {"input_mode": "text", "value": value}, "top_k": 50, **more}


def stage(*searches: dict[str, Any], **parameters: Any) -> dict[str, Any]:
    config = {"stage_id": "feature_search", "parameters": {"searches": list(searches or [search()]), **parameters}}
    return {"stage_name": "search", "stage_type": "filter", "config": config}


class Shop:
    """A tenant with the goods in a collection."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.tenant: Tenant = new_tenant(server)
        with self.tenant.client() as admin:
            self.namespace = str(ok(admin.post("/v1/namespaces", json={"namespace_name": "shop"}))["namespace_id"])
        self.client: httpx.Client = self.tenant.client(self.namespace)
        self.scope = Scope(self.tenant.organization_id, self.namespace)
        fields = {"title": "text", "price": "float", "code": "keyword"}
        self.collection = new_collection(server.app.services.db, self.scope, "goods", [TEXT], fields)
        self.write(GOODS)

    def close(self) -> None:
        self.client.close()

    def write(self, goods: list[tuple[str, str, float, str]]) -> None:
        documents = [
            {
                "document_id": ident,
                "payload": {"title": title, "price": price, "code": code},
                "vectors": {TEXT.name: vector_of(title)},
            }
            for ident, title, price, code in goods
        ]
        body = {"collection_id": self.collection, "documents": documents}
        ok(self.client.post("/v1/namespaces/shop/documents/upsert", json=body))

    def retriever(self, name: str = "by text", *stages: dict[str, Any], **more: Any) -> str:
        body = {
            "retriever_name": name,
            "collection_identifiers": [self.collection],
            "stages": list(stages) or [stage()],
            "input_schema": SCHEMA,
            **more,
        }
        return str(ok(self.client.post("/v1/retrievers", json=body))["retriever_id"])

    def learner(self, name: str = "learner", **config: Any) -> str:
        """A retriever with a dense and a lexical search whose weights are learned. What was learned may take longer to
        read than a second, on a busy machine."""
        both = (search(), search(lexical=True))
        config = {"circuit_breaker_timeout_ms": 10_000, **config}
        return self.retriever(name, stage(*both, fusion="learned", learning_config=config))

    def post(self, path: str, body: Any = None, status: int = 200) -> Any:
        answer = self.client.post(f"/v1{path}", json={} if body is None else body)
        assert answer.status_code == status, answer.text
        return answer.json()

    def get(self, path: str, status: int = 200, **params: Any) -> Any:
        answer = self.client.get(f"/v1{path}", params=params)
        assert answer.status_code == status, answer.text
        return answer.json()

    def run(self, retriever: str, query: str = "red rose", **more: Any) -> dict[str, Any]:
        inputs = {"query": query, **more.pop("inputs", {})}
        return dict(self.post(f"/retrievers/{retriever}/execute", {"inputs": inputs, **more}))

    def click(self, result: dict[str, Any], position: int = 0, **more: Any) -> dict[str, Any]:
        body = {
            "feature_id": result["documents"][position]["document_id"],
            "interaction_type": ["click"],
            "position": position,
            "execution_id": result["execution_id"],
            "retriever_id": result["retriever_id"],
            **more,
        }
        return dict(self.post("/retrievers/interactions", body))

    def dataset(self, name: str = "golden", *queries: dict[str, Any]) -> str:
        standard = [
            judged("q1", "red rose", rose=5, mug=2),
            judged("q2", "green tree", tree=5),
            judged("q3", "blue sea", sea=3, cup=1),
        ]
        body = {"dataset_name": name, "queries": list(queries) or standard}
        return str(self.post("/retrievers/evaluations/datasets", body)["dataset_id"])

    def evaluated(self, retriever: str, dataset: str, **config: Any) -> dict[str, Any]:
        """An evaluation that has ended."""
        body = {"dataset_name": dataset, "evaluation_config": config or None}
        started = self.post(f"/retrievers/{retriever}/evaluations", body, 202)
        path = f"/retrievers/{retriever}/evaluations/{started['evaluation_id']}"
        return dict(wait_for(lambda: over(self.get(path))))


def judged(ident: str, query: str, **grades: int) -> dict[str, Any]:
    liked = [document for document, grade in grades.items() if grade > 0]
    return {"query_id": ident, "query_input": {"query": query}, "relevant_documents": liked, "relevance_scores": grades}


def over(record: dict[str, Any]) -> dict[str, Any] | None:
    return record if record["status"] in ("completed", "failed") else None
