"""Clusters through the API: runs, identities, names, files, results in documents, and what goes wrong."""

from __future__ import annotations

import csv
import io
import threading
import time

import pyarrow.parquet as pq
import pytest
from cluster_shop import TOPICS, ClusterShop, planted
from documents_world import URI

from mediatheca.flows.grouping import artifacts


@pytest.fixture
def cluster_shop(home):
    return ClusterShop(home)


def test_planted_groups_are_found_and_named(cluster_shop):
    ident = cluster_shop.create(enrich_source_collection=True)
    before = cluster_shop.call("GET", f"/clusters/{ident}/groups")
    assert (before["groups"], before["total_groups"], before["run_id"]) == ([], 0, None)
    run = cluster_shop.execute(ident)
    assert run["status"] == "completed", run["error_message"]
    assert (run["num_clusters"], run["num_points"]) == (3, 90)
    assert run["metrics"]["silhouette_score"] > 0.8
    assert run["metrics"]["degenerate"] is False
    assert (run["source_documents"], run["vectors_clustered"], run["index_gap"]) == (90, 90, 0)
    assert run["input_reconciliation_ok"] is True
    groups = cluster_shop.groups(ident)
    assert set(groups) == set(TOPICS)
    for topic, group in groups.items():
        assert group["member_count"] == 30
        assert set(group["label"].split(", ")) <= set(TOPICS[topic].split())
        assert topic in group["keywords"]
    assert {group["cluster_id"] for group in groups.values()} == {"cl_0", "cl_1", "cl_2"}
    document = cluster_shop.call("GET", f"/collections/{cluster_shop.collection}/documents/fox3")
    assert document["cluster_id"] == groups["fox"]["cluster_id"]
    assert document["cluster_label"] == groups["fox"]["label"]
    shown = cluster_shop.call("GET", f"/clusters/{ident}")
    assert (shown["status"], shown["num_clusters"], shown["last_run_id"]) == ("COMPLETED", 3, run["run_id"])
    task = cluster_shop.call("GET", f"/tasks/{run['task_id']}")
    assert (task["task_type"], task["status"]) == ("engine_cluster_build", "COMPLETED")
    kinds = [kind for kind, _ in cluster_shop.home.events("cluster.execution.completed")]
    assert kinds == [ident]


def test_a_cluster_that_persists_keeps_its_id_and_its_name(cluster_shop):
    ident = cluster_shop.create(enrich_source_collection=True)
    first = cluster_shop.execute(ident)
    groups = cluster_shop.groups(ident)
    fox = groups["fox"]["cluster_id"]
    path = f"/clusters/{ident}/executions/{first['run_id']}/labels"
    named = cluster_shop.call("PATCH", path, {"labels": {fox: " Foxes "}})
    assert named["label_overrides"] == {fox: "Foxes"}
    cluster_shop.add("fox", range(30, 39))
    cluster_shop.add("whale", range(30, 42))
    second = cluster_shop.execute(ident)
    after = cluster_shop.groups(ident)
    assert {topic: entry["cluster_id"] for topic, entry in after.items()} == {
        topic: entry["cluster_id"] for topic, entry in groups.items()
    }
    assert after["fox"]["label"] == "Foxes"
    assert second["label_overrides"] == {fox: "Foxes"}
    assert second["metrics"]["stability"] == 1.0
    assert second["layout_stability_applied"] == "aligned"
    assert "90 shared documents" in second["layout_stability_reason"]
    document = cluster_shop.call("GET", f"/collections/{cluster_shop.collection}/documents/fox35")
    assert document["cluster_label"] == "Foxes"
    cluster_shop.call("PATCH", path, {"labels": {fox: ""}})
    assert cluster_shop.groups(ident)["fox"]["label"] != "Foxes"
    cluster_shop.call("PATCH", path, {"labels": {"cl_99": "x"}}, status=422)
    cluster_shop.call("PATCH", path, {"labels": {}}, status=422)


