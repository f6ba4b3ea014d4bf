"""What works by itself while the server is killed: a taxonomy labels, an alert watches, a webhook tells a receiver that
outlives the server. At the end nothing is unlabelled, unwatched or untold."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datapath_plugins.hashed import NAME, URI, vector_of
from datapath_process import wait_until
from datapath_shop import ENDED, Shop, ok

from outside_site import Asked, Reply, Site

LABELS = [f"object {number} version {number % 3} part {number % 2}" for number in (1, 7, 19, 42, 77)]
TOLD = ("collection.documents.written", "document.deleted", "object.updated", "object.deleted", "alert.triggered")
WATCHED = 40
"""Objects below this number are watched: fewer documents than an execution may give."""


@dataclass
class Automation:
    """Ids of what was made, and the receiver."""

    site: Site
    webhook: str
    alert: str
    taxonomy: str
    since: str
    """Cursor of the feed before the webhook heard of anything."""

    @classmethod
    def make(cls, shop: Shop, site: Site) -> Automation:
        site.routes["*"] = Reply({"ok": True})
        client = shop.client
        taxonomy = _taxonomy(shop)
        attached = {"taxonomy_applications": [{"taxonomy_id": taxonomy}]}
        ok(client.patch(f"/v1/collections/{shop.collection}", json=attached))
        alert = _alert(shop, f"{site.url}/alert")
        channels = [{"channel": "webhook", "configs": {"url": f"{site.url}/hook"}}]
        body = {"webhook_name": "told", "event_types": list(TOLD), "channels": channels}
        webhook = ok(client.post("/v1/organizations/webhooks", json=body))["webhook_id"]
        feed = _feed(shop, "")
        return cls(site, webhook, alert, taxonomy, feed[-1]["cursor"])

    def check(self, data: Path, shop: Shop) -> None:
        """Wait until all of it has settled, then look at what came of it."""
        wait_until(lambda: not _open(data), 120)
        assert not _open(data)
        rows = shop.documents()
        self._check_labels(rows)
        self._check_told(shop)
        self._check_alert(data, shop, rows)

    def _check_labels(self, rows: Iterable[dict[str, Any]]) -> None:
        matrix = np.stack([vector_of(label) for label in LABELS])
        for row in rows:
            scores = matrix @ vector_of(row["text"])
            assert row.get("label") in LABELS, f"not labelled: {row}"
            score = scores[LABELS.index(row["label"])]  # two labels may be level
            assert score > scores.max() - 1e-5, f"labelled {row['label']!r}, which is not the nearest: {row}"

    def _check_told(self, shop: Shop) -> None:
        """Every event that the webhook asked for arrived, under its own id; the receiver may have it twice."""
        wanted = {event["event_id"] for event in _feed(shop, self.since) if event["event_type"] in TOLD}
        asked = self._arrived("/hook")
        arrived = {asked.headers["webhook-id"] for asked in asked}
        assert len(wanted) > 5
        assert not wanted - arrived, f"{len(wanted - arrived)} of {len(wanted)} events were never delivered"
        bodies: dict[str, bytes] = {}
        for one in asked:
            first = bodies.setdefault(one.headers["webhook-id"], one.body)
            assert first == one.body, f"one id, two messages: {first!r} and {one.body!r}"

    def _arrived(self, path: str) -> list[Asked]:
        """Requests that arrived whole: a kill may cut one off."""
        return [
            one for one in self.site.asked if one.path == path and len(one.body) == int(one.headers["content-length"])
        ]

    def _check_alert(self, data: Path, shop: Shop, rows: Iterable[dict[str, Any]]) -> None:
        watched = {row["document_id"] for row in rows if row["number"] < WATCHED}
        seen = _column(data, "SELECT document_id FROM alert_matches WHERE alert_id = ?", self.alert)
        assert watched <= set(seen), (
            f"{len(watched - set(seen))} of {len(watched)} documents were not seen by the alert"
        )
        runs: list[dict[str, Any]] = shop.pages_of(f"/v1/alerts/{self.alert}/executions")
        wanted = {run["execution_id"] for run in runs if run["triggered"]}
        told = [asked.json["execution_id"] for asked in self._arrived("/alert")]
        assert wanted <= set(told), f"{len(wanted - set(told))} of {len(wanted)} notices were never delivered"
        assert set(told) <= {run["execution_id"] for run in runs}, "a notice of a run that was never recorded"


def _taxonomy(shop: Shop) -> str:
    """A class for each of `LABELS`, by the vectors of the documents."""
    client = shop.client
    schema = {"properties": {"text": {"type": "string"}}}
    bucket = ok(client.post("/v1/buckets", json={"bucket_name": "labels", "bucket_schema": schema}))["bucket_id"]
    rows = [{"text": label} for label in LABELS]
    ok(client.post(f"/v1/buckets/{bucket}/objects/batch", json={"objects": rows}))
    extractor = {"feature_extractor_name": NAME, "version": "v1", "input_mappings": {"text": "text"}}
    body = {"collection_name": "labels", "source": {"type": "bucket", "bucket_ids": [bucket]}}
    labels = str(ok(client.post("/v1/collections", json={**body, "feature_extractor": extractor}))["collection_id"])
    batch = ok(client.post(f"/v1/collections/{labels}/trigger", json={}))["batch_id"]
    wait_until(lambda: ok(client.get(f"/v1/batches/{batch}"))["status"] in ENDED)
    config = {
        "taxonomy_type": "flat",
        "retriever_id": shop.add_retriever("labels", labels),
        "collection_id": labels,
        "input_mappings": [{"input_key": "query", "source_type": "vector", "path": str(URI)}],
        "enrichment_fields": [{"field_path": "text", "target_field": "label", "merge_mode": "replace"}],
    }
    made = ok(client.post("/v1/taxonomies", json={"taxonomy_name": "classes", "config": config}))
    return str(made["taxonomy_id"])


def _alert(shop: Shop, url: str) -> str:
    stage = {"stage_id": "attribute_filter", "parameters": {"field": "number", "operator": "lt", "value": WATCHED}}
    body = {"retriever_name": "watched", "collection_identifiers": [shop.collection], "stages": [stage]}
    retriever = ok(shop.client.post("/v1/retrievers", json={**body, "input_schema": {}}))["retriever_id"]
    notify = {"channels": [{"channel_type": "webhook", "config": {"url": url}}], "include_matches": True}
    alert = {"name": "watch", "retriever_id": retriever, "notification_config": notify}
    return str(ok(shop.client.post("/v1/alerts", json=alert))["alert_id"])


def _feed(shop: Shop, after: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        params = {"limit": 1000, "namespace_id": shop.namespace} | ({"cursor": after} if after else {})
        page = ok(shop.client.get("/v1/events", params=params))
        found += page["results"]
        if not page["has_more"]:
            return found
        after = page["next_cursor"]


def _open(data: Path) -> list[Any]:
    """What is still to be done: follow-ups, deliveries, events that a reader of such events has not seen."""
    told = ", ".join(f"'{name}'" for name in TOLD)
    return _column(data, "SELECT follow_id FROM follow_ups WHERE status = 'open' "
                         "UNION ALL SELECT delivery_id FROM deliveries WHERE status IN ('pending', 'sending') "
                         "UNION ALL SELECT consumer FROM event_cursors WHERE consumer = 'webhooks' "
                         f"AND position < (SELECT max(seq) FROM events WHERE type IN ({told})) "
                         "UNION ALL SELECT consumer FROM event_cursors WHERE consumer = 'follow_ups' AND position < "
                         "(SELECT max(seq) FROM events WHERE type = 'collection.documents.written')")  # fmt: skip


def _column(data: Path, query: str, *values: str) -> list[Any]:
    connection = sqlite3.connect(data / "mediatheca.db")
    try:
        return [row[0] for row in connection.execute(query, values)]
    finally:
        connection.close()
