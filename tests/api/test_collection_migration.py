"""A collection changes its model while it stays searchable. The two bundled text models have 384 dimensions each: only
their weights tell their vectors apart, so a mistake would not be noticed by any shape."""

from __future__ import annotations

import threading

import httpx
import pytest
from migration_world import E5, MINILM, TEXTS, Library, uri

from helpers import failed, ok, places, wait_for
from server import Server


@pytest.fixture
def library(client: httpx.Client) -> Library:
    made = Library(client)
    made.add(TEXTS)
    return made


def test_a_migration_is_built_compared_switched_and_finished(library: Library) -> None:
    before = library.retriever(uri(E5))
    ident = library.migrate(compare={"sample": 50, "k": 3})
    built = library.reaches(ident, "ready")
    assert (built["progress"]["built"], built["progress"]["failed"]) == (len(TEXTS), 0)
    (index,) = built["report"]["indexes"]
    assert (index["from"], index["to"], index["queries"]) == (uri(E5), uri(MINILM), len(TEXTS))
    assert 0 <= index["overlap_at_k"] <= 1
    assert built["index_map"] == {uri(E5): uri(MINILM)}
    assert library.collection_view()["vector_indexes"][0]["feature_uri"] == uri(E5)

    library.step(ident, "switch", "switched")
    view = library.collection_view()
    assert [entry["feature_uri"] for entry in view["vector_indexes"]] == [uri(MINILM)]
    assert view["feature_extractor"]["parameters"]["embedding_model"] == MINILM
    assert view["index_map"] == {uri(E5): uri(MINILM)}
    assert library.found(before, "kitten on a couch")[0] == "cat"  # the old name leads to the new vectors
    assert library.found(library.retriever(uri(MINILM)), "space flight")[0] == "rocket"

    library.step(ident, "finish", "completed")
    assert library.found(before, "kitten on a couch")[0] == "cat"
    assert set.union(*library.vectors().values()) == {f"text_extractor_v1_{MINILM}"}
    library.add({"piano": "A concert for piano and strings"})
    assert "piano" in library.found(before, "music for a grand piano", 3)


def test_documents_written_during_and_after_the_switch_are_found_at_once(library: Library) -> None:
    ident = library.migrate()
    library.reaches(ident, "ready")
    library.add({"piano": "A concert for piano and strings"})
    search = library.retriever(uri(E5))
    assert "piano" in library.found(search, "piano concert", 3)
    library.step(ident, "switch", "switched")
    assert library.found(search, "piano concert", 1) == ["piano"]
    library.add({"tractor": "The farmer ploughs his field with a tractor"})
    assert library.found(search, "agricultural machine", 1) == ["tractor"]


def test_a_rollback_brings_the_old_model_back_for_everything_written_meanwhile(library: Library) -> None:
    ident = library.migrate()
    library.reaches(ident, "ready")
    library.step(ident, "switch", "switched")
    library.add({"tractor": "The farmer ploughs his field with a tractor"})
    new = library.retriever(uri(MINILM))
    library.step(ident, "rollback", "ready")
    view = library.collection_view()
    assert [entry["feature_uri"] for entry in view["vector_indexes"]] == [uri(E5)]
    assert view["feature_extractor"]["parameters"]["embedding_model"] == E5
    assert library.found(library.retriever(uri(E5)), "tractor in the field", 1) == ["tractor"]
    assert library.found(new, "tractor in the field", 1) == ["tractor"]  # made while it was switched; it still works
    library.step(ident, "switch", "switched")
    assert library.found(new, "tractor in the field", 1) == ["tractor"]


def test_a_cancelled_migration_leaves_nothing_behind_and_another_may_begin(library: Library) -> None:
    ident = library.migrate()
    library.reaches(ident, "ready")
    assert failed(library.client.post(f"{library.path}/migrate", json={"embedding_model": MINILM}), 409)
    library.step(ident, "cancel", "cancelled")
    assert set.union(*library.vectors().values()) == {f"text_extractor_v1_{E5}"}
    again = library.migrate()
    library.reaches(again, "ready")
    library.step(again, "switch", "switched")
    assert library.found(library.retriever(uri(E5)), "kitten", 1) == ["cat"]


