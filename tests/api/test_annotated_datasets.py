"""Annotations feed ground truth: data sets of what people or models said about results."""

from __future__ import annotations

from typing import Any

from learning_shop import Shop

from helpers import failed, ok


def annotate(shop: Shop, result: dict[str, Any], document: str, label: str, **more: Any) -> None:
    body = {"document_id": document, "label": label, "execution_id": result["execution_id"]}
    shop.post("/annotations", {**body, "retriever_id": result["retriever_id"], **more})


def generated(shop: Shop, retriever: str, **spec: Any) -> dict[str, Any]:
    shop.server.app.services.executions.flush()
    path = f"/retrievers/{retriever}/evaluations/generate-from-annotations"
    return dict(shop.post(path, {"dataset_name": "annotated", **spec}))


def test_verdicts_become_graded_judgments_of_what_was_asked(shop: Shop) -> None:
    retriever = shop.retriever()
    rose, sea = shop.run(retriever, "red rose"), shop.run(retriever, "blue sea")
    annotate(shop, rose, "rose", "relevant")
    annotate(shop, rose, "mug", "Not Relevant")
    annotate(shop, rose, "pot", "perhaps")
    annotate(shop, sea, "sea", "whatever", payload={"grade": 5})
    found = generated(shop, retriever)
    queries = {query["query_input"]["query"]: query for query in found["queries"]}
    assert queries["red rose"]["relevance_scores"] == {"rose": 3, "mug": 0}
    assert queries["red rose"]["relevant_documents"] == ["rose"]
    assert queries["blue sea"]["relevance_scores"] == {"sea": 5}
    assert found["metadata"]["generated_from"] == "annotations"
    assert found["metadata"]["left_out"] == {"label 'perhaps' has no grade": 1}
    record = shop.evaluated(retriever, "annotated", k_values=[5])
    assert (record["status"], record["overall_metrics"]["mrr"]) == ("completed", 1.0)


def test_several_verdicts_are_averaged_by_how_sure_they_are(shop: Shop) -> None:
    retriever = shop.retriever()
    result = shop.run(retriever, "red rose")
    annotate(shop, result, "rose", "perfect", confidence=0.9)
    annotate(shop, result, "rose", "wrong", confidence=0.1)
    annotate(shop, result, "mug", "relevant", confidence=0.2)
    assert generated(shop, retriever)["queries"][0]["relevance_scores"] == {"rose": 5, "mug": 3}
    sure = generated(shop, retriever, dataset_name="sure", min_confidence=0.5)
    assert sure["queries"][0]["relevance_scores"] == {"rose": 5}
    two = generated(shop, retriever, dataset_name="two", min_annotations=2)
    assert two["queries"][0]["relevance_scores"] == {"rose": 5}


def test_labels_of_ones_own_are_given_grades(shop: Shop) -> None:
    retriever = shop.retriever()
    annotate(shop, shop.run(retriever), "rose", "Hit!")
    own = generated(shop, retriever, label_grades={"hit!": 4})
    assert own["queries"][0]["relevance_scores"] == {"rose": 4}


def test_a_question_can_be_said_by_the_annotation_itself(shop: Shop) -> None:
    retriever = shop.retriever()
    body = {"document_id": "rose", "label": "yes", "retriever_id": retriever}
    shop.post("/annotations", {**body, "payload": {"query_input": {"query": "flower"}}})
    assert generated(shop, retriever)["queries"][0]["query_input"] == {"query": "flower"}


def test_the_route_of_interactions_takes_a_source(shop: Shop) -> None:
    retriever = shop.retriever()
    annotate(shop, shop.run(retriever), "rose", "yes")
    shop.server.app.services.executions.flush()
    path = f"/retrievers/{retriever}/evaluations/generate-from-interactions"
    assert shop.post(path, {"source": "annotations"})["query_count"] == 1
    failed(shop.client.post(f"/v1{path}", json={"source": "dreams"}), 422)
    failed(shop.client.post(f"/v1{path}", json={"source": "annotations", "label_grades": {"x": 9}}), 422)


def test_nothing_usable_says_what_is_missing(shop: Shop, foreign: Shop) -> None:
    retriever = shop.retriever()
    path = f"/v1/retrievers/{retriever}/evaluations/generate-from-annotations"
    assert "annotate with retriever_id" in str(failed(shop.client.post(path), 400))
    annotate(shop, shop.run(retriever), "rose", "irrelevant")
    annotate(shop, shop.run(retriever), "mug", "hm")
    shop.post("/annotations", {"document_id": "rose", "label": "yes", "retriever_id": retriever})
    shop.server.app.services.executions.flush()
    error = str(failed(shop.client.post(path, json={}), 400))
    assert "label 'hm' has no grade" in error
    assert "the question is not known" in error
    failed(foreign.client.post(path, json={}), 404)
    assert ok(shop.client.get("/v1/retrievers/evaluations/datasets"))["total"] == 0
