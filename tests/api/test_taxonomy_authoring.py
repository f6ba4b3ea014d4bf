"""Taxonomies from examples, hierarchies that are inferred, and what the analytics tell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from documents_world import Tenant as Home
from taxonomy_world import RAW, Labels, planted


@pytest.fixture
def labels(home: Home) -> Labels:
    return Labels(home)


def points(labels: Labels, name: str, vectors: Any, **fields: Any) -> str:
    """A collection of documents `p0`, `p1`, … with vectors of the caller's own."""
    ident = labels.collection(name, index=RAW, inputs={})
    rows = []
    for number, vector in enumerate(vectors):
        own = {key: values[number] for key, values in fields.items()}
        rows.append({"document_id": f"p{number}", **own, "vectors": {RAW.name: np.asarray(vector).tolist()}})
    labels.write(ident, rows)
    return ident


def from_documents(labels: Labels, collection: str, ids: list[str], **more: Any) -> dict[str, Any]:
    refs = [{"collection_id": collection, "document_id": ident} for ident in ids]
    body = {"taxonomy_name": "made", "node_label": "first", "documents": refs, **more}
    found: dict[str, Any] = labels.call("POST", "/taxonomies/from-documents", body)
    return found


def test_planted_labels_are_recovered_from_examples(labels: Labels) -> None:
    centres, vectors, chosen = planted(6, 240)
    things = points(labels, "things", vectors)
    made: dict[str, Any] = {}
    for label in range(len(centres)):
        ids = [f"p{n}" for n, own in enumerate(chosen) if own == label][:12]
        refs = [{"collection_id": things, "document_id": ident} for ident in ids]
        if not made:
            made = from_documents(labels, things, ids, node_label="label 0")
            continue
        body = {"node_label": f"label {label}", "documents": refs}
        labels.call("POST", f"/taxonomies/{made['taxonomy_id']}/nodes/from-documents", body)
    assert made["taxonomy_created"] is True
    assert (made["vector_name"], made["vector_dimensions"], made["documents_used"]) == (RAW.name, 16, 12)
    assert labels.call("GET", f"/taxonomies/{made['taxonomy_id']}")["works_as"]["mode"] == "join"
    labels.attach(things, made["taxonomy_id"])
    task = labels.apply(things, made["taxonomy_id"])
    assert task["outputs"][0]["enriched"] == 240
    found = labels.documents(things)
    right = sum(found[f"p{n}"]["made_label"] == f"label {own}" for n, own in enumerate(chosen))
    assert right >= 238


def test_bulk_and_the_retriever_itself_give_the_same_labels(labels: Labels) -> None:
    centres, vectors, _ = planted(9, 120, seed=3)
    things = points(labels, "things", vectors)
    side = points(labels, "side", centres, label=[f"label {n}" for n in range(len(centres))])
    search = {"feature_uri": RAW.feature_uri, "query": {"input_mode": "vector", "value": "{{INPUT.v}}"}, "top_k": 5}
    stage = {"stage_id": "feature_search", "parameters": {"searches": [search]}}
    body = {"retriever_name": "raw", "collection_identifiers": [side], "stages": [stage]}
    retriever = labels.call("POST", "/retrievers", body)["retriever_id"]
    made = labels.flat(
        retriever_id=retriever, collection_id=side,
        input_mappings=[{"input_key": "v", "source_type": "vector", "path": RAW.name}],
    )  # fmt: skip
    assert made["works_as"] == {
        "mode": "join", "reason": made["works_as"]["reason"], "stored_vectors": sorted([things, side])
    }  # fmt: skip
    labels.attach(things, made["taxonomy_id"])
    labels.apply(things, made["taxonomy_id"])
    for ident, document in labels.documents(things).items():
        asked = {"inputs": {"v": vectors[int(ident[1:])].tolist()}}
        best = labels.call("POST", f"/retrievers/{retriever}/execute", asked)["documents"][0]
        assert labels.said(document, made["taxonomy_id"]) == best["label"]
        assert labels.said(document, made["taxonomy_id"], "score") == pytest.approx(best["score"], abs=1e-5)


