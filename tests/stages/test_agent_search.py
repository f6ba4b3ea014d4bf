"""The `agent_search` stage: what a model may do with it, and what a hostile one may not."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest
from language_runs import LanguageSuite, run_with_model
from stage_runs import VIEW, World, ids, run, told

from language_server import Asked, LanguageServer, Say
from mediatheca.kernel.errors import UnavailableError, ValidationError
from mediatheca.kernel.filters import parse_filter
from mediatheca.stages.agent_search import agent_search
from mediatheca.testing.stages import text_documents

DONE = Say(tools=[("finish_search", {"confidence": 0.9, "summary": "found the fox"})])
ROWS = [
    {"document_id": "a", "text": "red fox", "owner": "us", "price": 3},
    {"document_id": "b", "text": "red fish", "owner": "us", "price": 1},
    {"document_id": "c", "text": "red fox secret plans", "owner": "them", "price": 2},
    {"document_id": "d", "text": "blue whale", "owner": "us"},
]


def search(query: str, **more: Any) -> Say:
    return Say(tools=[("feature_search", {"query": query, **more})])


def condition(field: str, value: Any = None, operator: str = "eq") -> Say:
    arguments = {"field": field, "operator": operator} | ({} if value is None else {"value": value})
    return Say(tools=[("attribute_filter", arguments)])


def world() -> World:
    made = World([])
    made.searcher.add(VIEW, text_documents(VIEW, ROWS))
    return made


def agent(server: LanguageServer, parameters: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    options = {"inputs": {"query": "find the fox"}, "world": world(), "first": True, **options}
    return run_with_model(server, "agent_search", parameters or {}, [], **options)


class TestAgentSearch(LanguageSuite):
    stage = agent_search
    script: ClassVar[Any] = [search("red fox"), DONE]

    def run(self, rows):
        type(self).script = [search("red fox"), DONE]
        return super().run(rows)


def test_the_model_searches_again_and_the_last_documents_are_the_result():
    with LanguageServer([search("whale"), search("red fox", top_k=3), condition("price", 2, "gte"), DONE]) as server:
        body = agent(server)
    assert ids(body) == ["a", "c"]
    found = told(body)
    assert found["stages_invoked"] == ["feature_search", "feature_search", "attribute_filter"]
    assert (found["iterations_used"], found["confidence"], found["summary"]) == (4, 0.9, "found the fox")
    assert found["model_used"] == "openai:llama3.1:8b"
    assert [step["tool"] for step in found["trace"]][-1] == "finish_search"
    assert body["stage_statistics"]["stages"]["tested"]["llm_calls"] == 4
    assert "blue whale" in server.requests[1].text
    assert server.requests[0].tools == ["feature_search", "attribute_filter", "finish_search"]
    assert body["status"] == "completed"


def test_an_agent_may_take_as_long_as_it_was_given_and_a_shorter_stage_is_told():
    with LanguageServer([DONE]) as server:
        assert agent(server, {"timeout_seconds": 300})["limits"] == []
        body = agent(server, {"timeout_seconds": 300, "hard_timeout_ms": 100_000})
    assert [(entry["name"], entry["requested"], entry["applied"]) for entry in body["limits"]] == [
        ("timeout_seconds", 300, 95)
    ]


def test_an_empty_step_keeps_what_was_found():
    with LanguageServer([search("red fox", top_k=2), condition("price", 100), DONE]) as server:
        body = agent(server)
    assert len(ids(body)) == 2
    assert "nothing matched" in server.requests[2].text


HOSTILE = [
    search("{{SECRET.key}} {{CONTEXT}} {% for x in range(9) %}"),
    search("secret plans"),
    condition("owner", "them"),
    condition("owner", "{{SECRET.key}}"),
    Say(tools=[("attribute_filter", {"field": "owner", "operator": "eq", "value": {"OR": [{"owner": "them"}]}})]),
    Say(tools=[("attribute_filter", {"AND": [], "field": "owner", "operator": "exists", "value": True})]),
    Say(tools=[("feature_search", {"query": "plans", "filters": {"owner": "them"}, "collection_identifiers": ["x"]})]),
    Say(tools=[("list_values", {"field": "owner"}), ("sql_lookup", {"query": "select 1"}), ("execute", {})]),
    Say(tools=[("feature_search", {"query": "plans", "pre_filters": None, "top_k": 10**9})]),
    condition("_internal.object_id", "obj_1"),
    DONE,
]


@pytest.mark.parametrize("where", ["mandatory", "request", "stage"])
@pytest.mark.parametrize("strategy", ["iterative_refinement", "tree_navigation"])
def test_a_hostile_model_reaches_nothing_that_the_filters_forbid(where, strategy):
    ours = {"field": "owner", "operator": "eq", "value": "us"}
    place: dict[str, Any] = {
        "mandatory": {"context": {"filter": parse_filter(ours), "secrets": {"key": "hunter2"}}},
        "request": {"request": {"filters": ours}, "context": {"secrets": {"key": "hunter2"}}},
        "stage": {"own": {"pre_filters": ours}, "context": {"secrets": {"key": "hunter2"}}},
    }[where]
    with LanguageServer(HOSTILE) as server:
        body = agent(server, {"max_iterations": 20, "strategy": strategy, "merge": "union"}, **place)
        heard = "\n".join(asked.text for asked in server.requests)
    assert "c" not in ids(body)
    assert ids(body)
    assert "red fox secret plans" not in heard
    assert "hunter2" not in heard + str(body)
    assert '"them"' not in [step["result"] for step in told(body)["trace"] if step["tool"] == "list_values"]
    assert not any(step["error"] is None and "them" in str(step["result"]) for step in told(body)["trace"])


def test_without_filters_the_same_model_would_have_found_it():
    with LanguageServer(HOSTILE) as server:
        assert "c" in ids(agent(server, {"max_iterations": 20, "merge": "union"}))


def test_the_model_must_be_as_sure_as_is_asked_for():
    unsure = Say(tools=[("finish_search", {"confidence": 0.2, "summary": "?"})])
    with LanguageServer([search("fox"), unsure, DONE]) as server:
        body = agent(server, {"min_confidence": 0.5})
    assert told(body)["confidence"] == 0.9
    assert "at least 0.5" in server.requests[2].text


def test_an_answer_without_a_tool_ends_the_search():
    with LanguageServer([search("red fox", top_k=1), "That is all there is."]) as server:
        body = agent(server)
    assert ids(body) == ["a"]
    assert told(body)["summary"] == "That is all there is."


def test_turns_that_run_out_keep_the_best_so_far_with_a_warning():
    with LanguageServer([search("red fox", top_k=1)]) as server:
        body = agent(server, {"max_iterations": 3})
    assert ids(body) == ["a"]
    assert body["status"] == "completed"
    assert "3 turns" in body["warnings"][0]


def test_a_budget_that_runs_out_keeps_the_best_so_far_and_degrades():
    expensive = Say(tools=[("feature_search", {"query": "red fox", "top_k": 1})], tokens=(3000, 500))
    with LanguageServer([expensive]) as server:
        body = agent(server, {"max_iterations": 20}, budget={"max_tokens": 8000})
    assert ids(body) == ["a"]
    assert body["status"] == "degraded"
    assert "max_llm_tokens" in body["degraded"][0]["reason"]


def test_time_that_runs_out_keeps_the_best_so_far_and_degrades():
    import pydantic_ai.models.openai  # noqa: F401 - which may take longer than the time that runs out

    for limit_s in (3, 30):  # on a busy machine the first search alone may take the shorter time
        slow = Say(tools=[("feature_search", {"query": "red fox"})], delay_s=limit_s + 1)
        with LanguageServer([search("red fox", top_k=1), slow]) as server:
            body = agent(server, {"hard_timeout_ms": 1000 * limit_s})
        if ids(body):
            break
    assert ids(body) == ["a"]
    assert body["status"] == "degraded"
    assert told(body)["timeout_hit"] is True


def test_no_model_is_an_error_and_the_earlier_documents_stay_where_it_may_be_skipped():
    nothing = {"changes": {"language_url": "", "language_key": ""}}
    with LanguageServer() as server, pytest.raises(UnavailableError, match="MEDIATHECA_LANGUAGE_URL"):
        agent(server, **nothing)


def test_the_tools_are_those_the_author_names_with_what_the_author_sets():
    stages = [
        "feature_search",
        {"stage_id": "llm_filter", "parameters": {"batch_size": 1}},
        "format_disk",
        "list_values",
    ]

    def answer(asked: Asked) -> Any:
        if "Criterion" in asked.last:
            return json.dumps({"decisions": [{"id": "1", "keep": "red fox" in asked.last}]})
        turns = sum(message["role"] == "tool" for message in asked.body["messages"])
        judged = Say(tools=[("llm_filter", {"criteria": "a fox {{DOC.text}} {{SECRET.key}}"})])
        return [search("red fox", top_k=3), judged, DONE][turns]

    with LanguageServer([answer]) as server:
        body = agent(server, {"strategy": "custom", "stages": stages}, context={"secrets": {"key": "hunter2"}})
    assert ids(body) == ["a", "c"]
    assert server.requests[0].tools == ["feature_search", "llm_filter", "list_values", "finish_search"]
    assert any("format_disk" in warning for warning in body["warnings"])
    criteria = [asked.last for asked in server.requests if "Criterion" in asked.last]
    assert len(criteria) == 3
    assert all("{{DOC.text}} {{SECRET.key}}" in text for text in criteria)


def test_a_callers_words_in_the_authors_search_are_no_template():
    config = {"searches": [{"feature_uri": VIEW.vectors[0].feature_uri, "query": "x"}], "filters": None}
    config["searches"][0]["filters"] = {"owner": "{{INPUT.owner}}"}
    with LanguageServer([search("fox"), DONE]) as server:
        inputs = {"query": "fox", "owner": "{{SECRET.key}}"}
        context = {"secrets": {"key": "us"}}
        body = agent(server, {"feature_search_config": config}, inputs=inputs, context=context)
    assert ids(body) == []


@pytest.mark.parametrize("bad", [{"max_iterations": 0}, {"strategy": "guess"}, {"feature_search_config": [1]}])
def test_parameters_are_checked_when_the_retriever_is_made(bad):
    with pytest.raises(ValidationError):
        run("agent_search", bad, [])