def test_an_output_collection_holds_centres_and_members_and_is_rewritten(cluster_shop):
    ident = cluster_shop.create()
    first = cluster_shop.execute(ident)
    output = first["output_collection_ids"][0]
    assert first["generation_reap"][0]["decision"] == "nothing_stale"
    listed = cluster_shop.call("POST", f"/collections/{output}/documents/list", {"limit": 1000})["results"]
    centres = [entry for entry in listed if entry["is_centroid"]]
    members = [entry for entry in listed if not entry["is_centroid"]]
    assert (len(centres), len(members)) == (3, 90)
    assert {entry["size"] for entry in centres} == {30}
    assert all(entry["run_id"] == first["run_id"] and "x" in entry for entry in members)
    filters = {"AND": [{"field": "color", "operator": "ne", "value": "train"}]}
    cluster_shop.call("PATCH", f"/clusters/{ident}", {"filters": filters, "algorithm_params": {"n_clusters": 2}})
    second = cluster_shop.execute(ident)
    assert (second["num_clusters"], second["num_points"]) == (2, 60)
    assert second["generation_reap"][0]["reaped"] == 31
    again = cluster_shop.call("POST", f"/collections/{output}/documents/list", {"limit": 1000})["results"]
    assert {entry["run_id"] for entry in again} == {second["run_id"]}
    assert len(again) == 62
    gone = cluster_shop.call("DELETE", f"/clusters/{ident}")
    assert gone["deleted_collection_ids"] == [output]
    cluster_shop.call("GET", f"/collections/{output}", status=404)


def test_every_file_of_a_run_is_there_as_csv_with_the_labels_of_today(cluster_shop):
    ident = cluster_shop.create(enrich_source_collection=True)
    run = cluster_shop.execute(ident)
    path = f"/clusters/{ident}/executions/{run['run_id']}"
    cluster_shop.call("PATCH", f"{path}/labels", {"labels": {"cl_0": "Zero"}})

    def rows(artifact, **more):
        params = {"format": "csv", "artifact": artifact, **more}
        text = cluster_shop.home.client.get(f"/v1{path}/export", params=params).text
        return list(csv.DictReader(io.StringIO(text)))

    centroids, points = rows("centroids"), rows("coordinates")
    assert {(row["cluster_id"], row["size"]) for row in centroids} == {(f"cl_{n}", "30") for n in range(3)}
    assert [row["cluster_label"] for row in centroids if row["cluster_id"] == "cl_0"] == ["Zero"]
    assert "vector" not in centroids[0]
    assert (len(points), set(points[0]) >= {"document_id", "x", "y", "cluster_label"}) == (90, True)
    assert len(rows("coordinates", cluster_label="Zero")) == len(rows("members", cluster_label="cl_0")) == 30


def test_files_of_a_run_are_parquet_and_go_with_the_cluster(cluster_shop):
    ident = cluster_shop.create(enrich_source_collection=True)
    run = cluster_shop.execute(ident)
    services, scope = cluster_shop.home.world.services, cluster_shop.home.scope
    centroids, members, points = (
        artifacts.read(services.blobs, scope, run["run_id"], name) for name in ("centroids", "members", "coordinates")
    )
    assert (len(centroids), len(members), len(points)) == (3, 90, 90)
    assert artifacts.vectors_of(centroids).shape == (3, 8)
    assert points.column_names == ["document_id", "collection_id", "cluster_id", "x", "y"]
    path = f"/clusters/{ident}/executions/{run['run_id']}"
    exported = cluster_shop.call("GET", f"{path}/export", artifact="centroids")
    answer = cluster_shop.home.client.get(exported["url"].removeprefix("http://testserver"))
    assert pq.read_table(io.BytesIO(answer.content)).num_rows == 3
    text = cluster_shop.home.client.get(f"/v1{path}/export", params={"format": "csv", "cluster_label": "cl_0"}).text
    assert len(text.splitlines()) == 31
    cluster_shop.call("GET", f"{path}/export", status=404, format="csv", cluster_label="cl_77")
    cluster_shop.call("GET", f"{path}/export", status=422, cluster_label="cl_0")
    plot = cluster_shop.call("GET", f"/clusters/{ident}/visualization", max_points=12)
    assert (plot["total_points"], plot["returned_points"], plot["sampled"]) == (90, 12, True)
    assert {entry["cluster_id"] for entry in plot["points"]} == {"cl_0", "cl_1", "cl_2"}
    compact = cluster_shop.call("GET", f"/clusters/{ident}/visualization", compact="true")
    assert len(compact["points"]["x"]) == len(compact["points"]["document_ids"]) == 90
    only = cluster_shop.call("GET", f"/clusters/{ident}/visualization", centroids_only="true")
    assert (len(only["centroids"]), only["points"]) == (3, [])
    assert cluster_shop.call("POST", f"/clusters/{ident}/data", {})["total_members"] == 90
    with_vectors = cluster_shop.call("GET", f"/clusters/{ident}/executions", include_vectors="true")
    assert len(with_vectors["centroids"][0]["centroid_vector"]) == 8
    cluster_shop.call("DELETE", f"/clusters/{ident}")
    assert list(services.blobs.list(artifacts.folder(scope, run["run_id"]))) == []
    cluster_shop.call("GET", path, status=404)