def test_examples_that_are_gone_are_left_out_and_told(labels: Labels) -> None:
    _, vectors, _ = planted(2, 4)
    things = points(labels, "things", vectors)
    made = from_documents(labels, things, ["p0", "p1", "gone"])
    assert made["documents_used"] == 2
    assert [entry["document_id"] for entry in made["documents_skipped"]] == ["gone"]
    refs = [{"collection_id": "nowhere", "document_id": "p0"}]
    body = {"taxonomy_name": "other", "node_label": "x", "documents": refs}
    assert "no such collection" in labels.call("POST", "/taxonomies/from-documents", body, 400)["error"]["message"]
    assert labels.call("GET", "/taxonomies")["total_count"] == 1


@pytest.mark.parametrize(
    "body",
    [
        {"taxonomy_name": "a"},
        {"taxonomy_name": "a", "documents": [{"collection_id": "c", "document_id": "d"}]},
        {"taxonomy_name": "a", "node_label": "x", "documents": [{"collection_id": "c", "document_id": "d"}] * 201},
        {
            "taxonomy_name": "a",
            "node_label": "x",
            "documents": [{"collection_id": "c", "document_id": "d"}],
            "cluster_run": {"cluster_id": "c", "run_id": "r"},
        },
    ],
)
def test_a_taxonomy_is_made_of_documents_or_of_a_run(labels: Labels, body: dict[str, Any]) -> None:
    labels.call("POST", "/taxonomies/from-documents", body, 422)


def test_a_taken_name_leaves_nothing_behind(labels: Labels) -> None:
    _, vectors, _ = planted(2, 4)
    things = points(labels, "things", vectors)
    from_documents(labels, things, ["p0"])
    refs = [{"collection_id": things, "document_id": "p0"}]
    body = {"taxonomy_name": "made", "node_label": "x", "documents": refs}
    labels.call("POST", "/taxonomies/from-documents", body, 409)
    assert labels.call("GET", "/collections")["total_count"] == 2


# ---- hierarchies that are inferred


def inferred(labels: Labels, strategy: str, collections: list[str], retriever: str, **more: Any) -> dict[str, Any]:
    """Creates, waits, and gives the taxonomy."""
    config = {
        "taxonomy_type": "hierarchical",
        "retriever_id": retriever,
        "input_mappings": [{"input_key": "query", "path": "text"}],
        "inference_strategy": strategy,
        "inference_collections": collections,
        **more,
    }
    made = labels.call("POST", "/taxonomies", {"taxonomy_name": "inferred", "config": config})
    assert made["inference"]["task_id"]
    labels.ended(made["inference"]["task_id"])
    found: dict[str, Any] = labels.call("GET", f"/taxonomies/{made['taxonomy_id']}")
    return found


def test_schemas_decide_who_stands_below_whom(labels: Labels) -> None:
    people = labels.collection("people", fields={"text": "string", "name": "string"})
    staff = labels.collection("staff", fields={"text": "string", "name": "string", "team": "string"})
    heads = labels.collection(
        "heads", fields={"text": "string", "name": "string", "team": "string", "reports": "integer"}
    )
    retriever = labels.retriever(people, staff, heads)
    made = inferred(labels, "schema", ["people", staff, heads], retriever)
    assert made["ready"] is True
    assert {node["node_id"]: node["parent_id"] for node in made["nodes"]} == {people: None, staff: people, heads: staff}
    assert made["config"]["inference_strategy"] == "schema"
    assert labels.call("GET", f"/taxonomies/{made['taxonomy_id']}", version=1)["ready"] is True


def test_what_is_said_explicitly_wins_over_what_is_inferred(labels: Labels) -> None:
    people = labels.collection("people", fields={"text": "string"})
    staff = labels.collection("staff", fields={"text": "string", "team": "string"})
    heads = labels.collection("heads", fields={"text": "string", "team": "string", "reports": "integer"})
    nodes = [{"collection_id": heads, "parent_collection_id": people, "label": "Heads"}]
    made = inferred(
        labels, "schema", [people, staff, heads], labels.retriever(people, staff, heads), hierarchical_nodes=nodes
    )
    shown = {node["node_id"]: node for node in made["nodes"]}
    assert (shown[heads]["parent_id"], shown[heads]["label"]) == (people, "Heads")


