"""What clients with generated, strict classes read of clusters."""

from __future__ import annotations

import pytest
from cluster_shop import ClusterShop
from mixpeek.models.cluster_execution_result import ClusterExecutionResult
from mixpeek.models.cluster_groups_response import ClusterGroupsResponse
from mixpeek.models.cluster_metadata import ClusterMetadata
from mixpeek.models.create_cluster_request import CreateClusterRequest
from mixpeek.models.execute_cluster_by_id_request import ExecuteClusterByIdRequest
from mixpeek.models.execution_history_response import ExecutionHistoryResponse
from mixpeek.models.list_cluster_executions_response import ListClusterExecutionsResponse
from mixpeek.models.list_clusters_response import ListClustersResponse
from mixpeek.models.patch_execution_labels_response import PatchExecutionLabelsResponse
from mixpeek.models.patch_execution_run_name_response import PatchExecutionRunNameResponse
from mixpeek.models.task_response import TaskResponse


@pytest.fixture
def cluster_shop(home):
    return ClusterShop(home, each=20)


def test_generated_classes_read_every_answer(cluster_shop):
    call = cluster_shop.call
    asked = CreateClusterRequest.from_dict(
        {
            "collection_ids": [cluster_shop.collection],
            "vector_config": {"clustering_method": "kmeans", "kmeans_parameters": {"n_clusters": 3}},
            "llm_labeling": {"enabled": False, "provider": "openai", "model_name": "gpt-4o-mini-2024-07-18"},
            "enrich_source_collection": True,
        }
    )
    made = ClusterMetadata.from_dict(call("POST", "/clusters", asked.to_dict()))
    assert made.algorithm == "kmeans"
    ident = made.cluster_id
    before = ClusterGroupsResponse.from_dict(call("GET", f"/clusters/{ident}/groups"))
    assert before.groups == []
    request = ExecuteClusterByIdRequest.from_dict({"mode": "full"}).to_dict()
    task = TaskResponse.from_dict(call("POST", f"/clusters/{ident}/execute", request))
    assert task.task_type == "engine_cluster_build"
    run_id = task.additional_data["run_id"]
    waiting = ClusterExecutionResult.from_dict(call("GET", f"/clusters/{ident}/executions/{run_id}"))
    assert waiting.status in ("pending", "processing", "completed")
    done = ClusterExecutionResult.from_dict(cluster_shop.ended(ident, run_id))
    assert done.num_clusters == 3
    assert done.metrics.silhouette_score > 0.5
    whole = call("GET", f"/clusters/{ident}/executions", include_vectors="true")
    assert len(ClusterExecutionResult.from_dict(whole).centroids[0].centroid_vector) == 8
    groups = ClusterGroupsResponse.from_dict(call("GET", f"/clusters/{ident}/groups"))
    assert sorted(group.member_count for group in groups.groups) == [20, 20, 20]
    assert ClusterMetadata.from_dict(call("GET", f"/clusters/{ident}")).status == "COMPLETED"
    assert ListClustersResponse.from_dict(call("POST", "/clusters/list", {})).total_count == 1
    assert ListClustersResponse.from_dict(call("GET", "/clusters")).total_count == 1
    runs = ListClusterExecutionsResponse.from_dict(call("POST", f"/clusters/{ident}/executions/list", {}))
    assert runs.stats.total_executions == 1
    path = f"/clusters/{ident}/executions/{run_id}"
    labels = PatchExecutionLabelsResponse.from_dict(call("PATCH", f"{path}/labels", {"labels": {"cl_0": "First"}}))
    assert labels.label_overrides == {"cl_0": "First"}
    name = PatchExecutionRunNameResponse.from_dict(call("PATCH", f"{path}/name", {"run_name": " July "}))
    assert name.run_name == "July"
    assert ClusterExecutionResult.from_dict(call("GET", path)).run_name == "July"
    shown = ExecutionHistoryResponse.from_dict(call("GET", f"/analytics/clusters/{ident}/execution-history"))
    assert shown.results[0].algorithm == "kmeans"
    failed = cluster_shop.create(params={"n_clusters": 2}, filters={"color": "nothing"})
    run = ClusterExecutionResult.from_dict(cluster_shop.execute(failed))
    assert run.status == "failed"
    assert ClusterMetadata.from_dict(call("GET", f"/clusters/{failed}")).failure_category == "validation"
