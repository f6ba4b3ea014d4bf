"""Taxonomies applied: to collections, at ingest, in retrievers; runs that are stopped, and what fails."""

from __future__ import annotations

from typing import Any

import pytest
from documents_world import Tenant as Home
from taxonomy_world import FIELDS, MAPPINGS, Labels, basic, hierarchy, refused


@pytest.fixture
def labels(home: Home) -> Labels:
    return Labels(home)


def test_documents_get_the_label_that_is_most_alike(labels: Labels) -> None:
    side = labels.labels(fox="fox fox", whale="whale whale")
    retriever = labels.retriever(side)
    made = labels.flat(retriever_id=retriever, source_collection={"collection_id": side, "enrichment_fields": FIELDS})
    assert made["version"] == 1
    assert made["ready"] is True
    assert made["config"]["source_collection"]["collection_id"] == side
    assert made["works_as"]["mode"] == "join"
    things = labels.collection("things")
    labels.texts(things, {"a": "a fox", "b": "the whale", "c": "foxes"})
    labels.attach(things, made["taxonomy_id"])
    task = labels.apply(things, made["taxonomy_id"])
    assert task["status"] == "COMPLETED", task
    assert task["outputs"][0]["enriched"] == 3
    found = labels.documents(things)
    assert {ident: document["kind"] for ident, document in found.items()} == {"a": "fox", "b": "whale", "c": "fox"}
    assert labels.said(found["a"], made["taxonomy_id"]) == "fox"
    assert labels.said(found["a"], made["taxonomy_id"], "id") == "labels-fox"
    assert 0 < labels.said(found["a"], made["taxonomy_id"], "score") <= 1.001
    [entry] = labels.said(found["a"], made["taxonomy_id"], "assignments")
    assert entry["label"] == "fox"
    assert entry["path"] == ["fox"]


# ---- what is said, and how it is written


def test_no_match_is_told_apart_from_never_evaluated(labels: Labels) -> None:
    side = labels.labels(fox="fox fox")
    source = {"collection_id": side, "enrichment_fields": FIELDS}
    made = labels.flat(retriever_id=labels.retriever(side), source_collection=source, min_score=0.9)
    things = labels.collection("things")
    labels.texts(things, {"a": "fox", "b": "eeee iiii"})
    labels.attach(things, made["taxonomy_id"])
    before = labels.documents(things)["b"]
    assert labels.said(before, made["taxonomy_id"], "assignments") is None
    counts = labels.apply(things, made["taxonomy_id"])["outputs"][0]
    assert (counts["enriched"], counts["unmatched"]) == (1, 1)
    after = labels.documents(things)["b"]
    assert labels.said(after, made["taxonomy_id"], "assignments") == []
    assert labels.said(after, made["taxonomy_id"], "state")["evaluated_at"]
    assert "kind" not in after


def test_a_cut_in_the_retriever_counts_as_well(labels: Labels) -> None:
    side = labels.labels(fox="fox fox")
    made = labels.flat(retriever_id=labels.retriever(side, min_score=0.9), collection_id=side)
    body = {"source_documents": [{"text": "eeee iiii"}]}
    tried = labels.call("POST", f"/taxonomies/{made['taxonomy_id']}/execute", body)
    assert tried["matches"] == []
    assert tried["stats"] == {"processed_docs": 1, "batches": 1, "errors": 0, "enriched": 0}


def test_several_labels_are_listed_best_first_and_appended_without_doubles(labels: Labels) -> None:
    side = labels.collection("labels", fields={"text": "string", "label_name": "string"})
    rows = {"f1": "fox", "f2": "foxx", "w": "whale", "s": "shark"}
    names = {"f1": "fox", "f2": "fox", "w": "whale", "s": "shark"}
    labels.texts(side, {ident: {"text": text, "label_name": names[ident]} for ident, text in rows.items()})
    fields = [{"field_path": "label_name", "target_field": "tags", "merge_mode": "append"}]
    source = {"collection_id": side, "enrichment_fields": fields}
    made = labels.flat(retriever_id=labels.retriever(side), source_collection=source, top_k=2)
    things = labels.collection("things")
    labels.texts(things, {"a": {"text": "fox", "tags": ["mine", "fox"]}})
    labels.attach(things, made["taxonomy_id"])
    labels.apply(things, made["taxonomy_id"])
    [document] = labels.documents(things).values()
    listed = [entry["label"] for entry in labels.said(document, made["taxonomy_id"], "assignments")]
    assert listed[0] == "fox"
    assert len(set(listed)) == 2
    assert document["tags"] == ["mine", "fox", listed[1]]


