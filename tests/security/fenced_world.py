"""Two organizations with documents of several owners, and what a caller may be shown of them."""

from __future__ import annotations

import json
from typing import Any

import httpx

from helpers import ok
from server import Server, new_tenant

VECTOR = {"ann": [1.0, 0.1, 0.0], "bob": [0.1, 1.0, 0.0], "eve": [0.0, 0.1, 1.0]}
DOCUMENTS = [(f"{owner}-{n}", owner, n) for owner in VECTOR for n in range(4)]
MARK = "TOPSECRET"
"""In every text that a visitor must not see."""
ANN = {f"ann-{n}" for n in range(4)}
EVERYBODY = {ident for ident, _, _ in DOCUMENTS}


class Fenced:
    """An organization with the namespace `vault`: twelve documents, a third of them Ann's."""

    def __init__(self, server: Server, name: str = "vault") -> None:
        self.tenant = new_tenant(server)
        self.client: httpx.Client = self.tenant.client()
        configs = [{"name": "colour", "dimension": 3, "metric": "cosine"}]
        text = [{"field_name": "note", "type": "text"}, {"field_name": "title", "type": "text"}]
        body = {"namespace_name": name, "vector_configs": configs, "payload_indexes": text}
        self.namespace = str(ok(self.client.post("/v1/namespaces/standalone", json=body))["namespace_id"])
        self.client.headers["X-Namespace"] = self.namespace
        self.write(DOCUMENTS)
        self.collection = str(ok(self.client.post("/v1/collections/list"))["results"][0]["collection_id"])

    def close(self) -> None:
        self.client.close()

    def write(self, rows: list[tuple[str, str, int]]) -> None:
        documents = [
            {
                "document_id": ident,
                "vectors": {"colour": [part + number / 50 for part in VECTOR[owner]]},
                "payload": {
                    "owner": owner,
                    "title": f"paper {number} in the drawer",
                    "note": f"{MARK} {owner} wrote paper {number}",
                    "number": number,
                },
            }
            for ident, owner, number in rows
        ]
        ok(self.client.post(f"/v1/namespaces/{self.namespace}/documents/upsert", json={"documents": documents}))

    def retriever(self, name: str, stages: list[dict[str, Any]], schema: dict[str, Any]) -> str:
        body = {"retriever_name": name, "collection_identifiers": [self.collection], "stages": stages}
        return str(ok(self.client.post("/v1/retrievers", json={**body, "input_schema": schema}))["retriever_id"])

    def execute(self, retriever: str, body: Any) -> httpx.Response:
        """Send anything JSON can say."""
        content = json.dumps(body)
        headers = {"Content-Type": "application/json"}
        return self.client.post(f"/v1/retrievers/{retriever}/execute", content=content, headers=headers)

    def adhoc(self, stages: list[dict[str, Any]], inputs: Any = None, **more: Any) -> httpx.Response:
        body = {"collection_identifiers": [self.collection], "stages": stages, "inputs": inputs or {}, **more}
        return self.client.post("/v1/retrievers/execute", json=body)


def search(**more: Any) -> dict[str, Any]:
    """One search for whatever is near to everything."""
    query = {"input_mode": "vector", "value": [0.6, 0.6, 0.6]}
    entry = {"feature_uri": "colour", "query": query, "top_k": 100, **more.pop("search", {})}
    return {"stage_id": "feature_search", "parameters": {"searches": [entry], "final_top_k": 100, **more}}


def idents(answer: httpx.Response) -> list[str]:
    return [str(document["document_id"]) for document in ok(answer)["documents"]]