def test_an_inference_that_cannot_be_used_is_told_and_use_is_refused(labels: Labels) -> None:
    people = labels.collection("people", fields={"text": "string"})
    staff = labels.collection("staff", fields={"text": "string", "team": "string"})
    made = inferred(labels, "schema", [people, staff], labels.retriever(staff))
    assert (made["ready"], made["status"]) == (False, "failed")
    assert "does not search" in made["inference"]["error"]
    path = f"/taxonomies/{made['taxonomy_id']}"
    message = labels.call("POST", f"{path}/execute", {"source_documents": [{"text": "x"}]}, 409)["error"]["message"]
    assert "not ready" in message
    labels.call("POST", f"{path}/clone", {"taxonomy_name": "copy"}, 409)


def test_without_a_language_model_asking_one_is_refused_at_once(labels: Labels) -> None:
    people, staff = labels.collection("people"), labels.collection("staff")
    config = {
        "taxonomy_type": "hierarchical",
        "retriever_id": labels.retriever(people, staff),
        "input_mappings": [{"input_key": "query", "path": "text"}],
        "inference_strategy": "llm",
        "inference_collections": [people, staff],
    }
    error = labels.call("POST", "/taxonomies", {"taxonomy_name": "asked", "config": config}, 503)["error"]
    assert "language model" in error["message"]


# ---- analytics


def applied(labels: Labels) -> tuple[str, dict[str, Any]]:
    side = labels.labels(fox="fox fox", whale="whale whale")
    steps = {
        "timestamp_field": "at",
        "sequence_id_field": "thread",
        "covariates": [{"field_path": "who", "name": "who"}],
    }
    made = labels.flat(
        retriever_id=labels.retriever(side), collection_id=side, enrichment_fields=[], step_analytics=steps
    )
    things = labels.collection("things")
    rows: dict[str, Any] = {}
    for thread, texts in {"t1": ["fox", "whale"], "t2": ["fox", "fox", "whale"], "t3": ["fox"]}.items():
        for number, text in enumerate(texts):
            at = f"2026-01-0{number + 1}T00:00:00Z"
            rows[f"{thread}-{number}"] = {
                "text": text,
                "thread": thread,
                "at": at,
                "who": "a" if thread < "t3" else "b",
            }
    rows["loose"] = {"text": "whale"}
    labels.texts(things, rows)
    labels.attach(things, made["taxonomy_id"])
    labels.apply(things, made["taxonomy_id"])
    return things, made


def test_labels_scores_coverage_and_drift_are_told(labels: Labels) -> None:
    things, made = applied(labels)
    path = f"/analytics/taxonomies/{made['taxonomy_id']}"
    told = labels.call("GET", f"{path}/labels")
    assert [(entry["label"], entry["count"]) for entry in told["labels"]] == [("fox", 4), ("whale", 3)]
    assert (told["total_labels"], told["total_assignments"], told["truncated"]) == (2, 7, False)
    one = labels.call("GET", f"{path}/labels", limit=1)
    assert (one["labels_returned"], one["truncated"]) == (1, True)
    sure = labels.call("GET", f"{path}/confidence")
    assert sum(entry["count"] for entry in sure["distribution"]) == 7
    assert 0.5 < sure["avg_confidence"] <= 1.001
    summary = labels.call("GET", f"{path}/assignments", days=1)["summary"]
    assert summary["coverage"] == [
        {"collection_id": things, "documents": 7, "labelled": 7, "evaluated": 7, "coverage": 1.0}
    ]
    assert summary["drift"]["drifted"] is False
    [bucket] = labels.call("GET", f"{path}/enrichments")["metrics"]
    assert (bucket["enrichment_count"], bucket["success_rate"]) == (7, 1.0)
    labels.apply(things, made["taxonomy_id"])
    assert labels.call("GET", f"{path}/labels")["total_assignments"] == 7  # nothing was evaluated again
    labels.call("GET", f"{path}/labels", status=422, start="yesterday")
    labels.call("GET", f"{path}/labels", status=422, group_by="minute")