def test_applying_again_changes_nothing(labels: Labels) -> None:
    _, _, made = basic(labels)
    things = labels.collection("things")
    labels.texts(things, {"a": "fox", "b": "whale"})
    labels.attach(things, made["taxonomy_id"])
    assert labels.apply(things, made["taxonomy_id"])["outputs"][0]["enriched"] == 2
    first = labels.documents(things)
    counts = labels.apply(things, made["taxonomy_id"])["outputs"][0]
    assert (counts["enriched"], counts["unchanged"]) == (0, 2)
    assert labels.documents(things) == first


def test_a_label_that_no_longer_holds_is_taken_back(labels: Labels) -> None:
    side, _, made = basic(labels)
    things = labels.collection("things")
    labels.texts(things, {"a": {"text": "fox", "kind": "unknown"}, "b": "fox"})
    labels.attach(things, made["taxonomy_id"])
    labels.apply(things, made["taxonomy_id"])
    assert labels.documents(things)["a"]["kind"] == "fox"
    labels.call("DELETE", f"/collections/{side}/documents/labels-fox")
    labels.call("DELETE", f"/collections/{side}/documents/labels-whale")
    counts = labels.apply(things, made["taxonomy_id"])["outputs"][0]
    assert counts["unmatched"] == 2
    found = labels.documents(things)
    assert found["a"]["kind"] == "unknown"
    assert "kind" not in found["b"]
    assert labels.said(found["a"], made["taxonomy_id"]) is None


def test_what_somebody_else_wrote_since_is_left(labels: Labels) -> None:
    side, _, made = basic(labels)
    things = labels.collection("things")
    labels.texts(things, {"a": "fox"})
    labels.attach(things, made["taxonomy_id"])
    labels.apply(things, made["taxonomy_id"])
    labels.call("PATCH", f"/collections/{things}/documents/a", {"kind": "by hand"})
    labels.call("DELETE", f"/collections/{side}/documents/labels-fox")
    labels.call("DELETE", f"/collections/{side}/documents/labels-whale")
    labels.apply(things, made["taxonomy_id"])
    assert labels.documents(things)["a"]["kind"] == "by hand"


def test_copies_can_be_written_into_another_collection(labels: Labels) -> None:
    _, _, made = basic(labels)
    things, copies = labels.collection("things"), labels.collection("copies")
    labels.texts(things, {"a": "fox", "b": "whale"})
    labels.attach(things, made["taxonomy_id"], target_collection_id=copies)
    for enriched, unchanged in ((2, 0), (0, 2)):
        counts = labels.apply(things, made["taxonomy_id"])["outputs"][0]
        assert (counts["enriched"], counts["unchanged"]) == (enriched, unchanged)
    assert all("kind" not in document for document in labels.documents(things).values())
    found = labels.documents(copies)
    assert sorted(document["kind"] for document in found.values()) == ["fox", "whale"]
    assert {document["source_document_id"] for document in found.values()} == {"a", "b"}


def test_only_documents_that_pass_the_filters_are_evaluated(labels: Labels) -> None:
    _, _, made = basic(labels)
    things = labels.collection("things")
    labels.texts(things, {"a": "fox", "b": {"text": "whale", "kind": "keep"}})
    labels.attach(things, made["taxonomy_id"])
    keep = {"field": "text", "operator": "eq", "value": "fox"}
    counts = labels.apply(things, made["taxonomy_id"], scroll_filters=keep)["outputs"][0]
    assert counts["processed"] == 1
    assert labels.documents(things)["b"]["kind"] == "keep"


def test_a_taxonomy_must_be_attached_before_it_is_applied(labels: Labels) -> None:
    _, _, made = basic(labels)
    things = labels.collection("things")
    body = {"taxonomy_id": made["taxonomy_id"]}
    error = labels.call("POST", f"/collections/{things}/apply-taxonomy", body, 400)["error"]
    assert "taxonomy_applications" in error["message"]


def test_documents_that_are_written_get_their_labels_by_themselves(labels: Labels) -> None:
    from helpers import wait_for

    _, _, made = basic(labels)
    things = labels.collection("things")
    labels.attach(things, made["taxonomy_id"], execution_mode="materialize")
    labels.texts(things, {"a": "fox"})
    wait_for(lambda: labels.documents(things)["a"].get("kind") == "fox")
    labels.texts(things, {"b": "whale"})
    wait_for(lambda: labels.documents(things)["b"].get("kind") == "whale")


# ---- in a retriever


