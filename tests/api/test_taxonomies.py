"""Taxonomies over HTTP: made in every shape, tried, applied, versioned, taken away."""

from __future__ import annotations

from typing import Any

import pytest
from documents_world import Tenant as Home
from taxonomy_world import Labels


@pytest.fixture
def labels(home: Home) -> Labels:
    return Labels(home)


FIELDS = [{"field_path": "label_name", "target_field": "kind"}]


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


def basic(labels: Labels) -> tuple[str, str, dict[str, Any]]:
    """Label collection, retriever, and a flat taxonomy `kinds` with both."""
    side = labels.labels(fox="fox fox", whale="whale whale")
    retriever = labels.retriever(side)
    source = {"collection_id": side, "enrichment_fields": FIELDS}
    return side, retriever, labels.flat(retriever_id=retriever, source_collection=source)


def refused(labels: Labels, config: dict[str, Any], status: int = 422) -> str:
    body = {"taxonomy_name": "refused", "config": config}
    return str(labels.call("POST", "/taxonomies", body, status)["error"]["message"])


# ---- shapes of the configuration


def test_collection_and_fields_at_the_root_mean_the_source_collection(labels: Labels) -> None:
    side = labels.labels(fox="fox fox")
    made = labels.flat(retriever_id=labels.retriever(side), collection_id=side, enrichment_fields=FIELDS)
    assert made["config"]["source_collection"] == {
        "collection_id": side,
        "enrichment_fields": [{**FIELDS[0], "merge_mode": "replace"}],
    }
    assert "collection_id" not in made["config"]


def test_names_and_nulls_and_mappings_as_an_object_are_understood(labels: Labels) -> None:
    side = labels.labels(fox="fox fox")
    labels.retriever(side)
    made = labels.flat(
        retriever_id="matcher", source_collection={"collection_id": "labels", "enrichment_fields": None},
        input_mappings={"query": "payload.text"}, step_analytics=None, top_k=None,
    )  # fmt: skip
    assert made["config"]["retriever_id"].startswith("ret_")
    assert made["config"]["source_collection"]["collection_id"] == side
    assert made["config"]["input_mappings"] == [{"input_key": "query", "source_type": "payload", "path": "text"}]
    assert made["config"]["top_k"] == 1


def test_a_source_collection_that_the_retriever_does_not_search_is_the_one_to_classify(labels: Labels) -> None:
    side = labels.labels(fox="fox fox", whale="whale whale")
    things = labels.collection("things")
    labels.texts(things, {"a": {"text": "a fox", "kind": "own"}})
    made = labels.flat(retriever_id=labels.retriever(side), source_collection={"collection_id": things})
    assert made["enriched_collection_id"] == things
    assert made["label_collection_ids"] == [side]
    tried = labels.call("POST", f"/taxonomies/execute/{made['taxonomy_id']}", {})
    assert [match["label"] for match in tried["matches"]] == ["fox"]
    task = labels.apply(things, made["taxonomy_id"])
    assert task["status"] == "COMPLETED", task
    [document] = labels.documents(things).values()
    assert document["label_name"] == "fox"  # the whole label document is copied …
    assert document["text"] == "a fox"  # … but never over what the document says itself


def test_a_field_that_the_classified_collection_does_not_have_is_refused_with_the_nearest(labels: Labels) -> None:
    side, things = labels.labels(fox="fox fox"), labels.collection("things")
    config = {
        "retriever_id": labels.retriever(side),
        "source_collection": {"collection_id": things},
        "input_mappings": [{"input_key": "query", "path": "txt"}],
    }
    message = refused(labels, config, 400)
    assert "'txt'" in message
    assert "'text'" in message


def hierarchy(labels: Labels) -> tuple[str, str, str, str]:
    """Animals, foxes below them, whales below them; and a retriever over all three."""
    animals = labels.labels("animals", animal="fox whale aou")
    foxes = labels.labels("foxes", fox="fox foo oo")
    whales = labels.labels("whales", whale="whale wael")
    return animals, foxes, whales, labels.retriever(animals, foxes, whales, name="all three")


MAPPINGS = [{"input_key": "query", "source_type": "payload", "path": "text"}]


