"""A shelf of five texts, and a retriever over them, in the application that is called directly."""

from __future__ import annotations

from documents_world import TEXT, URI, Tenant, vector_of

TEXTS = ["red rose", "red tulip", "blue sea", "green tree", "old rose"]


class Shelf:
    """A tenant with documents and a retriever over them."""

    def __init__(self, tenant: Tenant, **retriever: object) -> None:
        self.tenant, self.client = tenant, tenant.client
        self.collection = tenant.collection("shelf", [TEXT])
        self.write([(f"d{n}", text, n) for n, text in enumerate(TEXTS)])
        search = {"feature_uri": URI, "query": {"input_mode": "text", "value": "{{INPUT.query}}"}, "top_k": 10}
        stages = [
            {"stage_name": "search", "stage_id": "feature_search", "parameters": {"searches": [search]}},
            {"stage_name": "cut", "stage_id": "limit", "parameters": {"limit": 3}},
        ]
        body = {
            "retriever_name": "by text",
            "collection_identifiers": [self.collection],
            "stages": stages,
            "input_schema": {"query": {"type": "string", "required": True}},
            **retriever,
        }
        made = self.client.post("/v1/retrievers", json=body)
        assert made.status_code == 200, made.text
        self.retriever = made.json()["retriever_id"]

    def write(self, rows: list[tuple[str, str, int]]) -> None:
        documents = [
            {"document_id": ident, "payload": {"title": text, "price": price}, "vectors": {TEXT.name: vector_of(text)}}
            for ident, text, price in rows
        ]
        body = {"collection_id": self.collection, "documents": documents}
        answer = self.client.post("/v1/namespaces/shop/documents/upsert", json=body)
        assert answer.status_code == 200, answer.text

    def ask(self, query: str = "red rose", headers: dict[str, str] | None = None, **request: object):
        path = f"/v1/retrievers/{self.retriever}/execute"
        return self.client.post(path, json={"inputs": {"query": query}, **request}, headers=headers)

    def run(self, query: str = "red rose", headers: dict[str, str] | None = None, **request: object):
        answer = self.ask(query, headers, **request)
        assert answer.status_code == 200, answer.text
        return answer


def idents(body: dict) -> list[str]:
    return [document["document_id"] for document in body["documents"]]
