"""An organization that has one of everything that works by itself: classes, groups, schedules, alerts and webhooks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from fenced_world import Fenced, search

from helpers import ok
from server import Server

CRON = {"cron_expression": "0 2 29 2 *"}
"""Hardly ever, so that it never fires while a test looks."""


class Automated(Fenced):
    """`vault` with a cluster and an alert that ran, a taxonomy, a trigger, a webhook; `ids` by kind."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        words = {"feature_uri": "colour", "query": "{{INPUT.query}}", "lexical": True, "on_empty": "skip"}
        stages = [search(searches=[words])]
        self.ids = {"col": self.collection, "ret": self.retriever("labels", stages, {"query": {"type": "string"}})}
        self.ids["tax"] = self.made("/v1/taxonomies", self.taxonomy(), "taxonomy_id")
        self.ids["clust"] = self.made("/v1/clusters", self.cluster(), "cluster_id")
        self.ids["trig"] = self.made("/v1/triggers", self.trigger(), "trigger_id")
        self.ids["alt"] = self.made("/v1/alerts", self.alert(), "alert_id")
        self.ids["wh"] = self.made("/v1/organizations/webhooks", self.webhook(), "webhook_id")
        stored = {
            "channel_name": "stored",
            "channel_type": "webhook",
            "config": self.webhook()["channels"][0]["configs"],
        }
        self.ids["chn"] = self.made("/v1/organizations/channels", stored, "channel_id")
        ok(self.client.post(f"/v1/clusters/{self.ids['clust']}/execute", json={}))
        self.ids["run"] = str(self.soon(f"/v1/clusters/{self.ids['clust']}/executions")["run_id"])
        ok(self.client.post(f"/v1/alerts/{self.ids['alt']}/execute", json={}))
        self.ids["aex"] = str(self.soon(f"/v1/alerts/{self.ids['alt']}/results")["execution_id"])

    def made(self, path: str, body: dict[str, Any], ident: str) -> str:
        return str(ok(self.client.post(path, json=body))[ident])

    def soon(self, path: str) -> dict[str, Any]:
        """What a route answers as soon as it has something."""
        for _ in range(4_800):
            answer = self.client.get(path)
            if answer.status_code == 200 and answer.json().get("status") not in ("pending", "running", "processing"):
                found: dict[str, Any] = answer.json()
                return found
            time.sleep(0.05)
        raise AssertionError(answer.text)

    # ---- bodies; keywords replace what they refer to

    def taxonomy(self, name: str = "papers", **config: Any) -> dict[str, Any]:
        given = {
            "taxonomy_type": "flat",
            "retriever_id": self.ids["ret"],
            "collection_id": self.collection,
            "input_mappings": [{"input_key": "query", "source_type": "payload", "path": "title"}],
            "enrichment_fields": [{"field_path": "title", "merge_mode": "replace"}],
        }
        return {"taxonomy_name": name, "config": given | config}

    def cluster(self, **more: Any) -> dict[str, Any]:
        config = {"clustering_method": "kmeans", "algorithm_params": {"n_clusters": 3}}
        return {"collection_ids": [self.collection], "cluster_type": "vector", "vector_config": config, **more}

    def trigger(self, action: str = "cluster", **more: Any) -> dict[str, Any]:
        config = {"cluster_id": self.ids["clust"]} if action == "cluster" else {}
        body = {"action_type": action, "action_config": config, "trigger_type": "cron", "schedule_config": CRON}
        return {**body, **more}

    def alert(self, **more: Any) -> dict[str, Any]:
        notify = {"channels": [], "include_matches": True}
        body = {"name": f"alert {time.monotonic_ns()}", "retriever_id": self.ids["ret"], "inputs": {"query": "paper"}}
        return {**body, "notification_config": notify, **more}

    def webhook(self, **more: Any) -> dict[str, Any]:
        body = {"webhook_name": f"hook {time.monotonic_ns()}", "event_types": ["document.created"]}
        channels = [{"channel": "webhook", "configs": {"url": "https://93.184.215.14/hook"}}]
        return {**body, "channels": channels, **more}


# ---- requests that refer to something by `ids`: method, path, body

Bodies = Callable[[Automated, dict[str, str]], tuple[str, str, dict[str, Any]]]


def application(entry: str, field: str, kind: str, **more: Any) -> Bodies:
    return lambda w, ids: ("patch", f"/v1/collections/{w.collection}", {entry: [{field: ids[kind], **more}]})


def action(action: str, **config: str) -> Bodies:
    def body(w: Automated, ids: dict[str, str]) -> tuple[str, str, dict[str, Any]]:
        return (
            "post",
            "/v1/triggers",
            w.trigger(action, action_config={name: ids[kind] for name, kind in config.items()}),
        )

    return body


def taxonomy_with(**config: Any) -> Bodies:
    def body(w: Automated, ids: dict[str, str]) -> tuple[str, str, dict[str, Any]]:
        text = json.dumps(w.taxonomy("x", **config)).replace("<own>", w.collection)
        return "post", "/v1/taxonomies", json.loads(text.replace("<col>", ids["col"]).replace("<ret>", ids["ret"]))

    return body
