"""What is huge, deep or of another shape is refused at once by everything that works by itself."""

from __future__ import annotations

from typing import Any

import pytest
from automation_world import Automated, Bodies, application, taxonomy_with


def deep(levels: int) -> Any:
    made: Any = {"field": "number", "operator": "gt", "value": 1}
    for _ in range(levels):
        made = {"AND": [made]}
    return made


HUGE: dict[str, Bodies] = {
    "channels": lambda w, ids: (
        "post",
        "/v1/organizations/webhooks",
        w.webhook(channels=w.webhook()["channels"] * 5_000),
    ),
    "event types": lambda w, ids: (
        "post",
        "/v1/organizations/webhooks",
        w.webhook(event_types=[f"x{n}" for n in range(200_000)]),
    ),
    "headers": lambda w, ids: (
        "post",
        "/v1/organizations/webhooks",
        w.webhook(
            channels=[
                {
                    "channel": "webhook",
                    "configs": {"url": "https://93.184.215.14/", "headers": {f"x-{n}": "y" for n in range(10_000)}},
                }
            ]
        ),
    ),
    "alert channels": lambda w, ids: (
        "post",
        "/v1/alerts",
        w.alert(notification_config={"channels": [{"channel_type": "none"}] * 50_000}),
    ),
    "recipients": lambda w, ids: (
        "post",
        "/v1/alerts",
        w.alert(
            notification_config={
                "channels": [{"channel_type": "email", "config": {"to": [f"a{n}@example.com" for n in range(10_000)]}}]
            }
        ),
    ),
    "alert inputs": lambda w, ids: ("post", "/v1/alerts", w.alert(inputs={f"k{n}": "x" * 100 for n in range(50_000)})),
    "alert name": lambda w, ids: ("post", "/v1/alerts", w.alert(name="x" * 100_000)),
    "tried documents": lambda w, ids: (
        "post",
        f"/v1/alerts/{w.ids['alt']}/execute",
        {"document_ids": [f"d{n}" for n in range(200_000)]},
    ),
    "cluster collections": lambda w, ids: ("post", "/v1/clusters", w.cluster(collection_ids=[w.collection] * 100_000)),
    "cluster filters": lambda w, ids: ("post", "/v1/clusters", w.cluster(filters=deep(400))),
    "cluster params": lambda w, ids: (
        "post",
        "/v1/clusters",
        w.cluster(vector_config={"clustering_method": "kmeans", "algorithm_params": {"n_clusters": 10**9}}),
    ),
    "execution filters": lambda w, ids: ("post", f"/v1/clusters/{w.ids['clust']}/execute", {"filters": deep(400)}),
    "labels": lambda w, ids: (
        "patch",
        f"/v1/clusters/{w.ids['clust']}/executions/{w.ids['run']}/labels",
        {"labels": {f"cl_{n}": "x" for n in range(100_000)}},
    ),
    "nodes": taxonomy_with(taxonomy_type="hierarchical", hierarchical_nodes=[{"collection_id": "<own>"}] * 50_000),
    "mappings": taxonomy_with(
        input_mappings=[{"input_key": "query", "source_type": "payload", "path": "title"}] * 50_000
    ),
    "path": taxonomy_with(input_mappings=[{"input_key": "query", "source_type": "payload", "path": "a." * 50_000}]),
    "tried on": lambda w, ids: (
        "post",
        f"/v1/taxonomies/{w.ids['tax']}/execute",
        {"source_documents": [{"title": "x"}] * 50_000},
    ),
    "examples": lambda w, ids: (
        "post",
        "/v1/taxonomies/from-documents",
        {
            "taxonomy_name": "e",
            "node_label": "l",
            "documents": [{"collection_id": w.collection, "document_id": "ann-1"}] * 50_000,
        },
    ),
    "applications": application("taxonomy_applications", "taxonomy_id", "tax", scroll_filters=deep(400)),
    "many applications": lambda w, ids: (
        "patch",
        f"/v1/collections/{w.collection}",
        {"alert_applications": [{"alert_id": w.ids["alt"]}] * 50_000},
    ),
    "cron": lambda w, ids: (
        "post",
        "/v1/triggers",
        w.trigger(schedule_config={"cron_expression": "1," * 100_000 + "1 * * * *"}),
    ),
    "interval": lambda w, ids: (
        "post",
        "/v1/triggers",
        w.trigger(trigger_type="interval", schedule_config={"interval_seconds": 10**30}),
    ),
    "action": lambda w, ids: (
        "post",
        "/v1/triggers",
        w.trigger(action_config={"cluster_id": w.ids["clust"], "x": deep(400)}),
    ),
}


@pytest.mark.parametrize("name", HUGE)
def test_what_is_huge_is_refused_at_once(home: Automated, name: str) -> None:
    method, path, body = HUGE[name](home, home.ids)
    answer = home.client.request(method, path, json=body)
    assert answer.status_code in (400, 413, 422), (answer.status_code, answer.text[:500])
    assert len(answer.content) < 100_000
    assert answer.json()["success"] is False


@pytest.mark.parametrize(
    "path",
    ["/v1/taxonomies", "/v1/clusters", "/v1/triggers", "/v1/alerts", "/v1/organizations/webhooks", "/v1/webhooks"],
)
@pytest.mark.parametrize(
    "body", ["[" * 5_000 + "]" * 5_000, '{"a":' * 5_000 + "1" + "}" * 5_000, "null", "[]", '"x"', "{"]
)
def test_a_body_of_another_shape_is_refused(home: Automated, path: str, body: str) -> None:
    answer = home.client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 413, 422), (answer.status_code, answer.text[:500])
    assert len(answer.content) < 20_000
