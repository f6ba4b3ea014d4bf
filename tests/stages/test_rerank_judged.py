"""`rerank` by the judgement of a language model."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest
from language_runs import LanguageSuite, run_with_model
from stage_runs import ids, rows_of, told

from language_server import KEY, Asked, LanguageServer, Say
from mediatheca.kernel.errors import UnavailableError
from mediatheca.stages.rerank import rerank

ROWS = rows_of(0.9, 0.8, 0.7, text=["a stone", "a red fox", "a fox"])


def documents(asked: Asked) -> list[dict[str, Any]]:
    return [json.loads(line) for line in asked.last.splitlines() if line.startswith('{"id"')]


def grading(**grades: int) -> Any:
    """Grades by a word of the document; 0 for the others."""

    def answer(asked: Asked) -> str:
        judgements = [
            {"id": entry["id"], "relevance": max((g for w, g in grades.items() if w in entry["document"]), default=0)}
            for entry in documents(asked)
        ]
        return json.dumps({"judgements": judgements})

    return answer


class TestJudgedRerank(LanguageSuite):
    stage = rerank
    parameters: ClassVar[dict[str, Any]] = {"relevance_criteria": "is red"}
    script: ClassVar[Any] = [grading(red=90, fox=50)]


def test_documents_are_sorted_by_what_the_model_judges():
    with LanguageServer([grading(red=90, fox=40)]) as server:
        parameters = {"relevance_criteria": "shows a red animal", "score_field": "scores.judged"}
        body = run_with_model(server, "rerank", parameters, ROWS, inputs={"query": "animals"})
    assert ids(body) == ["b", "c", "a"]
    assert [document["score"] for document in body["documents"]] == [0.9, 0.4, 0.0]
    first = body["documents"][0]["scores"]
    assert (first["rerank"], first["judged"], first["rerank_probability"]) == (0.9, 0.9, 0.9)
    assert (first["original_score"], first["rerank_position"]) == (0.8, 1)
    assert told(body)["model"] == "openai:llama3.1:8b"
    assert "shows a red animal" in server.requests[0].last
    assert '"animals"' in server.requests[0].last
    assert server.requests[0].body["temperature"] == 0


def test_a_named_model_judges_against_the_query():
    with LanguageServer([grading(fox=100)]) as server:
        body = run_with_model(server, "rerank", {"decision_model": "qwen3:4b"}, ROWS, inputs={"query": "fox"})
    assert ids(body) == ["b", "c", "a"]
    assert server.requests[0].model == "qwen3:4b"


def test_many_documents_are_judged_in_batches_and_only_the_candidates():
    rows = rows_of(*[1 - n / 100 for n in range(26)], text=[f"stone {n}" for n in range(25)] + ["fox"])
    with LanguageServer([grading(fox=100)]) as server:
        body = run_with_model(
            server, "rerank", {"relevance_criteria": "fox", "max_candidates": 25}, rows, inputs={"query": "q"}
        )
    assert sorted(len(documents(asked)) for asked in server.requests) == [5, 10, 10]
    assert ids(body)[-1] == "z"
    assert told(body)["scored"] == 25


def test_what_the_model_forgets_or_invents_changes_no_other_document():
    said = {"judgements": [{"id": "2", "relevance": 80}, {"id": "2", "relevance": 1}]}
    with LanguageServer([json.dumps(said)]) as server:
        body = run_with_model(server, "rerank", {"relevance_criteria": "x"}, ROWS, inputs={"query": "q"})
    assert ids(body) == ["b", "a", "c"]
    assert body["documents"][0]["score"] == 0.8
    assert any("no judgement on 2 documents" in warning for warning in body["warnings"])


def test_a_budget_that_ends_in_the_middle_keeps_what_was_judged():
    rows = rows_of(*[1 - n / 100 for n in range(20)], text=["stone " * 10] * 20)
    with LanguageServer([grading(stone=30)]) as server:
        body = run_with_model(
            server,
            "rerank",
            {"relevance_criteria": "x", "max_concurrent_batches": 1},
            rows,
            inputs={"query": "q"},
            budget={"max_calls": 1},
        )
    assert body["status"] == "degraded"
    assert "10 of" in body["degraded"][0]["reason"]
    assert ids(body) == [chr(97 + n) for n in range(20)]
    assert told(body)["not_judged"] == 10


def test_without_a_language_model_the_answer_says_how_to_get_one():
    with LanguageServer() as server, pytest.raises(UnavailableError, match="MEDIATHECA_LANGUAGE"):
        run_with_model(
            server, "rerank", {"relevance_criteria": "x"}, ROWS, inputs={"query": "q"}, changes={"language_url": ""}
        )


def test_a_model_that_fails_fails_the_stage_which_may_be_skipped():
    with LanguageServer([Say(status=500)]) as server:
        body = run_with_model(
            server, "rerank", {"relevance_criteria": "x"}, ROWS, inputs={"query": "q"}, own={"on_error": "skip"}
        )
    assert body["status"] == "degraded"
    assert ids(body) == ["a", "b", "c"]


def test_the_key_of_the_caller_is_used():
    with LanguageServer([grading(fox=10)]) as server:
        parameters = {"relevance_criteria": "x", "api_key": KEY}
        body = run_with_model(server, "rerank", parameters, ROWS, inputs={"query": "q"})
    assert body["status"] == "completed"
    assert server.requests[0].key == KEY
