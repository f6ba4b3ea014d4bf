"""Where documents come from, what was made of an object, and why a document is not found."""

from __future__ import annotations

from typing import Any

from documents_world import TEXT, Tenant, World, vector_of
from mixpeek.models.document_diagnostics_response import DocumentDiagnosticsResponse
from mixpeek.models.document_lineage_response import DocumentLineageResponse
from mixpeek.models.document_response import DocumentResponse

from mediatheca.kernel import clock
from mediatheca.kernel.documents import Document


def derived(collection_id: str, document_id: str, object_id: str = "obj_1", **system: Any) -> Document:
    """A document as extraction leaves it."""
    full = {
        "root_bucket_id": "bkt_1",
        "source_type": "bucket",
        "source_object_id": object_id,
        "lineage_path": f"bkt_1/{collection_id}",
        "feature_extractor_id": "text_extractor_v1",
        **system,
    }
    moment = clock.now()
    return Document(document_id, collection_id, {"a": 1}, {}, object_id, object_id, full, moment, moment)


def put_object(home: Tenant, object_id: str, error: str | None = None) -> None:
    moment = clock.now()
    row = {"object_id": object_id, "bucket_id": "bkt_1", "fields": {}, "metadata": {}, "error": error}
    with home.world.db.begin(home.scope) as tx:
        tx.insert("objects", [{**row, "created_at": moment, "updated_at": moment}])


def test_lineage_leads_from_the_object_to_the_document(home: Tenant) -> None:
    collection = home.collection()
    home.derive(collection, [derived(collection, "d")])
    found = home.call("GET", f"/collections/{collection}/documents/d/lineage")
    parsed = DocumentLineageResponse.from_dict(found)
    assert parsed is not None
    assert parsed.lineage is not None
    assert (parsed.lineage.root_object_id, parsed.lineage.root_bucket_id) == ("obj_1", "bkt_1")
    assert parsed.lineage.source_type == "bucket"
    step = found["lineage"]["lineage_chain"][0]
    assert (step["document_id"], step["feature_extractor_id"]) == ("d", "text_extractor_v1")
    assert (found["depth"], found["total_steps"]) == (1, 1)


def test_a_directly_written_document_says_that_nothing_lies_before_it(home: Tenant) -> None:
    collection = home.collection()
    home.call("POST", f"/collections/{collection}/documents", {"document_id": "d"})
    found = home.call("GET", f"/collections/{collection}/documents/d/lineage")
    assert (found["lineage"]["source_type"], found["depth"]) == ("direct_upsert", 0)
    assert "directly" in found["message"]


def test_ancestors_and_descendants_follow_the_source_document(home: Tenant) -> None:
    first, second, third = (home.collection(name) for name in ("first", "second", "third"))
    home.call("POST", f"/collections/{first}/documents", {"document_id": "a"})
    for collection, ident, source, parent in (
        (second, "b", first, "a"),
        (third, "c", second, "b"),
        (third, "c2", second, "b"),
    ):
        body = {
            "document_id": ident,
            "source_type": "collection",
            "source_collection_id": source,
            "source_document_id": parent,
        }
        home.call("POST", f"/collections/{collection}/documents", body)
    home.call("POST", f"/collections/{first}/documents", {"document_id": "B", "source_document_id": "x"})
    up = home.call("GET", f"/collections/{third}/documents/c/ancestors")
    assert [document["document_id"] for document in up] == ["b", "a"]
    for document in up:
        DocumentResponse.from_dict(document)
    down = home.call("GET", f"/collections/{second}/documents/b/descendants")
    assert [document["document_id"] for document in down] == ["c", "c2"]
    assert home.call("GET", f"/collections/{third}/documents/c/descendants") == []
    home.call("DELETE", f"/collections/{second}/documents/b")
    assert home.call("GET", f"/collections/{third}/documents/c/ancestors") == []


def test_a_circle_of_sources_ends(home: Tenant) -> None:
    collection = home.collection()
    for ident, source in (("a", "b"), ("b", "a")):
        home.call("POST", f"/collections/{collection}/documents", {"document_id": ident, "source_document_id": source})
    up = home.call("GET", f"/collections/{collection}/documents/a/ancestors")
    assert [document["document_id"] for document in up] == ["b"]