def test_a_hierarchy_of_collections_is_walked_from_the_roots(labels: Labels) -> None:
    animals, foxes, whales, retriever = hierarchy(labels)
    nodes = [
        {"collection_id": foxes, "parent_collection_id": animals, "label": "Foxes", "enrichment_fields": FIELDS},
        {"collection_id": animals},
        {"collection_id": whales, "parent_collection_id": animals, "min_score": 0.5},
    ]
    config = {"taxonomy_type": "hierarchical", "retriever_id": retriever, "input_mappings": MAPPINGS}
    body = {"taxonomy_name": "tree", "config": {**config, "hierarchical_nodes": nodes}}
    made = labels.call("POST", "/taxonomies", body)
    shown = {node["node_id"]: node for node in made["nodes"]}
    assert shown[foxes] == {
        "node_id": foxes, "label": "Foxes", "path": ["animals", "Foxes"], "parent_id": animals, "level": 1
    }  # fmt: skip
    assert made["works_as"]["mode"] == "join"
    things = labels.collection("things")
    labels.texts(things, {"a": "fox", "b": "whale"})
    labels.attach(things, made["taxonomy_id"])
    assert labels.apply(things, made["taxonomy_id"])["outputs"][0]["enriched"] == 2
    found = labels.documents(things)
    fox, whale = found["a"], found["b"]
    assert (fox["category_id"], fox["category_name"], fox["path"]) == (foxes, "Foxes", ["animals", "Foxes"])
    assert (fox["tier1_id"], fox["tier2_label"], fox["tier2_kind"], fox["kind"]) == (animals, "Foxes", "fox", "fox")
    assert whale["category_name"] == "whales"
    assert "kind" not in whale


def test_child_to_parent_as_an_object_makes_the_same_hierarchy(labels: Labels) -> None:
    animals, foxes, whales, retriever = hierarchy(labels)
    config = {
        "taxonomy_type": "hierarchical",
        "retriever_id": retriever,
        "input_mappings": MAPPINGS,
        "hierarchy": {foxes: animals, "whales": "animals"},
    }
    made = labels.call("POST", "/taxonomies", {"taxonomy_name": "tree", "config": config})
    assert {node["node_id"]: node["parent_id"] for node in made["nodes"]} == {
        animals: None, foxes: animals, whales: animals
    }  # fmt: skip
    assert made["config"]["hierarchy"] == {foxes: animals, "whales": "animals"}
    listed = {node["collection_id"]: node.get("parent_collection_id") for node in made["config"]["hierarchical_nodes"]}
    assert listed == {animals: None, foxes: animals, whales: animals}


def test_a_circle_is_named(labels: Labels) -> None:
    animals, foxes, whales, retriever = hierarchy(labels)
    config = {
        "taxonomy_type": "hierarchical",
        "retriever_id": retriever,
        "input_mappings": MAPPINGS,
        "hierarchy": {foxes: animals, animals: whales, whales: foxes},
    }
    message = refused(labels, config)
    assert "circle" in message
    assert f"{animals} → {whales}" in message


def test_labels_may_name_their_own_path(labels: Labels) -> None:
    side = labels.collection("shelf", fields={"text": "string", "where": "string"})
    labels.texts(
        side,
        {
            "f": {"text": "fox foo", "where": "animals/land/fox"},
            "w": {"text": "whale", "where": ["animals", "sea", "whale"]},
        },
    )
    config = {
        "taxonomy_type": "hierarchical",
        "retriever_id": labels.retriever(side),
        "input_mappings": MAPPINGS,
        "path_field": "where",
    }
    made = labels.call("POST", "/taxonomies", {"taxonomy_name": "paths", "config": config})
    assert [(node["node_id"], node["level"]) for node in made["nodes"]] == [
        ("animals", 0), ("animals/land", 1), ("animals/sea", 1), ("animals/land/fox", 2), ("animals/sea/whale", 2)
    ]  # fmt: skip
    body = {"source_documents": [{"text": "fox"}, {"text": "whale"}]}
    tried = labels.call("POST", f"/taxonomies/{made['taxonomy_id']}/execute", body)
    assert [match["path"] for match in tried["matches"]] == [["animals", "land", "fox"], ["animals", "sea", "whale"]]
    assert tried["matches"][0]["hierarchy_level"] == 2