def test_steps_transitions_and_paths_follow_the_labels_over_time(labels: Labels) -> None:
    things, made = applied(labels)
    path = f"/taxonomies/{made['taxonomy_id']}/analytics"
    steps = labels.call("GET", f"{path}/available-steps", collection_id=things)
    assert (steps["total_events"], steps["total_sequences"], steps["documents_without_step"]) == (6, 3, 1)
    assert [(s["step_key"], s["event_count"], s["sequence_count"]) for s in steps["steps"]] == [
        ("fox", 4, 3), ("whale", 2, 2)
    ]  # fmt: skip
    body = {"collection_id": things, "taxonomy_id": made["taxonomy_id"], "from_step": "fox", "to_step": "whale"}
    found = labels.call("POST", f"{path}/transitions", {**body, "min_support": 1})
    assert (found["count"], found["converted"]) == (3, 2)
    assert found["durations_sec"]["median"] == 1.5 * 86_400
    lifts = {entry["value"]: entry["lift"] for entry in found["top_predictors"]}
    assert lifts == {"a": pytest.approx(1.5), "b": 0.0}
    ways = labels.call("POST", f"{path}/paths", {**body, "min_support": 1})
    assert [(way["path"], way["count"]) for way in ways["paths"]] == [(["fox", "whale"], 2)]
    assert ways["drop_off"] == [{"step_key": "fox", "count": 1}]
    short = labels.call("POST", f"{path}/transitions", {**body, "max_window_days": 1})
    assert short["converted"] == 1
    runs = labels.call("GET", f"{path}/runs")
    assert runs["total"] == 3
    first = runs["runs"][-1]
    again = labels.call("POST", f"{path}/runs/{first['run_id']}/rerun")
    assert again["converted"] == 2
    assert labels.call("GET", f"{path}/runs/{first['run_id']}")["run_count"] == 2
    labels.call("GET", f"{path}/runs/none", status=404)
    labels.call("POST", f"{path}/transitions", {"collection_id": things, "from_step": "fox"}, 422)


# ---- what other parts of the warehouse give: a language model, clusters


def test_a_language_model_proposes_the_hierarchy(tmp_path: Any) -> None:
    import orjson
    from fastapi.testclient import TestClient

    from language_server import KEY, LanguageServer
    from mediatheca.app import build
    from mediatheca.flows.tenancy import create_organization
    from mediatheca.kernel.scope import Scope
    from mediatheca.settings import Settings

    answers: list[str] = []
    with LanguageServer([lambda asked: answers[0]]) as server:
        settings = Settings(
            data_dir=tmp_path, workers=0, plugins="documents_plugins", log_level="error",
            language_url=f"{server.url}/v1", language_key=KEY, language_model="test-model",
        )  # fmt: skip
        app = build(settings)
        app.start()
        try:
            ident, key = create_organization(app.services.db, "asking", "asking@example.org")
            client = TestClient(app.asgi, headers={"Authorization": f"Bearer {key}"})
            namespace = client.post("/v1/namespaces", json={"namespace_name": "shop"}).json()["namespace_id"]
            client.headers["X-Namespace"] = namespace
            home = Home(_Around(app), client, Scope(ident, namespace), "system")  # type: ignore[arg-type]
            labels = Labels(home)
            people, staff = labels.collection("people"), labels.collection("staff")
            labels.texts(staff, {"s": "Ann leads the team"})
            nodes = [
                {"collection_id": people, "parent_collection_id": None, "label": "People"},
                {"collection_id": "staff", "parent_collection_id": people, "label": "Staff"},
                {"collection_id": "invented", "parent_collection_id": people, "label": "?"},
            ]
            answers.append(orjson.dumps({"nodes": nodes}).decode())
            retriever = labels.retriever(people, staff)
            made = inferred(labels, "llm", [people, staff], retriever, llm_sample_size=2)
            assert made["ready"] is True, made["inference"]
            shown = {node["node_id"]: (node["parent_id"], node["label"]) for node in made["nodes"]}
            assert shown == {people: (None, "People"), staff: (people, "Staff")}
            assert "invented" in made["inference"]["notes"][0]
            assert "Ann leads the team" in server.requests[-1].text
            circle = [
                {"collection_id": people, "parent_collection_id": staff, "label": "People"},
                {"collection_id": staff, "parent_collection_id": people, "label": "Staff"},
            ]
            answers[0] = orjson.dumps({"nodes": circle}).decode()
            config = {**made["config"], "llm_prompt_template": "About {collection_name}"}
            path = f"/taxonomies/{made['taxonomy_id']}/versions"
            second = labels.call("POST", path, {"config": config})
            labels.ended(second["inference"]["task_id"])
            failed = labels.call("GET", f"/taxonomies/{made['taxonomy_id']}")
            assert failed["status"] == "failed"
            assert "circle" in failed["inference"]["error"]
        finally:
            app.close()