def test_documents_join_an_earlier_run(cluster_shop):
    ident = cluster_shop.create(enrich_source_collection=True)
    cluster_shop.call("POST", f"/clusters/{ident}/execute", {"mode": "assign"}, status=409)
    cluster_shop.execute(ident)
    groups = cluster_shop.groups(ident)
    cluster_shop.add("fox", range(30, 34))
    run = cluster_shop.execute(ident, mode="assign")
    assert (run["status"], run["mode"], run["num_points"]) == ("completed", "assign", 94)
    after = cluster_shop.groups(ident)
    assert after["fox"]["member_count"] == 34
    assert {t: (e["cluster_id"], e["label"]) for t, e in after.items()} == {
        t: (e["cluster_id"], e["label"]) for t, e in groups.items()
    }
    document = cluster_shop.call("GET", f"/collections/{cluster_shop.collection}/documents/fox33")
    assert document["cluster_id"] == groups["fox"]["cluster_id"]


def test_new_documents_join_by_themselves_between_runs(cluster_shop):
    ident = cluster_shop.create(enrich_source_collection=True)
    cluster_shop.execute(ident)
    fox = cluster_shop.groups(ident)["fox"]["cluster_id"]
    made = planted(cluster_shop.collection, "fox", [77])[0]
    vectors = {name: vector.tolist() for name, vector in made.vectors.items()}
    path = f"/collections/{cluster_shop.collection}/documents"
    cluster_shop.call("POST", path, {"document_id": "new", **made.payload, "vectors": vectors})
    deadline = time.monotonic() + 240
    while (found := cluster_shop.call("GET", f"{path}/new")).get("cluster_id") is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert found["cluster_id"] == fox
    assert cluster_shop.groups(ident)["fox"]["member_count"] == 31
    cluster_shop.call("DELETE", f"{path}/fox1")
    assert cluster_shop.call("GET", f"/clusters/{ident}/groups")["member_counts_stale"] is True


def test_a_run_is_started_by_itself_when_enough_documents_came(cluster_shop):
    automatic = {"auto_execute_on_batch": True, "auto_execute_min_documents": 91, "enrich_source_collection": True}
    ident = cluster_shop.create(**automatic)
    path = f"/collections/{cluster_shop.collection}/documents"
    made = planted(cluster_shop.collection, "fox", [77])[0]
    vectors = {name: vector.tolist() for name, vector in made.vectors.items()}
    cluster_shop.call("POST", path, {"document_id": "new", **made.payload, "vectors": vectors})
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        found = cluster_shop.call("POST", f"/clusters/{ident}/executions/list", {})["results"]
        if found:
            break
        time.sleep(0.1)
    assert found[0]["automatic"] is True
    assert cluster_shop.ended(ident, found[0]["run_id"])["num_points"] == 91


def test_results_are_written_onto_documents_when_that_is_asked_for_later(cluster_shop):
    ident = cluster_shop.create()
    asked = {"clustering_ids": [ident], "source_collection_id": cluster_shop.collection}
    cluster_shop.call("POST", "/clusters/enrich", asked, status=409)
    cluster_shop.execute(ident)
    done = cluster_shop.call("POST", "/clusters/enrich", asked)
    assert done == {"processed": 90, "enriched": 90, "failed": 0, "batches": 1}
    document = cluster_shop.call("GET", f"/collections/{cluster_shop.collection}/documents/whale2")
    assert document["cluster_id"] == cluster_shop.groups(ident)["whale"]["cluster_id"]
    cluster_shop.call("POST", "/clusters/enrich", {**asked, "target_collection_id": "other"}, status=403)


