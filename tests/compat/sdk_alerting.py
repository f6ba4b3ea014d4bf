"""Every generated method of the trigger, alert, webhook and event groups."""

from __future__ import annotations

import time
from typing import Any

from sdk_automation import cluster_run
from sdk_world import Call, World

HOOK = "http://127.0.0.1:9/never"
CRON = {"cron_expression": "0 2 * * *", "timezone": "Europe/Berlin"}
NOTIFY = {"channels": [{"channel_type": "webhook", "config": {"url": HOOK}}], "include_matches": True}


# ---- triggers


def _scheduled(w: World) -> dict[str, Any]:
    return {
        "action_type": "cluster",
        "action_config": {"cluster_id": cluster_run(w)["cluster_id"]},
        "trigger_type": "cron",
        "schedule_config": CRON,
    }


def _trigger(w: World, **more: Any) -> dict[str, Any]:
    return {"trigger_id": w.request("POST", "/triggers", _scheduled(w))["trigger_id"], **more}


def _fired(w: World) -> dict[str, Any]:
    made = _trigger(w)
    w.task_ended(w.request("POST", f"/triggers/{made['trigger_id']}/execute")["task_id"])
    return made


def _older(w: World) -> dict[str, Any]:
    config = {"collection_ids": [w.collection], "config": {}}
    return {
        "cluster_id": cluster_run(w)["cluster_id"],
        "execution_config": config,
        "trigger_type": "interval",
        "schedule_config": {"interval_seconds": 3600},
    }


def _older_trigger(w: World, **more: Any) -> dict[str, Any]:
    return {"trigger_id": w.request("POST", "/clusters/triggers", _older(w))["trigger_id"], **more}


TRIGGERS: dict[str, Call] = {
    "TriggersApi.create_trigger": Call(
        lambda w: {"shared_triggers_models_create_trigger_request": _scheduled(w)},
        lambda a, w: a.trigger_type.value == "cron" and a.status.value == "active",
    ),
    "TriggersApi.get_trigger": Call(_trigger, lambda a, w: a.action_type.value == "cluster"),
    "TriggersApi.list_triggers": Call(lambda w: {}, lambda a, w: a.total >= 1),
    "TriggersApi.list_triggers_0": Call(
        lambda w: {"shared_triggers_models_list_triggers_request": {"action_type": "cluster", "limit": 1}},
        lambda a, w: len(a.results) == 1,
    ),
    "TriggersApi.update_trigger": Call(
        lambda w: _trigger(w, shared_triggers_models_update_trigger_request={"description": "nightly"}),
        lambda a, w: a.description == "nightly",
    ),
    "TriggersApi.pause_trigger": Call(_trigger, lambda a, w: a.status.value == "paused"),
    "TriggersApi.resume_trigger": Call(_trigger, lambda a, w: a.status.value == "active"),
    "TriggersApi.execute_trigger_now": Call(_trigger, lambda a, w: bool(a.task_id)),
    "TriggersApi.get_trigger_history": Call(_fired, lambda a, w: a.total == 1 and bool(a.executions[0].task_id)),
    "TriggersApi.delete_trigger": Call(_trigger, lambda a, w: a is None),
    "ClusterTriggersApi.create_trigger_clusters": Call(
        lambda w: {"shared_clusters_triggers_models_create_trigger_request": _older(w)},
        lambda a, w: a.cluster_id == cluster_run(w)["cluster_id"],
    ),
    "ClusterTriggersApi.get_trigger_clusters": Call(
        _older_trigger, lambda a, w: a.execution_config.collection_ids == [w.collection]
    ),
    "ClusterTriggersApi.list_triggers_clusters": Call(
        lambda w: {"shared_clusters_triggers_models_list_triggers_request": {}}
    ),
    "ClusterTriggersApi.update_trigger_clusters": Call(
        lambda w: _older_trigger(w, shared_clusters_triggers_models_update_trigger_request={"description": "hourly"}),
        lambda a, w: a.description == "hourly",
    ),
    "ClusterTriggersApi.pause_trigger_clusters": Call(_older_trigger, lambda a, w: a.status.value == "paused"),
    "ClusterTriggersApi.resume_trigger_clusters": Call(_older_trigger, lambda a, w: a.status.value == "active"),
    "ClusterTriggersApi.get_trigger_history_clusters": Call(
        lambda w: _older_trigger(w, trigger_history_request={"limit": 5})
    ),
    "ClusterTriggersApi.delete_trigger_clusters": Call(_older_trigger, lambda a, w: a is None),
}


# ---- alerts


def _watch(w: World, **more: Any) -> dict[str, Any]:
    return {
        "name": w.name("alert"),
        "retriever_id": w.retriever,
        "inputs": {"query": "music"},
        "notification_config": NOTIFY,
        **more,
    }


def _alert(w: World, path: str = "/alerts", **more: Any) -> dict[str, Any]:
    return {"alert_identifier": w.request("POST", path, _watch(w))["alert_id"], **more}


