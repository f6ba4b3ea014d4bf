"""Sparse vectors, embedding tasks and pieces of long queries in feature_search, through the real engine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from mediatheca.flows.retrieve import ExecutionContext
from mediatheca.kernel.documents import Document, VectorIndex
from mediatheca.kernel.errors import MediathecaError, UnavailableError, ValidationError
from mediatheca.kernel.models import EmbeddingTask
from mediatheca.kernel.sparse import to_wire
from mediatheca.stages import CollectionView
from mediatheca.testing.stages import (
    TEXT_INDEX,
    TEXT_URI,
    HashedTermsForTests,
    HashedWordsForTests,
    MemorySearcher,
    ModelsForTests,
    engine_for_tests,
    hashed_words,
)

TERMS_URI = "mixpeek://sparse_extractor@v1/hashed_terms_for_tests"
TERMS = VectorIndex(
    "sparse_terms", TERMS_URI, 0, "dot", model="hashed_terms_for_tests", weights="sha256:terms", sparse=True
)
OWN = VectorIndex("own_terms", "mixpeek://passthrough_extractor@v1/own", 0, "dot", modalities=("vector",), sparse=True)
VIEW = CollectionView("col_1", "shop", (TEXT_INDEX, TERMS, OWN), {"text": "text"})
TEXTS = {"a": "red fox", "b": "red fox red fox", "c": "blue whale", "d": "red whale"}
terms_of = HashedTermsForTests()._terms


def models() -> ModelsForTests:
    made = ModelsForTests()
    made.known_sparse[TERMS.model] = HashedTermsForTests()
    return made


def documents() -> list[Document]:
    return [
        Document(
            ident,
            "col_1",
            {"text": text},
            {TEXT_INDEX.name: hashed_words(text), TERMS.name: terms_of(text), OWN.name: terms_of(text)},
        )
        for ident, text in TEXTS.items()
    ]


def run(searches: list[dict[str, Any]], known: ModelsForTests | None = None, **parts: Any) -> dict[str, Any]:
    searcher = MemorySearcher()
    searcher.add(VIEW, documents())
    engine = engine_for_tests(searcher, known or models())
    parameters = {"searches": searches, **parts.pop("parameters", {})}
    plan = engine.compile([{"stage_id": "feature_search", "parameters": parameters}, *parts.pop("then", [])], [VIEW])
    return asyncio.run(engine.execute(plan, {"limit": 10, **parts}, ExecutionContext()))


def ids(body: dict[str, Any]) -> list[str]:
    return [document["document_id"] for document in body["documents"]]


def test_a_text_is_searched_for_by_its_terms():
    body = run([{"feature_uri": TERMS_URI, "query": "red fox"}])
    assert ids(body) == ["b", "a", "d"]
    assert [document["score"] for document in body["documents"]] == [4.0, 2.0, 1.0]


@pytest.mark.parametrize(
    "query",
    [
        {"input_mode": "vector", "value": to_wire(terms_of("whale"))},
        {"input_mode": "sparse", **to_wire(terms_of("whale"))},
        to_wire(terms_of("whale")),
    ],
)
def test_a_sparse_vector_of_the_callers_is_searched_with(query):
    assert ids(run([{"feature_uri": OWN.feature_uri, "query": query}])) == ["c", "d"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"input_mode": "vector", "value": [0.1, 0.2]}, "indices"),
        ({"input_mode": "vector", "value": {"indices": [1, 1], "values": [1, 2]}}, "twice"),
        ("a text", "input_mode vector"),
    ],
)
def test_another_query_against_own_sparse_vectors_is_refused(query, message):
    with pytest.raises(ValidationError, match=message):
        run([{"feature_uri": OWN.feature_uri, "query": query}])


def test_dense_sparse_and_lexical_searches_are_fused_and_explained():
    searches = [
        {"feature_uri": TEXT_URI, "query": "red fox"},
        {"feature_uri": TERMS_URI, "query": "red fox"},
        {"lexical": True, "query": "red fox"},
    ]
    body = run(searches, explain=True)
    assert set(ids(body)[:2]) == {"a", "b"}
    arms = {arm["arm"]: arm for arm in body["documents"][0]["explanation"]["arms"]}
    assert {arm["kind"] for arm in arms.values()} == {"dense", "sparse", "lexical"}
    assert arms[TERMS_URI]["kind"] == "sparse"


def test_why_a_document_shares_no_term_is_said():
    body = run([{"feature_uri": TERMS_URI, "query": "fox"}], explain_document="c")
    assert body["explained_document"]["reason"] == "no_shared_term"


def test_a_stored_sparse_vector_may_be_the_query():
    query = {"input_mode": "document", "document_ref": {"collection_id": "col_1", "document_id": "a"}}
    assert ids(run([{"feature_uri": TERMS_URI, "query": query}])) == ["b", "d"]


def test_documents_are_compared_by_dense_vectors_only():
    searches = [{"feature_uri": TERMS_URI, "query": "red"}, {"feature_uri": TEXT_URI, "query": "red"}]
    assert run(searches, then=[{"stage_id": "mmr", "parameters": {}}])["status"] == "completed"
    stage = {"stage_id": "mmr", "parameters": {"diversity_feature_uri": TERMS_URI}}
    with pytest.raises(MediathecaError, match="sparse"):
        run(searches, then=[stage])


class Tasked(HashedWordsForTests):
    """Puts a word for each task before a text."""

    def embed_for(self, texts: Sequence[str], task: EmbeddingTask) -> np.ndarray:
        return self.embed_texts([text if task == "none" else f"{task} {text}" for text in texts], query=True)


@pytest.mark.parametrize(
    "task", ["retrieval_query", "retrieval_document", "semantic_similarity", "classification", "none"]
)
def test_the_embedding_task_reaches_the_model(task):
    known = models()
    known.known[TEXT_INDEX.model] = Tasked(known.info(TEXT_INDEX.model))
    query = {"input_mode": "text", "value": "red fox", "embedding_task": task}
    body = run([{"feature_uri": TEXT_URI, "query": query}], known)
    text = "red fox" if task == "none" else f"{task} red fox"
    expected = float(hashed_words(text) @ hashed_words(TEXTS["a"]))
    assert body["warnings"] == []
    assert {d["document_id"]: d["score"] for d in body["documents"]}["a"] == pytest.approx(expected, abs=1e-6)


class Choking(HashedWordsForTests):
    """Refuses texts with a certain word."""

    def embed_texts(self, texts: Sequence[str], *, query: bool) -> np.ndarray:
        if any("poison" in text for text in texts):
            raise UnavailableError("the model choked")
        return super().embed_texts(texts, query=query)


LONG = "red fox and more words. poison in the middle here. blue whale at the very end."
PIECES = {"split_method": "sentences", "chunk_size": 30}


def chopped(text: str, **more: Any) -> dict[str, Any]:
    known = models()
    known.known[TEXT_INDEX.model] = Choking(known.info(TEXT_INDEX.model))
    return run([{"feature_uri": TEXT_URI, "query": text, "query_preprocessing": PIECES}], known, **more)


def test_a_piece_that_cannot_be_embedded_costs_its_own_results_only():
    body = chopped(LONG)
    assert set(ids(body)) == set(TEXTS)
    assert body["completeness"]["embeddings"] == "partial"
    assert body["status"] == "degraded"
    assert "the model choked" in body["degraded"][0]["reason"]
    (told,) = body["stage_statistics"]["stages"]["feature_search"]["metadata"]["searches"]
    assert told["failed_chunks"] == 1
    chunks = [chunk for document in body["documents"] for chunk in document["query_chunks"]]
    assert all("poison" not in LONG[chunk["start"] : chunk["end"]] for chunk in chunks)
    assert {chunk["chunk"] for chunk in chunks} <= {0, 2, 3}


def test_when_no_piece_can_be_embedded_the_search_fails():
    with pytest.raises(UnavailableError, match="choked"):
        chopped("poison is here now. more poison is there too.")


def test_a_whole_query_is_complete():
    body = chopped("red fox and more words. blue whale at the very end.")
    assert body["completeness"]["embeddings"] == "complete"
    assert body["exact"] is True


def test_pieces_of_a_query_and_highlights_can_be_read_in_templates():
    template = "{{DOC.query_chunks[0].chunk}}/{{DOC.query_chunks | length}}/{{DOC.highlights | length}}"
    then = [{"stage_id": "json_transform", "parameters": {"template": {"told": template}}}]
    searches = [{"feature_uri": TEXT_URI, "query": "red fox and so on. blue whale.", "query_preprocessing": PIECES}]
    body = run(searches, then=then, parameters={"highlight": ["text"]})
    assert body["documents"][0]["told"].count("/") == 2


def test_pieces_without_times_are_no_moments_but_other_fields_are_looked_at():
    searches = [{"feature_uri": TEXT_URI, "query": "red fox and so on. blue whale.", "query_preprocessing": PIECES}]
    body = run(searches, then=[{"stage_id": "moment_group", "parameters": {}}])
    assert body["stage_statistics"]["stages"]["moment_group"]["metadata"]["moments"] == 0
    chunk = run(searches)["documents"][0]["query_chunks"][0]
    assert set(chunk) == {"chunk", "start", "end", "start_ms", "end_ms", "page", "score"}
    assert chunk["start_ms"] is chunk["page"] is None
