"""Every generated method of the taxonomy, cluster, trigger, alert, webhook and event groups."""

from __future__ import annotations

import time
from typing import Any

from sdk_world import TEXT_URI, Call, World, search_stage

HOOK = "http://127.0.0.1:9/never"
CRON = {"cron_expression": "0 2 * * *", "timezone": "Europe/Berlin"}
NOTIFY = {"channels": [{"channel_type": "webhook", "config": {"url": HOOK}}], "include_matches": True}


def _path(w: World, ident: str, **more: Any) -> dict[str, Any]:
    return {"taxonomy_identifier": ident, **more}


# ---- taxonomies


def _labels(w: World) -> tuple[str, str]:
    """A collection of labels and a retriever over it."""
    labels = w.fresh_collection()
    w.wait(w.client.collections.trigger(labels)["batch_id"])
    made = w.client.retrievers.create(
        retriever_name=w.name("matcher"),
        collection_identifiers=[labels],
        stages=[search_stage()],
        input_schema={"query": {"type": "string"}},
    )
    return labels, str(made["retriever_id"])


def _config(w: World) -> dict[str, Any]:
    labels, retriever = w.once("labels", lambda: _labels(w))
    return {
        "taxonomy_type": "flat",
        "retriever_id": retriever,
        "input_mappings": [{"input_key": "query", "source_type": "payload", "path": "text"}],
        "source_collection": {
            "collection_id": labels,
            "enrichment_fields": [{"field_path": "name", "target_field": "label", "merge_mode": "replace"}],
        },
        "step_analytics": {"timestamp_field": "at", "sequence_id_field": "thread"},
    }


def _fresh_taxonomy(w: World) -> str:
    made = w.request("POST", "/taxonomies", {"taxonomy_name": w.name("taxonomy"), "config": _config(w)})
    return str(made["taxonomy_id"])


def _apply(w: World) -> str:
    """A taxonomy that labelled the products, and three more that tell the steps of one customer."""
    ident = _fresh_taxonomy(w)
    for day, text in enumerate(("A red mug for tea", "Wireless headphones"), 1):
        w.fresh_document(text=text, thread="ada", at=f"2026-01-0{day}T00:00:00Z")
    attached = {"taxonomy_applications": [{"taxonomy_id": ident}]}
    w.request("PATCH", f"/collections/{w.collection}", attached)
    body = {"taxonomy_id": ident}
    w.task_ended(w.request("POST", f"/collections/{w.collection}/apply-taxonomy", body)["task_id"])
    return ident


def _taxonomy(w: World) -> str:
    return str(w.once("taxonomy", lambda: _apply(w)))


def _steps(w: World, **more: Any) -> dict[str, Any]:
    return {
        "collection_id": w.collection,
        "taxonomy_id": _taxonomy(w),
        "from_step": "Mug",
        "to_step": "Headphones",
        "min_support": 1,
        **more,
    }


def _analysis(w: World) -> dict[str, Any]:
    ident = _taxonomy(w)
    w.request("POST", f"/taxonomies/{ident}/analytics/transitions", _steps(w))
    runs = w.request("GET", f"/taxonomies/{ident}/analytics/runs")["runs"]
    return {"taxonomy_id": ident, "run_id": runs[0]["run_id"]}


def _examples(w: World) -> dict[str, Any]:
    documents = [{"collection_id": w.collection, "document_id": w.documents[0]}]
    return {"node_label": w.name("node"), "documents": documents}