class _Around:
    """What a tenant's helper needs of its world."""

    def __init__(self, app: Any) -> None:
        self.app, self.services, self.db = app, app.services, app.services.db


def clustered(labels: Labels, collections: list[str], groups: int) -> tuple[str, str]:
    """A completed run of k-means: cluster and run."""
    config = {
        "clustering_method": "kmeans",
        "algorithm_params": {"n_clusters": groups},
        "feature_uris": [RAW.feature_uri],
    }
    body = {"cluster_name": "groups", "collection_ids": collections, "vector_config": config}
    cluster = labels.call("POST", "/clusters", body)["cluster_id"]
    task = labels.call("POST", f"/clusters/{cluster}/execute", {})
    ended = labels.ended(task["task_id"])
    assert ended["status"] == "COMPLETED", ended
    return cluster, task["additional_data"]["run_id"]


def test_every_cluster_of_a_run_becomes_a_node(labels: Labels) -> None:
    _, vectors, chosen = planted(4, 160)
    things = points(labels, "things", vectors)
    cluster, run = clustered(labels, [things], 4)
    body = {
        "taxonomy_name": "promoted",
        "cluster_run": {"cluster_id": cluster, "run_id": run},
        "enrichment_target_field": "group",
    }
    made = labels.call("POST", "/taxonomies/from-documents", body)
    assert len(made["nodes"]) == 4
    assert sum(node["member_count"] for node in made["nodes"]) == 160
    labels.attach(things, made["taxonomy_id"])
    assert labels.apply(things, made["taxonomy_id"])["outputs"][0]["enriched"] == 160
    found = labels.documents(things)
    for label in range(4):
        assert len({found[f"p{n}"]["group"] for n, own in enumerate(chosen) if own == label}) == 1
    body["cluster_run"] = {"cluster_id": cluster, "run_id": "run_none"}
    labels.call("POST", "/taxonomies/from-documents", {**body, "taxonomy_name": "other"}, 404)


def test_shared_clusters_decide_who_stands_below_whom(labels: Labels) -> None:
    _, vectors, chosen = planted(3, 90)
    wide = points(labels, "wide", vectors)
    narrow = points(labels, "narrow", [v for v, own in zip(vectors, chosen, strict=True) if own == 0])
    cluster, _ = clustered(labels, [wide, narrow], 3)
    search = {"feature_uri": RAW.feature_uri, "query": {"input_mode": "vector", "value": "{{INPUT.v}}"}}
    stage = {"stage_id": "feature_search", "parameters": {"searches": [search]}}
    body = {"retriever_name": "raw", "collection_identifiers": [wide, narrow], "stages": [stage]}
    retriever = labels.call("POST", "/retrievers", body)["retriever_id"]
    mappings = [{"input_key": "v", "source_type": "vector", "path": RAW.name}]
    made = inferred(labels, "cluster", [wide, narrow], retriever, cluster_ids=[cluster], input_mappings=mappings)
    assert made["ready"] is True, made["inference"]
    assert {node["node_id"]: node["parent_id"] for node in made["nodes"]} == {wide: None, narrow: wide}