def test_labels_may_name_their_parent(labels: Labels) -> None:
    side = labels.collection("shelf", fields={"text": "string", "label": "string", "above": "string"})
    labels.texts(
        side,
        {
            "root": {"text": "zzzz", "label": "animals"},
            "f": {"text": "fox foo", "label": "fox", "above": "animals"},
            "w": {"text": "whale", "label": "whale", "above": "root"},
        },
    )
    config = {
        "taxonomy_type": "hierarchical",
        "retriever_id": labels.retriever(side),
        "input_mappings": MAPPINGS,
        "parent_field": "above",
        "source_collection": {"collection_id": side},
    }
    made = labels.call("POST", "/taxonomies", {"taxonomy_name": "parents", "config": config})
    tried = labels.call("POST", f"/taxonomies/{made['taxonomy_id']}/execute", {"source_documents": [{"text": "fox"}]})
    assert tried["matches"][0]["path"] == ["animals", "fox"]


def test_documents_may_carry_their_own_path(labels: Labels) -> None:
    config = {"taxonomy_type": "hierarchical", "path_field": "folder", "path_separator": "/"}
    made = labels.call("POST", "/taxonomies", {"taxonomy_name": "folders", "config": config})
    assert made["works_as"]["mode"] == "path"
    assert made["nodes"] == []
    things = labels.collection("things")
    labels.texts(things, {"a": {"text": "x", "folder": "footage/2024/q3"}, "b": {"text": "y"}})
    labels.attach(things, made["taxonomy_id"])
    counts = labels.apply(things, made["taxonomy_id"])["outputs"][0]
    assert (counts["enriched"], counts["unmatched"]) == (1, 1)
    found = labels.documents(things)
    assert found["a"]["category_id"] == "footage/2024/q3"
    assert found["a"]["tier2_label"] == "2024"
    assert labels.said(found["b"], made["taxonomy_id"], "assignments") == []
    shown = labels.call("GET", f"/taxonomies/{made['taxonomy_id']}")["nodes"]
    assert [node["node_id"] for node in shown] == ["footage", "footage/2024", "footage/2024/q3"]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"taxonomy_type": "flat"}, "retriever_id"),
        ({"taxonomy_type": "round"}, "taxonomy_type"),
        ({"taxonomy_type": "hierarchical"}, "hierarchical_nodes"),
        ({"taxonomy_type": "flat", "hierarchy": {"a": "b"}}, "hierarchy"),
        ({"taxonomy_type": "hierarchical", "path_field": "a", "hierarchy": {"a": "b"}}, "path_field"),
        ({"taxonomy_type": "hierarchical", "inference_strategy": "schema"}, "inference_collections"),
        ({"taxonomy_type": "hierarchical", "inference_strategy": "magic"}, "inference_strategy"),
        ({"taxonomy_type": "flat", "top_k": 51}, "top_k"),
        ({"taxonomy_type": "flat", "input_mappings": [{"input_key": "query"}]}, "path"),
        ({"taxonomy_type": "flat", "input_mappings": [{"input_key": "q", "source_type": "blob"}]}, "blob"),
        ({"taxonomy_type": "flat", "input_mappings": [{"input_key": "q", "source_type": "literal"}]}, "override"),
        (
            {"taxonomy_type": "flat", "collection_id": "c", "enrichment_fields": [{"field_path": "document_id"}]},
            "document_id",
        ),
    ],
)
def test_a_configuration_that_means_nothing_is_refused_with_its_place(
    labels: Labels, config: dict[str, Any], said: str
) -> None:
    assert said in refused(labels, config)


def test_unknown_keys_are_told(labels: Labels) -> None:
    side = labels.labels(fox="fox fox")
    made = labels.flat(retriever_id=labels.retriever(side), collection_id=side, treshold=0.5)
    assert any("treshold" in note for note in made["warnings"])


def test_references_must_exist_here(labels: Labels) -> None:
    side = labels.labels(fox="fox fox")
    retriever = labels.retriever(side)
    config = {"retriever_id": "ret_none", "collection_id": side, "input_mappings": MAPPINGS}
    assert "retriever" in refused(labels, config, 404)
    assert "collection" in refused(labels, {**config, "retriever_id": retriever, "collection_id": "col_none"}, 404)
    wrong = {**config, "retriever_id": retriever, "input_mappings": [{"input_key": "text", "path": "text"}]}
    assert "query" in refused(labels, wrong)


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


# ---- trying