def test_an_object_shows_all_its_documents_and_their_tree(home: Tenant) -> None:
    first, second = home.collection("first"), home.collection("second")
    put_object(home, "obj_1")
    home.derive(first, [derived(first, "a1"), derived(first, "a2"), derived(first, "z", "obj_2")])
    child = {"source_type": "collection", "source_collection_id": first, "source_document_id": "a1"}
    home.derive(second, [derived(second, "b1", **child)])
    found = home.call("GET", "/objects/obj_1/documents", limit=2)
    assert [document["document_id"] for document in found["documents"]] == ["a1", "a2"]
    assert (found["total_documents"], found["pagination"]["total"]) == (3, 3)
    rest = home.call("GET", "/objects/obj_1/documents", limit=2, cursor=found["pagination"]["next_cursor"])
    assert [document["document_id"] for document in rest["results"]] == ["b1"]
    for page in (found, rest):
        assert page["collections"] == [
            {"collection_id": first, "document_count": 2},
            {"collection_id": second, "document_count": 1},
        ]
    last = home.call("GET", "/objects/obj_1/documents", limit=1, offset=2)
    assert [document["document_id"] for document in last["results"]] == ["b1"]
    assert last["pagination"]["next_cursor"] is None
    tree = home.call("GET", "/objects/obj_1/decomposition-tree", include_document_ids=True)["tree"]
    assert [(node["document_ids"], node["document_ids_truncated"]) for node in tree] == [(["a1", "a2"], False)]
    some = home.call("GET", "/objects/obj_1/documents", collection_ids=["second"])
    assert some["collections"] == [{"collection_id": second, "document_count": 1}]
    tree = home.call("GET", "/objects/obj_1/decomposition-tree", include_document_ids=True)
    assert (tree["root_bucket_id"], tree["total_documents"]) == ("bkt_1", 3)
    assert [(node["collection_id"], node["document_ids"]) for node in tree["tree"]] == [(first, ["a1", "a2"])]
    assert [node["collection_name"] for node in tree["tree"][0]["children"]] == ["second"]
    assert "document_ids" not in home.call("GET", "/objects/obj_1/decomposition-tree")["tree"][0]
    home.call("DELETE", f"/collections/{first}/documents/a1")
    assert home.call("GET", "/objects/obj_1/documents")["total_documents"] == 2


def test_an_object_without_documents_is_empty_and_an_unknown_one_is_not_found(home: Tenant, world: World) -> None:
    home.collection()
    put_object(home, "obj_empty")
    assert home.call("GET", "/objects/obj_empty/documents")["total_documents"] == 0
    assert home.call("GET", "/objects/obj_empty/decomposition-tree")["tree"] == []
    for suffix in ("documents", "decomposition-tree"):
        home.call("GET", f"/objects/nothing/{suffix}", status=404)
        world.tenant().call("GET", f"/objects/obj_empty/{suffix}", status=404)
    home.call("GET", "/objects/obj_empty/documents", collection_ids=["nothing"], status=404)


def test_diagnostics_say_why_a_document_is_not_found(home: Tenant) -> None:
    collection = home.collection()
    documents = f"/collections/{collection}/documents"
    home.call(
        "POST", documents, {"document_id": "full", "vectors": {"letters": vector_of("a"), "pixels": [1, 2, 3, 4]}}
    )
    home.call("POST", documents, {"document_id": "half", "vectors": {"letters": vector_of("a")}})
    home.call("POST", documents, {"document_id": "none"})
    verdicts = {}
    for ident in ("full", "half", "none"):
        found = home.call("GET", f"{documents}/{ident}/diagnostics")
        DocumentDiagnosticsResponse.from_dict(found)
        verdicts[ident] = found["visibility_reason"]
    assert [verdicts[ident]["searchable"] for ident in ("full", "half", "none")] == [True, True, False]
    assert "image_extractor_v1_pixels" in verdicts["half"]["reason"]
    assert "no vector" in verdicts["none"]["reason"]
    home.world.services.indexer.index.delete(collection, ["full"])
    lost = home.call("GET", f"{documents}/full/diagnostics")["visibility_reason"]
    assert lost["searchable"] is False
    home.call("GET", f"{documents}/nothing/diagnostics", status=404)


def test_diagnostics_show_the_failures_of_the_source(home: Tenant) -> None:
    collection = home.collection()
    put_object(home, "obj_broken", error="the object was refused")
    home.derive(collection, [derived(collection, "d", "obj_broken")])
    row = {
        "batch_id": "btch_1",
        "collection_id": collection,
        "object_id": "obj_broken",
        "phase": "extract",
        "attempt": 1,
    }
    with home.world.db.begin(home.scope) as tx:
        why = {"reason": "broken file", "error_type": "permanent", "extractor": "x", "created_at": clock.now()}
        tx.insert("failed_items", [{**row, **why, "item_id": "item_1"}])
    found = home.call("GET", f"/collections/{collection}/documents/d/diagnostics")
    DocumentDiagnosticsResponse.from_dict(found)
    assert [entry["error"] for entry in found["recent_failures"]["failures"]] == [
        "broken file",
        "the object was refused",
    ]
    assert found["diagnostic_history"]["entries"][0]["source"] == "lineage.chain"
    assert TEXT.name not in found["visibility_reason"]["reason"]
