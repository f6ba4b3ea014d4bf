"""Trying a taxonomy and asking what it said: names that are none, references to nothing, answers that are empty."""

from __future__ import annotations

import pytest
from documents_world import Tenant as Home
from taxonomy_world import Labels, basic


@pytest.fixture
def labels(home: Home) -> Labels:
    return Labels(home)


def test_a_trial_without_documents_says_why_there_are_none(labels: Labels) -> None:
    _, _, made = basic(labels)
    path = f"/taxonomies/{made['taxonomy_id']}/execute"
    (why,) = labels.call("POST", path, {})["warnings"]
    assert "applied to no collection" in why
    assert "source_documents" in why
    things = labels.collection("things")
    labels.attach(things, made["taxonomy_id"])
    assert labels.call("POST", path)["warnings"] == [
        "no document of things was found to try it on; give source_documents"
    ]
    labels.texts(things, {"a": "fox"})
    assert labels.call("POST", path)["warnings"] == []


def test_a_field_that_the_matched_label_does_not_have_is_told(labels: Labels) -> None:
    side = labels.labels(fox="fox fox", whale="whale whale")
    fields = [{"field_path": "label_name", "target_field": "kind"}, {"field_path": "lable", "target_field": "code"}]
    source = {"collection_id": side, "enrichment_fields": fields}
    made = labels.flat(retriever_id=labels.retriever(side), source_collection=source)
    body = {"source_documents": [{"text": "fox"}]}
    tried = labels.call("POST", f"/taxonomies/{made['taxonomy_id']}/execute", body)
    assert tried["matches"][0]["enriched_fields"] == ["kind"]
    assert tried["warnings"] == ["enrichment_fields: the label 'fox' has no field 'lable', so 'code' is not written"]


def test_a_document_that_is_not_there_is_refused_with_where_it_was_looked_for(labels: Labels) -> None:
    side, _, made = basic(labels)
    things = labels.collection("things")
    labels.texts(things, {"a": "fox"})
    labels.attach(things, made["taxonomy_id"])
    path = f"/taxonomies/{made['taxonomy_id']}/execute"

    def tried(*documents: dict[str, str], status: int = 200) -> object:
        return labels.call("POST", path, {"source_documents": list(documents)}, status)

    error = tried({"document_id": "a"}, {"document_id": "b"}, status=422)["error"]
    assert error["message"] == (
        "body.source_documents.1.document_id: 'b' is not in things; give its collection_id, or its fields"
    )
    assert "'a' is not in labels" in tried({"document_id": "a", "collection_id": side}, status=422)["error"]["message"]
    labels.texts(labels.collection("others"), {"c": "fox"})
    named = tried({"document_id": "c", "collection_id": "others"})
    assert [match["label"] for match in named["matches"]] == ["fox"]
    raw = tried({"document_id": "b", "text": "whale"})
    assert [match["label"] for match in raw["matches"]] == ["whale"]


def test_a_version_that_is_not_there_is_refused_at_once(labels: Labels) -> None:
    _, _, made = basic(labels)
    things = labels.collection("things")
    labels.attach(things, made["taxonomy_id"])
    body = {"taxonomy_id": made["taxonomy_id"], "version": 7}
    error = labels.call("POST", f"/collections/{things}/apply-taxonomy", body, 404)["error"]
    assert "version" in error["message"]
    with labels.tenant.world.db.read(labels.tenant.scope) as tx:
        assert tx.count("taxonomy_runs", {"taxonomy_id": made["taxonomy_id"]}) == 0


def test_a_pinned_version_is_applied_while_the_newest_one_is_not_ready(labels: Labels) -> None:
    _, _, made = basic(labels)
    things = labels.collection("things")
    labels.texts(things, {"a": "fox"})
    labels.attach(things, made["taxonomy_id"], version=1)
    with labels.tenant.world.db.begin(labels.tenant.scope) as tx:  # as long as a hierarchy is inferred
        record = tx.get("taxonomy", made["taxonomy_id"])
        tx.change(record, {**record.body, "version": 2, "ready": False})
    assert labels.apply(things, made["taxonomy_id"])["outputs"][0]["enriched"] == 1


def test_what_a_taxonomy_said_is_asked_by_the_name_of_a_collection(labels: Labels) -> None:
    _, _, made = basic(labels)
    things = labels.collection("things")
    labels.texts(things, {"a": "fox", "b": "whale"})
    labels.attach(things, made["taxonomy_id"])
    labels.apply(things, made["taxonomy_id"])
    path = f"/analytics/taxonomies/{made['taxonomy_id']}/labels"
    by_id, by_name = (labels.call("GET", path, collection_id=ident) for ident in (things, "things"))
    assert by_name == by_id
    assert by_id["total_assignments"] == 2
    assert labels.call("GET", path, version=1)["total_assignments"] == 2
    labels.call("GET", path, status=404, collection_id="thing")
    labels.call("GET", path, status=404, version=2)
    labels.call("DELETE", f"/collections/{things}")
    assert labels.call("GET", path, collection_id=things)["total_assignments"] == 2