def test_stored_documents_and_raw_inputs_are_tried_without_being_written(labels: Labels) -> None:
    _, _, made = basic(labels)
    things = labels.collection("things")
    labels.texts(things, {"a": "fox", "b": "whale"})
    labels.attach(things, made["taxonomy_id"])
    path = f"/taxonomies/{made['taxonomy_id']}/execute"
    tried = labels.call("POST", path)
    assert [result["kind"] for result in tried["results"]] == ["fox", "whale"]
    assert tried["stats"]["enriched"] == 2
    given = [{"document_id": "b"}, {"payload": {"text": "a fox"}}, {"query": "whale"}, {"unrelated": 1}]
    tried = labels.call("POST", path, {"source_documents": given})
    assert [match["label"] for match in tried["matches"]] == ["whale", "fox", "whale"]
    assert tried["matches"][0]["document_id"] == "b"
    assert tried["matches"][0]["enriched_fields"] == ["kind"]
    assert tried["stats"]["errors"] == 1
    assert "input_mappings" in tried["warnings"][0]
    assert all("kind" not in document for document in labels.documents(things).values())
    labels.call("POST", path, {"source_documents": [{"text": "x"}] * 6}, 422)
    labels.call("POST", path, {"source_documents": "fox"}, 422)


def test_trying_and_applying_agree_with_a_run_of_the_retriever(labels: Labels) -> None:
    _side, retriever, made = basic(labels)
    things = labels.collection("things")
    texts = {f"d{n}": text for n, text in enumerate(["fox", "whale", "a shark", "owl", "heel", "foul", "aloe"])}
    labels.texts(things, texts)
    labels.attach(things, made["taxonomy_id"])
    labels.apply(things, made["taxonomy_id"])
    for ident, document in labels.documents(things).items():
        found = labels.call("POST", f"/retrievers/{retriever}/execute", {"inputs": {"query": texts[ident]}})
        best = found["documents"][0]
        assert document["kind"] == best["label_name"]
        assert labels.said(document, made["taxonomy_id"], "score") == pytest.approx(best["score"], abs=1e-5)


def test_a_retriever_of_several_stages_runs_for_every_document(labels: Labels) -> None:
    side = labels.labels(fox="fox fox", whale="whale whale")
    search = {
        "stage_id": "feature_search",
        "parameters": {
            "searches": [{"feature_uri": "mixpeek://text_extractor@v1/letters", "query": "{{INPUT.query}}"}]
        },
    }
    stages = [
        search,
        {"stage_id": "sort_relevance", "parameters": {}},
        {"stage_id": "limit", "parameters": {"limit": 1}},
    ]
    body = {"retriever_name": "long", "collection_identifiers": [side], "stages": stages}
    retriever = labels.call("POST", "/retrievers", body)["retriever_id"]
    source = {"collection_id": side, "enrichment_fields": FIELDS}
    made = labels.flat(retriever_id=retriever, source_collection=source)
    assert made["works_as"]["mode"] == "retriever"
    assert "stages" in made["works_as"]["reason"]
    things = labels.collection("things")
    labels.texts(things, {"a": "fox", "b": "whale"})
    labels.attach(things, made["taxonomy_id"])
    assert labels.apply(things, made["taxonomy_id"])["outputs"][0]["enriched"] == 2
    assert {d["kind"] for d in labels.documents(things).values()} == {"fox", "whale"}


# ---- versions, clones, lists, the end


def test_a_new_configuration_is_a_new_version_and_old_ones_can_be_pinned(labels: Labels) -> None:
    side, _retriever, made = basic(labels)
    ident = made["taxonomy_id"]
    fields = [{"field_path": "label_name", "target_field": "other"}]
    config = {**made["config"], "source_collection": {"collection_id": side, "enrichment_fields": fields}}
    second = labels.call("POST", f"/taxonomies/{ident}/versions", {"config": config})
    assert (second["taxonomy_id"], second["version"]) == (ident, 2)
    listed = labels.call("GET", f"/taxonomies/{ident}/versions")
    assert [entry["version"] for entry in listed["results"]] == [2, 1]
    assert labels.call("GET", f"/taxonomies/{ident}", version=1)["config"] == made["config"]
    labels.call("GET", f"/taxonomies/{ident}", status=404, version=3)
    labels.call("GET", f"/taxonomies/{ident}", status=422, version="x")
    for version, name in ((1, "kind"), (None, "other")):
        body = {"source_documents": [{"text": "fox"}]}
        more = {} if version is None else {"version": version}
        tried = labels.call("POST", f"/taxonomies/{ident}/execute", body, **more)
        assert tried["results"][0][name] == "fox"
    things = labels.collection("things")
    labels.texts(things, {"a": "fox"})
    labels.attach(things, ident, version=1)
    labels.apply(things, ident)
    assert labels.documents(things)["a"]["kind"] == "fox"
    labels.attach(things, ident)
    labels.apply(things, ident)
    document = labels.documents(things)["a"]
    assert document["other"] == "fox"
    assert "kind" not in document
    assert labels.said(document, ident, "state")["version"] == 2


