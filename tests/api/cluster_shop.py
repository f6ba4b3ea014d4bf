"""A collection of documents in planted groups, and what tests do with clusters of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from documents_world import TEXT, URI, Tenant

from mediatheca.kernel.documents import Document

TOPICS = {
    "whale": "the blue whale swims through the cold ocean and sings",
    "fox": "the red fox hunts mice in the dark forest at night",
    "train": "the fast train leaves the crowded station on rusty rails",
}
ENDED = ("completed", "failed", "canceled")


def planted(
    collection_id: str, topic: str, numbers: Sequence[int], seed: int = 0, prefix: str = "", **fields: Any
) -> list[Document]:
    """Documents around one direction of the text vectors."""
    place = list(TOPICS).index(topic)
    made = []
    for number in numbers:
        generator = np.random.default_rng([seed, place, number])
        vector = np.eye(8)[place] + generator.normal(scale=0.05, size=8)
        payload = {"text": f"{TOPICS[topic]} number {number}", "color": topic, **fields}
        made.append(
            Document(f"{prefix}{topic}{number}", collection_id, payload, {TEXT.name: vector.astype(np.float32)})
        )
    return made


class ClusterShop:
    """One collection with `each` documents of every topic."""

    def __init__(self, home: Tenant, each: int = 30) -> None:
        self.home = home
        self.call = home.call
        self.collection = home.collection("animals", (TEXT,))
        if each:
            for topic in TOPICS:
                home.derive(self.collection, planted(self.collection, topic, range(each)))

    def add(self, topic: str, numbers: Sequence[int], **options: Any) -> None:
        self.home.derive(self.collection, planted(self.collection, topic, numbers, **options))

    def create(self, method: str = "kmeans", params: dict[str, Any] | None = None, **fields: Any) -> str:
        given = {"n_clusters": 3} if params is None and method == "kmeans" else params or {}
        config = {"feature_uris": [URI], "clustering_method": method, "algorithm_params": given}
        config |= fields.pop("vector_config", {})
        body = {"collection_ids": [self.collection], "cluster_type": "vector", "vector_config": config, **fields}
        ident: str = self.call("POST", "/clusters", body)["cluster_id"]
        return ident

    def execute(self, cluster_id: str, **body: Any) -> dict[str, Any]:
        """Run to the end; the execution as it is shown."""
        task = self.call("POST", f"/clusters/{cluster_id}/execute", body)
        return self.ended(cluster_id, task["additional_data"]["run_id"])

    def ended(self, cluster_id: str, run_id: str, timeout_s: float = 240) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            found: dict[str, Any] = self.call("GET", f"/clusters/{cluster_id}/executions/{run_id}")
            if found["status"] in ENDED:
                return found
            time.sleep(0.05)
        raise AssertionError("the run did not end in time")

    def groups(self, cluster_id: str) -> dict[str, dict[str, Any]]:
        """By the topic of most of the members."""
        found: dict[str, Any] = self.call("GET", f"/clusters/{cluster_id}/groups")
        return {entry["representative_ids"][0]["document_id"].rstrip("0123456789"): entry for entry in found["groups"]}