def _evaluated(w: World) -> dict[str, Any]:
    def make() -> dict[str, Any]:
        made = _alert(w)
        w.request("POST", f"/alerts/{made['alert_identifier']}/execute", {})
        for _ in range(2_400):
            if w.request("GET", f"/alerts/{made['alert_identifier']}/executions")["results"]:
                return made
            time.sleep(0.05)
        raise AssertionError("the alert was not evaluated")

    return dict(w.once("alert", make))


def _execution(w: World) -> dict[str, Any]:
    runs = w.request("GET", f"/alerts/{_evaluated(w)['alert_identifier']}/executions")["results"]
    return {"execution_id": runs[0]["execution_id"]}


ORG = "/organizations/alerts"
CONDITION = {"type": "batch_failed"}


def _system(w: World) -> dict[str, Any]:
    return {
        "name": w.name("alert"),
        "source": "system",
        "system_condition": CONDITION,
        "notification_config": NOTIFY,
    }


def _org_alert(w: World, **more: Any) -> dict[str, Any]:
    return {"alert_identifier": w.request("POST", ORG, _system(w))["alert_id"], **more}


ALERTS: dict[str, Call] = {
    "AlertsApi.create_alert": Call(
        lambda w: {"create_alert_request": _watch(w)}, lambda a, w: a.retriever_id == w.retriever and a.enabled
    ),
    "AlertsApi.get_alert": Call(_alert, lambda a, w: a.notification_config.include_matches),
    "AlertsApi.list_alerts": Call(lambda w: {"limit": 1}, lambda a, w: len(a.results) == 1),
    "AlertsApi.list_alerts_0": Call(lambda w: {}, lambda a, w: len(a.results) >= 1),
    "AlertsApi.patch_alert": Call(
        lambda w: _alert(w, patch_alert_request={"enabled": False}), lambda a, w: a.enabled is False
    ),
    "AlertsApi.delete_alert": Call(_alert),
    "AlertsApi.get_latest_result_alerts": Call(
        _evaluated, lambda a, w: a.triggered and all(match.score <= 1 for match in a.matches)
    ),
    "AlertsApi.list_alert_executions": Call(_evaluated, lambda a, w: len(a.results) >= 1),
    "AlertsApi.list_all_executions_alerts": Call(lambda w: {"limit": 5}, lambda a, w: len(a.results) >= 1),
    "AlertsApi.get_execution_alerts": Call(_execution, lambda a, w: a.match_count >= 1),
    "AlertsApi.create_org_alert_organizations": Call(
        lambda w: {"create_alert_request": _system(w)}, lambda a, w: a.alert_id is not None
    ),
    "AlertsApi.get_org_alert_organizations": Call(_org_alert),
    "AlertsApi.list_org_alerts_organizations": Call(lambda w: {}, lambda a, w: len(a.results) >= 1),
    "AlertsApi.list_org_alerts_organizations_0": Call(lambda w: {}, lambda a, w: len(a.results) >= 1),
    "AlertsApi.patch_org_alert_organizations": Call(
        lambda w: _org_alert(w, patch_alert_request={"description": "failures"}),
        lambda a, w: a.description == "failures",
    ),
    "AlertsApi.delete_org_alert_organizations": Call(_org_alert),
}


# ---- webhooks and events


def _hook(w: World) -> dict[str, Any]:
    return {
        "webhook_name": f"{w.name('hook')}-{w.namespace[-8:]}",
        "event_types": ["document.created"],
        "channels": [{"channel": "webhook", "configs": {"url": HOOK}}],
    }


def _webhook(w: World, **more: Any) -> dict[str, Any]:
    return {"identifier": w.request("POST", "/organizations/webhooks", _hook(w))["webhook_id"], **more}


WEBHOOKS: dict[str, Call] = {
    "WebhooksApi.create_webhook_organizations": Call(
        lambda w: {"webhook_input": _hook(w)},
        lambda a, w: a.webhook_id.startswith("wh_") and a.event_types[0].value == "document.created",
    ),
    "WebhooksApi.get_webhook_organizations": Call(_webhook, lambda a, w: len(a.channels) == 1),
    "WebhooksApi.list_webhooks_organizations": Call(lambda w: {"limit": 1}, lambda a, w: len(a.results) == 1),
    "WebhooksApi.update_webhook_organizations": Call(
        lambda w: _webhook(w, webhook_input={**_hook(w), "is_active": False}), lambda a, w: a.is_active is False
    ),
    "WebhooksApi.delete_webhook_organizations": Call(_webhook, lambda a, w: a is None),
    "EventsApi.list_events": Call(
        lambda w: {"namespace_id": w.namespace, "event_type": "collection.created", "limit": 5},
        lambda a, w: a.results[0].event_type == "collection.created" and a.results[0].operation == "insert",
    ),
}