def test_searches_never_miss_a_document_while_a_migration_goes_back_and_forth(library: Library) -> None:
    search, ident = library.retriever(uri(E5)), library.migrate()
    library.reaches(ident, "ready")
    misses: list[list[str]] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            titles = library.found(search, "a cat on the sofa")
            if set(titles) != set(TEXTS) or titles[0] != "cat":
                misses.append(titles)

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for verb, state in (
            ("switch", "switched"),
            ("rollback", "ready"),
            ("switch", "switched"),
            ("finish", "completed"),
        ):
            library.step(ident, verb, state)
    finally:
        stop.set()
        reader.join(120)
    assert misses == []


def test_a_replaced_object_has_the_new_vector_too_when_the_migration_switches(library: Library) -> None:
    ident = library.migrate()
    library.reaches(ident, "ready")
    objects = ok(library.client.post(f"/v1/buckets/{library.bucket}/objects/list", json={"page_size": 100}))["results"]
    cat = next(entry for entry in objects if entry.get("title") == "cat")
    body = {"text": "A parrot talks in its cage"}
    ok(library.client.patch(f"/v1/buckets/{library.bucket}/objects/{cat['object_id']}", json=body))
    library.process(dedup_strategy="replace")
    library.step(ident, "switch", "switched")
    assert library.found(library.retriever(uri(E5)), "a bird that speaks", 1) == ["cat"]


def test_a_golden_data_set_decides_whether_the_switch_happens_by_itself(library: Library) -> None:
    search = library.retriever(uri(E5))
    documents = ok(library.client.post(f"{library.path}/documents/list", json={"page_size": 100}))["results"]
    ids = {item["title"]: item["document_id"] for item in documents}
    queries = [
        {"query_id": title, "query_input": {"query": TEXTS[title]}, "relevant_documents": [ids[title]]}
        for title in TEXTS
    ]
    dataset = {"dataset_name": f"golden {id(library)}", "queries": queries}
    ok(library.client.post("/v1/retrievers/evaluations/datasets", json=dataset))
    asked = {"dataset_name": dataset["dataset_name"], "evaluation_config": {"k_values": [3]}}
    answered = library.client.post(f"/v1/retrievers/{search}/evaluations", json=asked)
    assert answered.status_code == 202, answered.text
    evaluation = answered.json()["evaluation_id"]
    ident = library.migrate(compare={"evaluation_id": evaluation, "k": 3}, auto_switch=True)
    done = library.reaches(ident, "switched", "ready")
    if done["status"] == "ready":  # the switch is only asked for when the build is over
        done = wait_for(lambda: (found := library.migration(ident))["status"] == "switched" and found)
    report = done["report"]
    assert (report["kind"], report["queries"], report["passed"]) == ("golden", len(TEXTS), True)
    assert report["old"]["ndcg"] == report["new"]["ndcg"] == 1.0


def test_what_would_change_documents_is_refused_with_the_way_to_do_it(library: Library) -> None:
    error = failed(library.client.post(f"{library.path}/migrate", json={"parameters": {"split_by": "words"}}), 422)
    assert places(error) == {"body.parameters.split_by"}
    assert "clone" in error["message"]
    vain = {"parameters": {"task_type": "RETRIEVAL_QUERY"}}
    assert places(failed(library.client.post(f"{library.path}/migrate", json=vain), 422)) == {
        "body.parameters.task_type"
    }
    assert failed(library.client.post(f"{library.path}/migrate", json={"embedding_model": E5}), 400)
    assert failed(library.client.post(f"{library.path}/migrate", json={"embedding_model": "no_such_model"}), 503)
    unknown = {"embedding_model": MINILM, "compare": {"evaluation_id": "eval_nothing"}}
    assert failed(library.client.post(f"{library.path}/migrate", json=unknown), 422)
    checked = ok(library.client.post(f"{library.path}/migrations/validate", json={"embedding_model": MINILM}))
    assert checked["changes"] == [{"from": uri(E5), "to": uri(MINILM), "from_stored_text": True}]


