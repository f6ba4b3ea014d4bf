"""Every generated method of the taxonomy and cluster groups."""

from __future__ import annotations

import time
from typing import Any

from sdk_world import TEXT_URI, Call, World, search_stage


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


def cluster_run(w: World) -> dict[str, Any]:
    def make() -> dict[str, Any]:
        ident = _fresh_cluster(w)
        w.task_ended(w.request("POST", f"/clusters/{ident}/execute", {})["task_id"])
        run = w.request("POST", f"/clusters/{ident}/executions/list", {})["results"][0]
        return {"cluster_id": ident, "run_id": run["run_id"]}

    return dict(w.once("cluster run", make))


def _cluster(w: World, **more: Any) -> dict[str, Any]:
    return {"cluster_id": cluster_run(w)["cluster_id"], **more}


def _running(w: World) -> dict[str, Any]:
    ident = _fresh_cluster(w)
    w.request("POST", f"/clusters/{ident}/execute", {})
    for _ in range(6_000):
        if runs := w.request("POST", f"/clusters/{ident}/executions/list", {})["results"]:
            return {"cluster_id": ident, "run_id": runs[0]["run_id"]}
        time.sleep(0.02)
    raise AssertionError("no run was recorded")


def _first_label(w: World) -> dict[str, Any]:
    groups = w.request("GET", f"/clusters/{cluster_run(w)['cluster_id']}/groups")["groups"]
    return {**cluster_run(w), "patch_execution_labels_request": {"labels": {groups[0]["cluster_id"]: "Crockery"}}}


CLUSTERS: dict[str, Call] = {
    "ClustersApi.create_cluster": Call(
        lambda w: {"create_cluster_request": _grouping(w)},
        lambda a, w: a.cluster_id.startswith("clust_") and a.algorithm == "kmeans",
    ),
    "ClustersApi.get_cluster": Call(
        lambda w: {"cluster_identifier": cluster_run(w)["cluster_id"]},
        lambda a, w: a.cluster_id == cluster_run(w)["cluster_id"],
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
    "ClusterExecutionsApi.get_cluster_execution": Call(_cluster, lambda a, w: a.run_id == cluster_run(w)["run_id"]),
    "ClusterExecutionsApi.get_cluster_execution_by_run": Call(
        lambda w: {**cluster_run(w), "include_vectors": True}, lambda a, w: a.num_clusters == 2
    ),
    "ClusterExecutionsApi.list_cluster_executions": Call(_cluster, lambda a, w: len(a.results) == 1),
    "ClusterExecutionsApi.export_cluster_execution_id_run": Call(lambda w: {**cluster_run(w), "format": "csv"}),
    "ClusterExecutionsApi.patch_execution_labels_clusters_id_run": Call(_first_label),
    "ClusterExecutionsApi.patch_execution_run_name_clusters": Call(
        lambda w: {**cluster_run(w), "patch_execution_run_name_request": {"run_name": "first"}},
        lambda a, w: a.run_name == "first",
    ),
    "ClusterExecutionsApi.cancel_execution_clusters_id_run": Call(_running),
    "AnalyticsClustersApi.get_execution_history_analytics_clusters": Call(lambda w: _cluster(w, hours=24)),
    "AnalyticsClustersApi.get_failure_analysis_analytics_clusters": Call(lambda w: _cluster(w, hours=24)),
}