def enriching(labels: Labels, things: str, **parameters: Any) -> list[dict[str, Any]]:
    """The things, listed and labelled by the stage."""
    stages = [
        {"stage_id": "attribute_filter", "parameters": {"field": "text", "operator": "exists", "value": True}},
        {"stage_id": "taxonomy_enrich", "parameters": parameters},
    ]
    body = {"stages": stages, "collection_identifiers": [things], "inputs": {}}
    found: list[dict[str, Any]] = labels.call("POST", "/retrievers/execute", body)["documents"]
    return sorted(found, key=lambda document: document["document_id"])


def test_a_stage_joins_a_taxonomy_at_query_time_as_applying_would(labels: Labels) -> None:
    _, _, made = basic(labels)
    things = labels.collection("things")
    texts = {"a": "fox", "b": "whale", "c": "aloe", "d": "heel"}
    labels.texts(things, texts)
    shown = enriching(labels, things, taxonomy_id="kinds")
    labels.attach(things, made["taxonomy_id"])
    labels.apply(things, made["taxonomy_id"])
    applied = labels.documents(things)
    for document in shown:
        ident = document["document_id"]
        assert document["kind"] == applied[ident]["kind"] == document["taxonomy"]["primary"]["name"]
        score = labels.said(applied[ident], made["taxonomy_id"], "score")
        assert document["taxonomy"]["primary"]["confidence"] == pytest.approx(score, abs=1e-5)


def test_a_stage_walks_a_hierarchy_and_tells_the_ancestors(labels: Labels) -> None:
    animals, foxes, whales, retriever = hierarchy(labels)
    config = {
        "taxonomy_type": "hierarchical",
        "retriever_id": retriever,
        "input_mappings": MAPPINGS,
        "hierarchy": {foxes: animals, whales: animals},
    }
    labels.call("POST", "/taxonomies", {"taxonomy_name": "tree", "config": config})
    things = labels.collection("things")
    labels.texts(things, {"a": "fox", "b": "whale"})
    fox, whale = enriching(labels, things, taxonomy_id="tree")
    assert fox["taxonomy"]["path"] == "animals > foxes"
    assert fox["taxonomy"]["ancestors"] == [{"id": animals, "name": "animals", "level": 0}]
    assert whale["taxonomy"]["primary"]["id"] == whales


def test_a_stage_takes_more_labels_and_a_floor_of_its_own(labels: Labels) -> None:
    basic(labels)
    things = labels.collection("things")
    labels.texts(things, {"a": "fox", "b": "uuu"})
    first, second = enriching(labels, things, taxonomy_id="kinds", top_k=2, min_score=0.3, fields=["text"])
    assert next(entry["name"] for entry in first["taxonomy"]["all"]) == "fox"
    assert first["text"] == "fox fox"
    assert second["taxonomy"]["primary"] is None
    rows = enriching(labels, things, taxonomy_id="kinds", top_k=2, min_score=-1, expand=True)
    assert len(rows) == 4


def test_a_stage_whose_taxonomy_is_gone_says_so(labels: Labels) -> None:
    things = labels.collection("things")
    labels.texts(things, {"a": "fox"})
    stages = [
        {"stage_id": "attribute_filter", "parameters": {"field": "text", "operator": "exists", "value": True}},
        {"stage_id": "taxonomy_enrich", "parameters": {"taxonomy_id": "nowhere"}},
    ]
    body = {"stages": stages, "collection_identifiers": [things], "inputs": {}}
    error = labels.call("POST", "/retrievers/execute", body, 404)["error"]
    assert "nowhere" in error["message"]


def test_a_taxonomy_whose_retriever_runs_is_asked_by_the_stage_as_well(labels: Labels) -> None:
    side = labels.labels(fox="fox fox", whale="whale whale")
    search = {
        "stage_id": "feature_search",
        "parameters": {
            "searches": [{"feature_uri": "mixpeek://text_extractor@v1/letters", "query": "about {{INPUT.query}}"}]
        },
    }
    body = {"retriever_name": "worded", "collection_identifiers": [side], "stages": [search]}
    retriever = labels.call("POST", "/retrievers", body)["retriever_id"]
    made = labels.flat(retriever_id=retriever, collection_id=side)
    assert made["works_as"]["mode"] == "retriever"
    things = labels.collection("things")
    labels.texts(things, {"a": "foxxx fox", "b": "whale whale"})
    assert [d["taxonomy"]["primary"]["name"] for d in enriching(labels, things, taxonomy_id="kinds")] == [
        "fox",
        "whale",
    ]


def test_a_retriever_that_classifies_is_no_retriever_of_a_taxonomy(labels: Labels) -> None:
    side, _, _ = basic(labels)
    search = {"stage_id": "feature_search", "parameters": {"searches": [{"query": "{{INPUT.query}}"}]}}
    stages = [search, {"stage_id": "taxonomy_enrich", "parameters": {"taxonomy_id": "kinds"}}]
    body = {"retriever_name": "circle", "collection_identifiers": [side], "stages": stages}
    retriever = labels.call("POST", "/retrievers", body)["retriever_id"]
    config = {"retriever_id": retriever, "collection_id": side, "input_mappings": MAPPINGS}
    assert "taxonomy_enrich" in refused(labels, config)


