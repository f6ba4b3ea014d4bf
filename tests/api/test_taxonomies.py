"""Taxonomies over HTTP: made in every shape, tried, versioned, taken away."""

from __future__ import annotations

from typing import Any

import pytest
from documents_world import Tenant as Home
from taxonomy_world import FIELDS, MAPPINGS, Labels, basic, hierarchy, refused


@pytest.fixture
def labels(home: Home) -> Labels:
    return Labels(home)


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