TAXONOMIES: dict[str, Call] = {
    "TaxonomiesApi.create_taxonomy_taxonomies": Call(
        lambda w: {"create_taxonomy_request": {"taxonomy_name": w.name("taxonomy"), "config": _config(w)}},
        lambda a, w: a.taxonomy_id.startswith("tax_") and a.config.actual_instance.taxonomy_type == "flat",
    ),
    "TaxonomiesApi.get_taxonomy_taxonomies": Call(
        lambda w: _path(w, _taxonomy(w)), lambda a, w: a.taxonomy_id == _taxonomy(w)
    ),
    "TaxonomiesApi.list_taxonomies": Call(lambda w: {"limit": 1}, lambda a, w: len(a.results) == 1),
    "TaxonomiesApi.list_taxonomies_0": Call(lambda w: {}, lambda a, w: len(a.results) >= 1),
    "TaxonomiesApi.patch_taxonomy_taxonomies": Call(
        lambda w: _path(w, _fresh_taxonomy(w), patch_taxonomy_request={"description": "what it is"}),
        lambda a, w: a.description == "what it is",
    ),
    "TaxonomiesApi.clone_taxonomy_taxonomies": Call(
        lambda w: _path(w, _taxonomy(w), clone_taxonomy_request={"taxonomy_name": w.name("copy")}),
        lambda a, w: a is not None,
    ),
    "TaxonomiesApi.create_taxonomy_version_taxonomies": Call(
        lambda w: {"taxonomy_id": _fresh_taxonomy(w), "request_body": {"config": _config(w)}},
        lambda a, w: a.version == 2,
    ),
    "TaxonomiesApi.list_taxonomy_versions_taxonomies": Call(
        lambda w: {"taxonomy_id": _taxonomy(w)}, lambda a, w: len(a.results) == 1
    ),
    "TaxonomiesApi.execute_taxonomy_taxonomies": Call(
        lambda w: _path(w, _taxonomy(w), payload={}), lambda a, w: a.stats.processed_docs >= 3
    ),
    "TaxonomiesApi.execute_taxonomy_taxonomies_0": Call(
        lambda w: _path(w, _taxonomy(w), payload1={}), lambda a, w: len(a.results) >= 3
    ),
    "TaxonomiesApi.create_taxonomy_from_documents_taxonomies": Call(
        lambda w: {"create_taxonomy_from_documents_request": {"taxonomy_name": w.name("made"), **_examples(w)}},
        lambda a, w: bool(a.taxonomy_id),
    ),
    "TaxonomiesApi.create_taxonomy_node_from_documents_taxonomies": Call(
        lambda w: _path(
            w,
            w.request("POST", "/taxonomies/from-documents", {"taxonomy_name": w.name("made"), **_examples(w)})[
                "taxonomy_id"
            ],
            create_node_from_documents_request=_examples(w),
        ),
        lambda a, w: bool(a.taxonomy_id),
    ),
    "TaxonomiesApi.delete_taxonomy_taxonomies": Call(lambda w: _path(w, _fresh_taxonomy(w))),
    "CollectionTaxonomiesApi.apply_taxonomy_to_collection": Call(
        lambda w: {"collection_identifier": w.collection, "apply_taxonomy_request": {"taxonomy_id": _taxonomy(w)}},
        lambda a, w: a.taxonomy_id == _taxonomy(w) and bool(a.task_id),
    ),
    "TaxonomyAnalyticsApi.get_available_steps_taxonomies_taxonomy_id_analytics": Call(
        lambda w: {"taxonomy_id": _taxonomy(w), "collection_id": w.collection},
        lambda a, w: {"Mug", "Headphones"} == {step.step_key for step in a.steps},
    ),
    "TaxonomyAnalyticsApi.compute_step_transitions_taxonomies_taxonomy_id_analytics": Call(
        lambda w: {"taxonomy_id": _taxonomy(w), "step_transition_request": _steps(w)}
    ),
    "TaxonomyAnalyticsApi.analyze_transition_paths_taxonomies_taxonomy_id_analytics": Call(
        lambda w: {"taxonomy_id": _taxonomy(w), "path_analysis_request": _steps(w)}
    ),
    "TaxonomyAnalyticsApi.list_analytics_runs_taxonomies_taxonomy": Call(
        lambda w: {"taxonomy_id": _taxonomy(w)}, lambda a, w: a.total >= 0
    ),
    "TaxonomyAnalyticsApi.get_analytics_run_taxonomies_taxonomy": Call(_analysis, lambda a, w: bool(a.run_id)),
    "TaxonomyAnalyticsApi.rerun_analytics_run_taxonomies_taxonomy": Call(_analysis),
    "AnalyticsTaxonomiesApi.get_assignment_metrics_analytics_taxonomies_taxonomy": Call(
        lambda w: {"taxonomy_id": _taxonomy(w)}, lambda a, w: a.taxonomy_id == _taxonomy(w)
    ),
    "AnalyticsTaxonomiesApi.get_confidence_distribution_analytics_taxonomies_taxonomy": Call(
        lambda w: {"taxonomy_id": _taxonomy(w), "hours": 24}
    ),
    "AnalyticsTaxonomiesApi.get_enrichment_history_analytics_taxonomies_taxonomy": Call(
        lambda w: {"taxonomy_id": _taxonomy(w)}
    ),
    "AnalyticsTaxonomiesApi.get_label_distribution_analytics_taxonomies_taxonomy": Call(
        lambda w: {"taxonomy_id": _taxonomy(w), "limit": 5}, lambda a, w: len(a.labels) >= 2
    ),
}


# ---- clusters


def _grouping(w: World) -> dict[str, Any]:
    return {
        "cluster_name": w.name("cluster"),
        "collection_ids": [w.collection],
        "cluster_type": "vector",
        "vector_config": {
            "feature_uris": [TEXT_URI],
            "clustering_method": "kmeans",
            "algorithm_params": {"n_clusters": 2},
        },
    }