def test_the_same_weights_with_another_task_are_another_index(library: Library) -> None:
    answered = library.client.post(f"{library.path}/migrate", json={"parameters": {"embedding_task": "query"}})
    assert answered.status_code == 202, answered.text
    ident = answered.json()["migration_id"]
    library.reaches(ident, "ready")
    library.step(ident, "switch", "switched")
    shown = ok(library.client.get(library.path))
    assert shown["embedding_task"] == shown["feature_extractor"]["parameters"]["embedding_task"] == "query"
    assert library.found(library.retriever(uri(E5)), "a flood in the valley", 1) == ["river"]


def test_a_document_without_its_text_holds_up_the_switch_until_it_is_allowed(library: Library) -> None:
    documents = ok(library.client.post(f"{library.path}/documents/list", json={"page_size": 100}))["results"]
    river = next(item for item in documents if item["title"] == "river")
    ok(library.client.patch(f"{library.path}/documents/{river['document_id']}", json={"text": ""}))
    ident = library.migrate()
    built = library.reaches(ident, "ready")
    assert [entry["document_id"] for entry in built["failed_documents"]] == [river["document_id"]]
    refused = library.step(ident, "switch", "ready")
    assert "allow_incomplete" in refused["error_message"]
    library.step(ident, "switch", "switched", allow_incomplete=True)
    assert "river" not in library.found(library.retriever(uri(E5)), "flood", 10)


def test_another_namespace_sees_no_migration(server: Server, library: Library, stranger: object) -> None:
    ident = library.migrate()
    library.reaches(ident, "ready")
    with stranger.client() as admin:  # type: ignore[attr-defined]
        ok(admin.post("/v1/namespaces", json={"namespace_name": "theirs"}))
    with stranger.client("theirs") as theirs:  # type: ignore[attr-defined]
        assert failed(theirs.get(f"{library.path}/migrations/{ident}"), 404)
        assert failed(theirs.post(f"{library.path}/migrate", json={"embedding_model": MINILM}), 404)


# ---- embedding stored texts anew


def test_reembed_follows_a_patched_text_without_touching_the_source(library: Library) -> None:
    documents = ok(library.client.post(f"{library.path}/documents/list", json={"page_size": 100}))["results"]
    river = next(item for item in documents if item["title"] == "river")
    ok(library.client.patch(f"{library.path}/documents/{river['document_id']}", json={"text": "A submarine dives"}))
    search = library.retriever(uri(E5))

    def reembed(**options: object) -> dict[str, object]:
        answered = library.client.post(f"{library.path}/trigger", json={"reembed": options})
        assert answered.status_code == 202, answered.text
        task = answered.json()["task_id"]

        def ended() -> object:
            found = ok(library.client.get(f"/v1/tasks/{task}"))
            return found if found["status"] in ("COMPLETED", "COMPLETED_WITH_ERRORS", "FAILED") else None

        found = wait_for(ended)
        assert found["status"] == "COMPLETED", found
        return dict(found["outputs"][0])

    assert reembed(only_missing=True)["candidates"] == 0
    dry = reembed(only_missing=False, dry_run=True, document_ids=[river["document_id"]])
    assert (dry["candidates"], dry["reembedded"]) == (1, 0)
    assert library.found(search, "boat below the sea", 1) != ["river"]
    done = reembed(only_missing=False, target_feature_uri=uri(E5))
    assert done["reembedded"] == len(TEXTS)
    assert library.found(search, "boat below the sea", 1) == ["river"]
    error = failed(library.client.post(f"{library.path}/trigger", json={"reembed": {"outputs": ["nothing"]}}), 422)
    assert "text" in error["message"]