def test_only_name_description_and_metadata_can_be_patched(labels: Labels) -> None:
    _, _, made = basic(labels)
    path = f"/taxonomies/{made['taxonomy_id']}"
    changed = labels.call("PATCH", path, {"taxonomy_name": "sorts", "metadata": {"a": 1}, "description": "d"})
    assert (changed["taxonomy_name"], changed["metadata"], changed["version"]) == ("sorts", {"a": 1}, 1)
    assert labels.call("GET", "/taxonomies/sorts")["taxonomy_id"] == made["taxonomy_id"]
    assert "versions" in labels.call("PATCH", path, {"config": {}}, 409)["error"]["message"]
    labels.call("PATCH", path, {}, 400)


def test_a_clone_is_a_taxonomy_of_its_own(labels: Labels) -> None:
    _side, _, made = basic(labels)
    path = f"/taxonomies/{made['taxonomy_id']}/clone"
    copied = labels.call("POST", path, {"taxonomy_name": "copy"})
    assert copied["source_taxonomy_id"] == made["taxonomy_id"]
    assert copied["taxonomy"]["config"] == made["config"]
    assert copied["taxonomy"]["version"] == 1
    other = labels.call("POST", path, {"taxonomy_name": "other", "config": {**made["config"], "top_k": 3}})
    assert other["taxonomy"]["config"]["top_k"] == 3
    labels.call("POST", path, {"taxonomy_name": "copy"}, 409)
    listed = labels.call("POST", "/taxonomies/list", {})
    assert listed["total_count"] == 3
    assert {entry["taxonomy_name"] for entry in labels.call("GET", "/taxonomies")["results"]} == {
        "kinds", "copy", "other"
    }  # fmt: skip


def test_an_attached_taxonomy_is_deleted_by_force_only(labels: Labels) -> None:
    _, _, made = basic(labels)
    things = labels.collection("things")
    labels.attach(things, made["taxonomy_id"])
    path = f"/taxonomies/{made['taxonomy_id']}"
    error = labels.call("DELETE", path, status=409)["error"]
    assert "things" in error["message"]
    gone = labels.call("DELETE", path, force="true")
    assert gone["success"] is True
    labels.call("GET", path, status=404)
    assert labels.call("GET", f"/collections/{things}")["taxonomy_applications"] == []


# ---- what is gone


def test_a_retriever_or_collection_that_is_gone_is_told_with_what_to_do(labels: Labels) -> None:
    side, retriever, made = basic(labels)
    things = labels.collection("things")
    labels.texts(things, {"a": "fox"})
    labels.attach(things, made["taxonomy_id"])
    labels.call("DELETE", f"/retrievers/{retriever}")
    path = f"/taxonomies/{made['taxonomy_id']}"
    assert labels.call("GET", path)["works_as"]["mode"] == "unusable"
    message = labels.call("POST", f"{path}/execute", {"source_documents": [{"text": "fox"}]}, 409)["error"]["message"]
    assert "retriever" in message
    assert "versions" in message
    task = labels.apply(things, made["taxonomy_id"])
    assert task["status"] == "FAILED"
    assert "retriever" in task["error"]
    assert task["outputs"][0]["next_step"]
    retriever = labels.retriever(side, name="second")
    labels.call("POST", f"{path}/versions", {"config": {**made["config"], "retriever_id": retriever}})
    labels.call("DELETE", f"/collections/{side}")
    task = labels.apply(things, made["taxonomy_id"])
    assert task["status"] == "FAILED"
    assert "gone" in task["error"]


def test_another_tenants_taxonomy_does_not_exist(labels: Labels, world: Any) -> None:
    _, _, made = basic(labels)
    stranger = Labels(world.tenant())
    path = f"/taxonomies/{made['taxonomy_id']}"
    stranger.call("GET", path, status=404)
    stranger.call("POST", f"{path}/execute", {}, 404)
    stranger.call("POST", f"{path}/versions", {"config": made["config"]}, 404)
    side = stranger.labels(fox="fox")
    config = {**made["config"], "source_collection": {"collection_id": side}}
    assert "retriever" in refused(stranger, config, 404)


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
    assert [entry["name"] for entry in first["taxonomy"]["all"]][0] == "fox"
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
