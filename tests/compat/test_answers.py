"""The wizard's other retrievers, as it prints them: questions answered from documents, labels, filters, reranking."""

from __future__ import annotations

from typing import Any

import pytest
from compat_served import Served
from mixpeek import Mixpeek
from mixpeek._client.client import MixpeekAPIError
from sdk_world import TEXT_URI, World

QUESTION = "What can I drink tea from?"


@pytest.fixture
def world(served: Served, client: Mixpeek, namespace: str) -> World:
    return World(client, served.url, namespace).build()


def question_answering(world: World, **changes: Any) -> str:
    """The retriever of the wizard's step 5e, "Q&A"."""
    search = {"feature_uri": TEXT_URI, "query": {"input_mode": "text", "text": "{{INPUT.question}}"}, "top_k": 10}
    retrieve = {
        "stage_name": "retrieve_context",
        "stage_type": "filter",
        "config": {
            "stage_id": "feature_search",
            "parameters": {
                "searches": [search],
                "final_top_k": 10,
                "fusion": "rrf",
                "collection_identifiers": [world.collection],
            },
        },
    }
    answering = {
        "prompt": "Using only the retrieved documents, answer concisely: {{INPUT.question}}",
        "model": "gpt-4o-mini",
        "output_field": "answer",
        **changes,
    }
    synthesize = {
        "stage_name": "synthesize_answer",
        "stage_type": "transform",
        "config": {"stage_id": "llm_filter", "parameters": answering},
    }
    body = {
        "retriever_name": world.name("project-qa"),
        "collection_identifiers": [world.collection],
        "stages": [retrieve, synthesize],
        "input_schema": {"question": {"type": "string", "description": "Question to answer from the corpus"}},
    }
    made = world.request("POST", "/retrievers", body)
    stages = made["retriever"]["stages"]
    assert (stages[1]["stage_type"], stages[1]["declared_stage_type"]) == ("apply", "transform")
    return str(made["retriever"]["retriever_id"])


def test_a_question_is_answered_from_the_documents_it_found(world: World, served: Served) -> None:
    retriever = question_answering(world)
    before = len(served.language.requests)
    found = world.request("POST", f"/retrievers/{retriever}/execute", {"inputs": {"question": QUESTION}})
    assert found["status"] == "completed"
    assert [document["answer"] for document in found["results"]] == ["The red mug [1]."] * 3
    asked = served.language.requests[before]
    assert (len(served.language.requests) - before, asked.model) == (1, "gpt-4o-mini")
    assert f"answer concisely: {QUESTION}" in asked.text
    assert "[1] " in asked.text
    assert "A red mug for tea and coffee" in asked.text
    stage = found["stage_statistics"]["stages"]["synthesize_answer"]
    assert (stage["input_count"], stage["output_count"], stage["llm_calls"]) == (3, 3, 1)
    assert stage["metadata"]["sources"][0]["document_id"] == found["results"][0]["document_id"]
    assert found["budget"]["tokens_used"] == stage["tokens_used"] > 0


def test_no_document_is_no_answer_and_asks_no_model(world: World, served: Served) -> None:
    retriever = question_answering(world)
    before = len(served.language.requests)
    nothing = {"field": "price", "operator": "gt", "value": 1_000_000}
    body = {"inputs": {"question": QUESTION}, "filters": nothing}
    found = world.request("POST", f"/retrievers/{retriever}/execute", body)
    assert (found["results"], found["status"]) == ([], "completed")
    assert len(served.language.requests) == before


def test_a_model_that_cannot_be_reached_is_said_and_never_invented(world: World) -> None:
    retriever = question_answering(world, model="gemini-2.5-flash", provider="google")
    with pytest.raises(MixpeekAPIError) as caught:
        world.request("POST", f"/retrievers/{retriever}/execute", {"inputs": {"question": QUESTION}})
    error = caught.value.detail["error"]
    assert (caught.value.status, error["details"]) == (503, {"retryable": False, "stage": "synthesize_answer"})
    assert "MEDIATHECA_LANGUAGE_MODEL" in error["message"]  # what to do about it


def test_a_retriever_labels_by_the_nearest_example(world: World) -> None:
    """The retriever behind a taxonomy, step 5g: one search, no fusion, the best match only."""
    parameters = {
        "searches": [
            {"feature_uri": TEXT_URI, "query": {"input_mode": "text", "text": "{{INPUT.query}}"}, "top_k": 3},
        ],
        "final_top_k": 1,
        "collection_identifiers": [world.collection],
    }
    config = {"stage_id": "feature_search", "parameters": parameters}
    body = {
        "retriever_name": "project-taxonomy-matcher",
        "collection_identifiers": [world.collection],
        "stages": [{"stage_name": "label_search", "stage_type": "filter", "config": config}],
        "input_schema": {"query": {"type": "string"}},
    }
    made = world.request("POST", "/retrievers", body)["retriever"]["retriever_id"]
    found = world.request("POST", f"/retrievers/{made}/execute", {"inputs": {"query": "earphones for music"}})
    assert [document["name"] for document in found["results"]] == ["Headphones"]


def test_filters_and_a_second_ranking_follow_the_search(world: World) -> None:
    """Goals e and g of the wizard: `attribute_filter`, then `rerank`, after `feature_search`."""
    search = {"feature_uri": TEXT_URI, "query": {"input_mode": "text", "text": "{{INPUT.query}}"}, "top_k": 10}
    cheap = {"field": "price", "operator": "lt", "value": 100}
    stages = [
        {"stage_name": "find", "config": {"stage_id": "feature_search", "parameters": {"searches": [search]}}},
        {"stage_name": "affordable", "config": {"stage_id": "attribute_filter", "parameters": cheap}},
        {"stage_name": "best", "config": {"stage_id": "rerank", "parameters": {"top_k": 1, "document_field": "text"}}},
    ]
    body = {"collection_identifiers": ["texts"], "stages": stages, "inputs": {"query": "a machine for the lawn"}}
    found = world.request("POST", "/retrievers/execute", body)
    (best,) = found["results"]
    assert best["price"] < 100
    if found["status"] == "completed":  # there is a cross-encoder among the models
        assert {"rerank", "original_score"} <= set(best["scores"])
    else:  # there is none, and the answer says so
        assert [entry["reason"].split(":")[0] for entry in found["degraded"]] == ["no reranker"]
        assert {"rerank_lexical_dense", "original_score"} <= set(best["scores"])
    counts = {name: stage["output_count"] for name, stage in found["stage_statistics"]["stages"].items()}
    assert (counts["affordable"], counts["best"]) == (2, 1)