def _fresh_cluster(w: World) -> str:
    return str(w.request("POST", "/clusters", _grouping(w))["cluster_id"])


def _run(w: World) -> dict[str, Any]:
    def make() -> dict[str, Any]:
        ident = _fresh_cluster(w)
        w.task_ended(w.request("POST", f"/clusters/{ident}/execute", {})["task_id"])
        run = w.request("POST", f"/clusters/{ident}/executions/list", {})["results"][0]
        return {"cluster_id": ident, "run_id": run["run_id"]}

    return dict(w.once("cluster run", make))


def _cluster(w: World, **more: Any) -> dict[str, Any]:
    return {"cluster_id": _run(w)["cluster_id"], **more}


def _running(w: World) -> dict[str, Any]:
    ident = _fresh_cluster(w)
    w.request("POST", f"/clusters/{ident}/execute", {})
    for _ in range(200):
        if runs := w.request("POST", f"/clusters/{ident}/executions/list", {})["results"]:
            return {"cluster_id": ident, "run_id": runs[0]["run_id"]}
        time.sleep(0.02)
    raise AssertionError("no run was recorded")


def _first_label(w: World) -> dict[str, Any]:
    groups = w.request("GET", f"/clusters/{_run(w)['cluster_id']}/groups")["groups"]
    return {**_run(w), "patch_execution_labels_request": {"labels": {groups[0]["cluster_id"]: "Crockery"}}}


CLUSTERS: dict[str, Call] = {
    "ClustersApi.create_cluster": Call(
        lambda w: {"create_cluster_request": _grouping(w)},
        lambda a, w: a.cluster_id.startswith("clust_") and a.algorithm == "kmeans",
    ),
    "ClustersApi.get_cluster": Call(
        lambda w: {"cluster_identifier": _run(w)["cluster_id"]}, lambda a, w: a.cluster_id == _run(w)["cluster_id"]
    ),
    "ClustersApi.list_clusters": Call(lambda w: {}, lambda a, w: len(a.results) >= 1),
    "ClustersApi.list_clusters_get": Call(lambda w: {"limit": 1}, lambda a, w: len(a.results) == 1),
    "ClustersApi.patch_cluster": Call(
        lambda w: {"cluster_identifier": _fresh_cluster(w), "patch_cluster_request": {"description": "alike"}},
        lambda a, w: a is not None,
    ),
    "ClustersApi.execute_clustering_clusters": Call(
        lambda w: {"cluster_id": _fresh_cluster(w), "execute_cluster_by_id_request": {}},
        lambda a, w: bool(a.task_id),
    ),
    "ClustersApi.get_cluster_groups": Call(
        _cluster, lambda a, w: a.total_groups == 2 and sum(group.member_count for group in a.groups) >= 3
    ),
    "ClustersApi.get_cluster_visualization": Call(_cluster),
    "ClustersApi.delete_cluster": Call(lambda w: {"cluster_id": _fresh_cluster(w)}),
    "ClusterExecutionsApi.get_cluster_execution": Call(_cluster, lambda a, w: a.run_id == _run(w)["run_id"]),
    "ClusterExecutionsApi.get_cluster_execution_by_run": Call(
        lambda w: {**_run(w), "include_vectors": True}, lambda a, w: a.num_clusters == 2
    ),
    "ClusterExecutionsApi.list_cluster_executions": Call(_cluster, lambda a, w: len(a.results) == 1),
    "ClusterExecutionsApi.export_cluster_execution_id_run": Call(lambda w: {**_run(w), "format": "csv"}),
    "ClusterExecutionsApi.patch_execution_labels_clusters_id_run": Call(_first_label),
    "ClusterExecutionsApi.patch_execution_run_name_clusters": Call(
        lambda w: {**_run(w), "patch_execution_run_name_request": {"run_name": "first"}},
        lambda a, w: a.run_name == "first",
    ),
    "ClusterExecutionsApi.cancel_execution_clusters_id_run": Call(_running),
    "AnalyticsClustersApi.get_execution_history_analytics_clusters": Call(lambda w: _cluster(w, hours=24)),
    "AnalyticsClustersApi.get_failure_analysis_analytics_clusters": Call(lambda w: _cluster(w, hours=24)),
}


# ---- triggers


def _scheduled(w: World) -> dict[str, Any]:
    return {
        "action_type": "cluster",
        "action_config": {"cluster_id": _run(w)["cluster_id"]},
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
        "cluster_id": _run(w)["cluster_id"],
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
        lambda a, w: a.cluster_id == _run(w)["cluster_id"],
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
        for _ in range(400):
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