# ---- runs that are stopped, and taxonomies that fail


def test_a_run_that_was_cancelled_leaves_its_documents_to_the_next(labels: Labels) -> None:
    _, _, made = basic(labels)
    things = labels.collection("things")
    labels.texts(things, {f"d{n}": "fox" for n in range(300)})
    labels.attach(things, made["taxonomy_id"])
    body = {"taxonomy_id": made["taxonomy_id"], "batch_size": 100}
    task = labels.call("POST", f"/collections/{things}/apply-taxonomy", body)["task_id"]
    labels.call("DELETE", f"/tasks/{task}")
    assert labels.call("GET", f"/tasks/{task}")["status"] in ("CANCELED", "COMPLETED")
    again = labels.apply(things, made["taxonomy_id"])
    assert again["task_id"] != task
    counts = again["outputs"][0]
    assert again["status"] == "COMPLETED"
    assert counts["enriched"] + counts["unchanged"] == 300
    assert all(document["kind"] == "fox" for document in labels.documents(things).values())


def test_a_run_whose_time_is_over_says_so_and_the_next_goes_on(labels: Labels) -> None:
    _, _, made = basic(labels)
    things = labels.collection("things")
    labels.texts(things, {f"d{n}": "fox" for n in range(150)})
    labels.attach(things, made["taxonomy_id"])
    first = labels.apply(things, made["taxonomy_id"], budget_limits={"max_time_ms": 1}, batch_size=100)
    assert first["status"] == "COMPLETED_WITH_ERRORS"
    assert "max_time_ms" in first["outputs"][0]["stopped"]
    assert first["outputs"][0]["processed"] < 150
    assert labels.apply(things, made["taxonomy_id"])["status"] == "COMPLETED"
    assert all("kind" in document for document in labels.documents(things).values())


def test_the_same_run_is_not_begun_twice(labels: Labels) -> None:
    _, _, made = basic(labels)
    things = labels.collection("things")
    labels.texts(things, {f"d{n}": "fox" for n in range(50)})
    labels.attach(things, made["taxonomy_id"])
    body = {"taxonomy_id": made["taxonomy_id"]}
    started = [labels.call("POST", f"/collections/{things}/apply-taxonomy", body) for _ in range(3)]
    for one in started:
        labels.ended(one["task_id"])
    counted = labels.call("GET", f"/analytics/taxonomies/{made['taxonomy_id']}/labels")
    assert counted["total_assignments"] == 50


def test_a_taxonomy_that_cannot_run_does_not_hold_up_the_others(labels: Labels) -> None:
    from helpers import wait_for

    side, _, made = basic(labels)
    broken = labels.retriever(side, name="broken")
    second = labels.flat("second", retriever_id=broken, collection_id=side, enrichment_fields=FIELDS)
    things = labels.collection("things")
    entries = [
        {"taxonomy_id": second["taxonomy_id"], "priority": 9},
        {"taxonomy_id": made["taxonomy_id"], "priority": 1},
    ]
    labels.call("PATCH", f"/collections/{things}", {"taxonomy_applications": entries})
    labels.call("DELETE", f"/retrievers/{broken}")
    labels.texts(things, {"a": "fox"})
    wait_for(lambda: labels.documents(things)["a"].get("kind") == "fox")
    assert labels.said(labels.documents(things)["a"], second["taxonomy_id"]) is None

    def told() -> Any:
        with labels.tenant.world.db.read(labels.tenant.scope) as tx:
            rows = tx.rows("follow_ups", {"collection_id": things, "status": "done"})
        return [p for row in rows for p in row["body"]["phases"]["taxonomies"]["problems"]]

    [problem] = wait_for(told)
    assert problem["what"] == second["taxonomy_id"]
    assert "retriever" in problem["reason"]
    assert problem["next_step"]


def test_labels_of_other_weights_are_not_compared(labels: Labels) -> None:
    side, _, made = basic(labels)
    with labels.tenant.world.db.begin(labels.tenant.scope) as tx:
        record = tx.get("collection", side)
        indexes = [{**entry, "weights": "sha256:others"} for entry in record.body["vector_indexes"]]
        tx.change(record, {**record.body, "vector_indexes": indexes})
    body = {"source_documents": [{"text": "fox"}]}
    error = labels.call("POST", f"/taxonomies/{made['taxonomy_id']}/execute", body, 409)["error"]
    assert "weights" in error["message"]