def test_all_mapped_fields_are_written(cluster_shop):
    fields = (
        "cluster_id",
        "cluster_label",
        "distance_to_centroid",
        "member_count",
        "keywords",
        "probability",
        "x",
        "y",
    )
    mappings = [{"source_field": name, "target_field": f"group.{name}"} for name in fields]
    ident = cluster_shop.create(
        enrich_source_collection=True, source_enrichment_config={"field_mappings": mappings}, description="all of it"
    )
    run = cluster_shop.execute(ident)
    assert run["enriched"] == {"written": 90, "unchanged": 0, "gone": 0}
    document = cluster_shop.call("GET", f"/collections/{cluster_shop.collection}/documents/fox3")
    assert set(document["group"]) == set(fields)
    assert document["group"]["member_count"] == 30
    assert 0 <= document["group"]["distance_to_centroid"] < 0.1


def test_a_deferred_layout_follows(cluster_shop):
    ident = cluster_shop.create(enrich_source_collection=True)
    cluster_shop.execute(ident, defer_visualization=True)
    deadline = time.monotonic() + 240
    while not (plot := cluster_shop.call("GET", f"/clusters/{ident}/visualization"))["points"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert (len(plot["points"]), plot["layout_stability_reason"]) == (90, "there is no earlier run")
    again = cluster_shop.execute(ident, layout_stability="transform", vis_n_components=2)
    assert again["layout_stability_applied"] == "transform"
    moved = cluster_shop.call("GET", f"/clusters/{ident}/visualization")
    places = {entry["document_id"]: (entry["x"], entry["y"]) for entry in plot["points"]}
    for entry in moved["points"]:
        assert (entry["x"], entry["y"]) == pytest.approx(places[entry["document_id"]], abs=1e-3)


def test_a_deferred_layout_is_shown_once_the_run_tells_of_it(cluster_shop, monkeypatch):
    ident = cluster_shop.create(enrich_source_collection=True)
    written, looked = threading.Event(), threading.Event()
    write = artifacts.write

    def write_and_wait(blobs, scope, run_id, name, table):
        write(blobs, scope, run_id, name, table)
        if name == "coordinates":
            written.set()
            assert looked.wait(240)

    monkeypatch.setattr(artifacts, "write", write_and_wait)
    try:
        run = cluster_shop.execute(ident, defer_visualization=True)
        assert written.wait(240)
        plot = cluster_shop.call("GET", f"/clusters/{ident}/visualization")
        assert (plot["points"], plot["layout_stability_reason"]) == ([], artifacts.DEFERRED)
        path = f"/clusters/{ident}/executions/{run['run_id']}/export"
        cluster_shop.call("GET", path, status=404, artifact="coordinates")
    finally:
        looked.set()


def test_a_sample_is_clustered_and_the_rest_joins(cluster_shop):
    ident = cluster_shop.create(vector_config={"sample_size": 45}, enrich_source_collection=True)
    run = cluster_shop.execute(ident)
    assert run["status"] == "completed", run["error_message"]
    assert 30 <= run["num_points"] <= 46
    assert run["vectors_clustered"] == 90
    assert any("sample" in reason for reason in run["input_reconciliation_reasons"])
    assert all(group["member_count"] == 30 for group in cluster_shop.groups(ident).values())


def test_groups_of_attributes_nest(cluster_shop):
    cluster_shop.home.derive(
        cluster_shop.collection,
        [
            d
            for size in ("big", "small")
            for d in planted(cluster_shop.collection, "fox", range(4), prefix=size, size=size)
        ],
    )
    config = {"attributes": ["color", "size"], "hierarchical_grouping": True}
    body = {"collection_ids": [cluster_shop.collection], "cluster_type": "attribute", "attribute_config": config}
    ident = cluster_shop.call("POST", "/clusters", {**body, "cluster_name": "shelves"})["cluster_id"]
    run = cluster_shop.execute(ident)
    assert run["status"] == "completed", run["error_message"]
    found = cluster_shop.call("GET", f"/clusters/{ident}/groups")
    labels = {entry["label"]: entry for entry in found["groups"]}
    assert labels["fox"]["member_count"] == 8
    assert labels["fox > big"]["member_count"] == 4
    assert labels["fox > big"]["parent_id"] == labels["fox"]["cluster_id"]
    assert found["total_documents"] == 8
    assert found["noise_documents"] == 90
    again = cluster_shop.execute("shelves")
    assert [c["cluster_id"] for c in again["centroids"]] == [c["cluster_id"] for c in run["centroids"]]
    plot = cluster_shop.call("GET", f"/clusters/{ident}/visualization")
    assert (plot["points"], plot["dimensions"]) == ([], 0)


def test_a_run_can_be_cancelled(cluster_shop, monkeypatch):
    ident, go = cluster_shop.create(), threading.Event()
    write = artifacts.write

    def write_late(*args):
        assert go.wait(240)
        write(*args)

    monkeypatch.setattr(artifacts, "write", write_late)  # else a run may have completed before it is cancelled
    try:
        task = cluster_shop.call("POST", f"/clusters/{ident}/execute")
        again = cluster_shop.call("POST", f"/clusters/{ident}/execute")
        assert again["task_id"] == task["task_id"]
        assert "warnings" not in again
        other = cluster_shop.call("POST", f"/clusters/{ident}/execute", {"sample_size": 10})
        assert other["task_id"] == task["task_id"]
        assert other["warnings"] == [
            "a run with other settings goes on, and this is its task; execute again when it has ended"
        ]
        run_id = task["additional_data"]["run_id"]
        cancelled = cluster_shop.call("POST", f"/clusters/{ident}/executions/{run_id}/cancel")
        assert cancelled["status"] == "canceled"
        assert cluster_shop.call("GET", f"/tasks/{task['task_id']}")["status"] == "CANCELED"
        other = cluster_shop.call("POST", f"/clusters/{ident}/execute")
        assert other["task_id"] != task["task_id"]
        cluster_shop.call("DELETE", f"/tasks/{other['task_id']}")
        assert cluster_shop.ended(ident, other["additional_data"]["run_id"])["status"] == "canceled"
    finally:
        go.set()
    assert cluster_shop.execute(ident)["status"] == "completed"


def test_what_cannot_be_clustered_fails_with_the_reason(home):
    shop = ClusterShop(home, each=0)
    ident = shop.create()
    run = shop.execute(ident)
    assert run["status"] == "failed"
    assert "at least 2" in run["error_message"]
    assert run["failure_category"] == "validation"
    shop.add("fox", [1])
    assert "1 of 1 documents" in shop.execute(ident)["error_message"]
    shown = shop.call("GET", f"/clusters/{ident}")
    assert (shown["status"], shown["failure_category"]) == ("FAILED", "validation")
    history = shop.call("GET", f"/analytics/clusters/{ident}/failures")
    assert history["total_failures"] == 2
    assert history["failures"][0]["error_type"] == "validation"
    listed = shop.call("GET", f"/analytics/clusters/{ident}/execution-history")
    assert [entry["status"] for entry in listed["results"]] == ["failed", "failed"]
    assert len(home.events("cluster.execution.failed")) == 2


def test_a_collection_that_is_gone_fails_the_run(cluster_shop):
    ident = cluster_shop.create()
    cluster_shop.call("DELETE", f"/collections/{cluster_shop.collection}")
    run = cluster_shop.execute(ident)
    assert run["status"] == "failed"
    assert "not found" in run["error_message"]
    assert "other collections" in run["error_message"]


@pytest.mark.parametrize(
    ("fields", "place", "status"),
    [
        ({"collection_ids": []}, "collection_ids", 422),
        ({"collection_ids": ["nowhere"]}, "", 404),
        ({"vector_config": {"clustering_method": "evoc"}}, "", 403),
        ({"vector_config": {"clustering_method": "magic"}}, "vector_config.clustering_method", 422),
        ({"vector_config": {"clustering_method": "attribute_based"}}, "vector_config.clustering_method", 422),
        ({"vector_config": {"feature_uris": ["mixpeek://no@v1/x"]}}, "vector_config.feature_uris.0", 422),
        ({"vector_config": {"algorithm_params": {"n_clusters": 1}, "clustering_method": "kmeans"}},
         "vector_config.algorithm_params.n_clusters", 422),
        ({"vector_config": {"sample_size": 1}}, "vector_config.sample_size", 422),
        ({"vector_config": {"clustering_method": "spectral", "sample_size": 90_000}}, "vector_config.sample_size", 422),
        ({"vector_config": {"multi_feature_strategy": "independent"}}, "", 403),
        ({"vector_config": {"hierarchical": True}}, "", 403),
        ({"vector_config": {"weight_learning_config": {"method": "bayesian"}}}, "", 403),
        ({"vector_config": {"feature_weights": {"x": 1}}}, "vector_config.feature_weights.x", 422),
        ({"cluster_type": "attribute"}, "attribute_config", 422),
        ({"cluster_type": "attribute", "attribute_config": {"attributes": []}}, "attribute_config.attributes", 422),
        ({"source_cluster_ids": ["clust_1"]}, "", 403),
        ({"filters": {"AND": [{"field": "x", "operator": "zz"}]}}, "filters", 422),
        ({"llm_labeling": {"enabled": True, "max_samples": 99}}, "llm_labeling.max_samples", 422),
        ({"source_enrichment_config": {"field_mappings": [{"source_field": "secret", "target_field": "y"}]}},
         "source_enrichment_config.field_mappings.0.source_field", 422),
        ({"source_enrichment_config": {"field_mappings": [{"source_field": "x", "target_field": "_internal.y"}]}},
         "source_enrichment_config.field_mappings.0.target_field", 422),
    ],
)  # fmt: skip
def test_wrong_clusters_are_refused(home, fields, place, status):
    body = {"collection_ids": [home.collection("things")], **fields}
    error = home.call("POST", "/clusters", body, status=status)["error"]
    if place:
        places = [".".join(map(str, entry["loc"])) for entry in error["details"]["errors"]]
        assert any(place in found for found in places), places


def test_every_spelling_of_the_wire_is_understood(home):
    collection = home.collection("things")
    langchain = home.call(
        "POST", "/clusters",
        {"cluster_type": "vector", "collection_ids": [collection],
         "vector_config": {"algorithm": "kmeans", "algorithm_params": {"n_clusters": 5}}},
    )  # fmt: skip
    assert langchain["cluster_name"]
    assert langchain["cluster_id"].removeprefix("clust_").isalnum()
    assert (langchain["algorithm"], langchain["algorithm_params"]["n_clusters"]) == ("kmeans", 5)
    assert langchain["feature_uris"] == [URI]
    wizard = home.call(
        "POST", "/clusters",
        {"cluster_name": "groups", "collection_ids": [collection], "cluster_type": "vector",
         "vector_config": {"feature_uris": [URI], "clustering_method": "hdbscan"},
         "llm_labeling": {"enabled": True, "provider": "openai", "model_name": "gpt-4o-mini"},
         "enrich_source_collection": True},
    )  # fmt: skip
    assert "model_name" not in wizard["llm_labeling"]
    assert wizard["metadata"]["llm_model_name"] == "gpt-4o-mini"
    assert "no language model is configured" in wizard["warnings"][0]
    assert home.call("GET", "/clusters/groups")["cluster_id"] == wizard["cluster_id"]
    assert home.call("POST", "/clusters/list", {})["total_count"] == 2
    assert len(home.call("GET", "/clusters")["results"]) == 2
    nulls = {"collection_ids": [collection], "filters": None, "llm_labeling": None, "vector_config": {
        "clustering_method": "dbscan", "dbscan_parameters": {"eps": 0.2, "metric_params": None}, "sample_size": None,
        "face_cluster_merge": None, "hierarchical": False}}  # fmt: skip
    assert home.call("POST", "/clusters", nulls)["algorithm_params"]["eps"] == 0.2


def test_clusters_of_others_are_not_found(cluster_shop, world):
    ident = cluster_shop.create()
    run_id = cluster_shop.execute(ident)["run_id"]
    stranger = world.tenant()
    for path in (
        "", "/groups", "/executions", f"/executions/{run_id}", f"/executions/{run_id}/export", "/visualization",
    ):  # fmt: skip
        stranger.call("GET", f"/clusters/{ident}{path}", status=404)
    stranger.call("POST", f"/clusters/{ident}/execute", {}, status=404)
    stranger.call("POST", f"/clusters/{ident}/executions/{run_id}/cancel", {}, status=404)
    stranger.call("PATCH", f"/clusters/{ident}/executions/{run_id}/labels", {"labels": {"cl_0": "x"}}, status=404)
    stranger.call("DELETE", f"/clusters/{ident}", status=404)
    stranger.call("POST", "/clusters", {"collection_ids": [cluster_shop.collection]}, status=404)


def test_a_cluster_that_is_applied_is_not_deleted_by_accident(cluster_shop):
    ident = cluster_shop.create()
    with cluster_shop.home.world.db.begin(cluster_shop.home.scope) as tx:
        record = tx.get("collection", cluster_shop.collection)
        tx.change(record, {**record.body, "cluster_applications": [{"cluster_id": ident}]})
    cluster_shop.call("DELETE", f"/clusters/{ident}", status=409)
    cluster_shop.call("DELETE", f"/clusters/{ident}", force="true")
