"""What triggers do, with the real thing behind each action."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import pytest
from documents_world import Tenant as Home
from taxonomy_world import Labels

from helpers import ok, wait_for
from mediatheca.kernel import clock

HOUR = (clock.now() + timedelta(hours=12)).hour
"""Not due while the tests run."""
NIGHTLY = {"trigger_type": "cron", "schedule_config": {"cron_expression": f"0 {HOUR} * * *"}}
FIELDS = [{"field_path": "label_name", "target_field": "kind"}]


@pytest.fixture
def labels(home: Home) -> Labels:
    return Labels(home)


def test_a_taxonomy_is_applied_to_what_is_not_labelled_yet(labels: Labels) -> None:
    side = labels.labels(fox="fox fox", whale="whale whale")
    source = {"collection_id": side, "enrichment_fields": FIELDS}
    taxonomy = labels.flat(retriever_id=labels.retriever(side), source_collection=source)["taxonomy_id"]
    things = labels.collection("things")
    labels.texts(things, {"a": "a fox", "b": "the whale"})
    config = {"taxonomy_id": "kinds", "collection_id": "things"}
    trigger = labels.call(
        "POST", "/triggers", {"action_type": "taxonomy_enrichment", "action_config": config, **NIGHTLY}
    )
    assert trigger["action_config"]["taxonomy_id"] == taxonomy
    task = labels.call("POST", f"/triggers/{trigger['trigger_id']}/execute")
    assert task["task_type"] == "api_taxonomies_materialize"
    assert labels.ended(task["task_id"])["outputs"][0]["enriched"] == 2
    assert {ident: document["kind"] for ident, document in labels.documents(things).items()} == {
        "a": "fox",
        "b": "whale",
    }
    path = f"/triggers/{trigger['trigger_id']}/history"
    run = wait_for(lambda: next((r for r in labels.call("GET", path)["executions"] if r["status"] != "running"), None))
    assert (run["status"], run["task_id"]) == ("completed", task["task_id"])


def test_a_trigger_applies_a_taxonomy_as_its_collection_says(labels: Labels) -> None:
    side = labels.labels(fox="fox fox", whale="whale whale")
    source = {"collection_id": side, "enrichment_fields": FIELDS}
    taxonomy = labels.flat(retriever_id=labels.retriever(side), source_collection=source)
    renamed = {**source, "enrichment_fields": [{"field_path": "label_name", "target_field": "species"}]}
    newer = {**taxonomy["config"], "source_collection": renamed}
    assert labels.call("POST", f"/taxonomies/{taxonomy['taxonomy_id']}/versions", {"config": newer})["version"] == 2
    things, copies = labels.collection("things"), labels.collection("copies")
    labels.texts(things, {"a": "a fox", "b": "the whale"})
    keep = {"field": "text", "operator": "eq", "value": "a fox"}
    labels.attach(
        things, taxonomy["taxonomy_id"], version=1, target_collection_id=copies, scroll_filters=keep,
        hierarchical_enrichment_style="best_match",
    )  # fmt: skip
    config = {"taxonomy_id": "kinds", "collection_id": "things"}
    trigger = labels.call(
        "POST", "/triggers", {"action_type": "taxonomy_enrichment", "action_config": config, **NIGHTLY}
    )
    task = labels.call("POST", f"/triggers/{trigger['trigger_id']}/execute")
    assert labels.ended(task["task_id"])["outputs"][0]["enriched"] == 1
    assert all("kind" not in document for document in labels.documents(things).values())
    assert [(entry["kind"], "species" in entry) for entry in labels.documents(copies).values()] == [("fox", False)]


def test_a_retroactive_application_labels_what_is_there_once(labels: Labels) -> None:
    side = labels.labels(fox="fox fox", whale="whale whale")
    source = {"collection_id": side, "enrichment_fields": FIELDS}
    taxonomy = labels.flat(retriever_id=labels.retriever(side), source_collection=source)["taxonomy_id"]
    things = labels.collection("things")
    labels.texts(things, {"a": "a fox"})
    for _ in range(2):
        labels.attach(things, taxonomy, execution_mode="retroactive")
    wait_for(lambda: labels.documents(things)["a"].get("kind") == "fox")
    with labels.tenant.world.db.read(labels.tenant.scope) as tx:
        assert tx.count("tasks", {"task_type": "api_taxonomies_materialize"}) == 1


def test_an_alert_is_evaluated_when_its_trigger_runs(labels: Labels) -> None:
    side = labels.labels(fox="fox fox")
    body = {"name": "foxes", "retriever_id": labels.retriever(side), "inputs": {"query": "fox"}}
    alert = labels.call("POST", "/alerts", {**body, "notification_config": {"channels": []}})["alert_id"]
    config = {"alert_id": "foxes", "inputs": {"query": "a fox"}}
    trigger = labels.call("POST", "/triggers", {"action_type": "alert_evaluation", "action_config": config, **NIGHTLY})
    assert trigger["action_config"]["alert_id"] == alert
    task = labels.call("POST", f"/triggers/{trigger['trigger_id']}/execute")
    assert task["task_type"] == "api_retrievers_execute"
    ended = labels.ended(task["task_id"])
    assert ended["status"] == "COMPLETED", ended
    assert ended["outputs"][0]["triggered"] is True
    watch = {"name": "load", "system_condition": {"type": "task_queue_degraded", "params": {}}}
    made = labels.call("POST", "/alerts", {**watch, "notification_config": {"channels": []}})["alert_id"]
    refused = {"action_type": "alert_evaluation", "action_config": {"alert_id": made}, **NIGHTLY}
    labels.call("POST", "/triggers", refused, 422)


class Source:
    """A bucket with objects, and a collection over it, on a server that extracts."""

    def __init__(self, client: httpx.Client, bucket: str) -> None:
        self.client, self.bucket = client, bucket
        config = {"feature_extractor_name": "passthrough_extractor", "field_passthrough": ["title"]}
        body = {"collection_name": "copies", "source": {"bucket_ids": [bucket]}, "feature_extractor": config}
        self.collection = ok(client.post("/v1/collections", json=body))["collection_id"]
        for title in ("red", "blue"):
            ok(client.post(f"/v1/buckets/{bucket}/objects", json={"title": title}))

    def trigger(self, action: str, config: dict[str, Any], **when: Any) -> str:
        body = {"action_type": action, "action_config": config, **(when or NIGHTLY)}
        return str(ok(self.client.post("/v1/triggers", json=body))["trigger_id"])

    def run(self, ident: str) -> dict[str, Any]:
        return dict(ok(self.client.post(f"/v1/triggers/{ident}/execute")))

    def runs(self, ident: str) -> list[Any]:
        return list(ok(self.client.get(f"/v1/triggers/{ident}/history"))["executions"])

    def ended(self, ident: str, count: int = 1) -> list[Any]:
        return wait_for(
            lambda: [r for r in self.runs(ident) if r["status"] != "running"][count - 1 :] and self.runs(ident)
        )

    def documents(self) -> int:
        return len(ok(self.client.post(f"/v1/collections/{self.collection}/documents/list"))["results"])


@pytest.fixture
def source(client: httpx.Client, bucket: str) -> Source:
    return Source(client, bucket)


def test_a_collection_is_processed_by_its_trigger(source: Source) -> None:
    ident = source.trigger("collection_trigger", {"collection_id": "copies"})
    task = source.run(ident)
    assert task["task_type"] == "api_buckets_batches_process"
    (run,) = source.ended(ident)
    assert run["status"] == "completed"
    assert source.documents() == 2


def test_a_bucket_is_run_again_with_a_filter_and_a_retry_of_nothing_does_nothing(source: Source) -> None:
    filtered = {"bucket_id": source.bucket, "filters": {"title": "red"}, "dedup_strategy": "replace"}
    ident = source.trigger("batch_rerun", filtered)
    source.run(ident)
    assert source.ended(ident)[0]["status"] == "completed"
    assert source.documents() == 1
    retry = source.trigger("batch_rerun", {"bucket_id": source.bucket, "retry_failed_only": True})
    assert source.run(retry)["status"] == "COMPLETED"
    empty = source.trigger("batch_rerun", {"bucket_id": source.bucket, "filters": {"title": "nothing"}})
    assert source.run(empty)["status"] == "COMPLETED"


def test_a_trigger_on_ended_batches_is_not_started_by_its_own(source: Source) -> None:
    when = {
        "trigger_type": "event",
        "schedule_config": {"event_type": "batch_completed", "cooldown_seconds": 0, "collection_id": "copies"},
    }
    ident = source.trigger("collection_trigger", {"collection_id": "copies", "dedup_strategy": "force"}, **when)
    assert source.client.post("/v1/collections/copies/trigger", json={}).status_code == 202
    (run,) = source.ended(ident)
    assert run["status"] == "completed"
    # Another batch from outside: one more run, so the batch of the first run has counted for nothing.
    assert source.client.post("/v1/collections/copies/trigger", json={}).status_code == 202
    source.ended(ident, 2)
    assert ok(source.client.get(f"/v1/triggers/{ident}"))["execution_count"] == 2


def test_a_collection_that_is_switched_off_fails_the_run_with_the_reason(source: Source) -> None:
    ident = source.trigger("collection_trigger", {"collection_id": "copies"})
    ok(source.client.patch("/v1/collections/copies", json={"enabled": False}))
    answer = source.client.post(f"/v1/triggers/{ident}/execute")
    assert answer.status_code == 409
    assert "disabled" in answer.text
