"""`summarize`, `llm_enrich`, `query_expand` and `agentic_enrich`."""

from __future__ import annotations

import base64
import json
from typing import Any, ClassVar

import pytest
from language_runs import LanguageSuite, run_with_model
from stage_runs import VIEW, World, ids, rows_of, run, told

from language_server import Asked, LanguageServer, Say
from mediatheca.kernel.errors import UnavailableError, ValidationError
from mediatheca.kernel.filters import parse_filter
from mediatheca.stages.agentic_enrich import agentic_enrich
from mediatheca.stages.llm_enrich import llm_enrich
from mediatheca.stages.query_expand import query_expand
from mediatheca.stages.summarize import summarize
from mediatheca.testing.stages import TEXT_URI, text_documents

ROWS = rows_of(0.9, 0.8, 0.7, text=["red fox", "blue whale 狐", "green frog"], kind=["land", "sea", "land"])
SEASON = {"type": "object", "properties": {"season": {"type": "string"}}, "required": ["season"]}
NO_MODEL: dict[str, Any] = {"changes": {"language_url": "", "language_key": ""}}


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> None:
    """The library takes seconds to load, and the model of `query_expand` has five at most."""
    import pydantic_ai.direct
    import pydantic_ai.models.openai
    import pydantic_ai.providers.openai_compatible  # noqa: F401


class TestSummarize(LanguageSuite):
    stage = summarize


class TestGroupedSummarize(LanguageSuite):
    stage = summarize
    parameters: ClassVar[dict[str, Any]] = {"group_by": "price", "mode": "aggregate"}

    def test_one_document_is_enough(self) -> None:
        assert len(self.run(self.rows[:1])["documents"]) == 1


class TestLlmEnrich(LanguageSuite):
    stage = llm_enrich


class TestAgenticEnrich(LanguageSuite):
    stage = agentic_enrich
    parameters: ClassVar[dict[str, Any]] = {"system_prompt": "Which season?", "output_schema": SEASON}
    script: ClassVar[Any] = ['{"season": "winter"}']


class TestQueryExpand(LanguageSuite):
    stage = query_expand
    script: ClassVar[Any] = ['{"queries": ["crimson fox", "red dog"]}']
    parameters: ClassVar[dict[str, Any]] = {"feature_search_config": {"feature_uri": TEXT_URI, "query": "red fox"}}


# summarize


def test_one_document_with_the_text_and_its_sources_stands_for_all():
    with LanguageServer(["Foxes [1] and whales [2, 7]."]) as server:
        body = run_with_model(
            server, "summarize", {"prompt": "About:\n{{DOCUMENTS}}Write on {{INPUT.q}}"}, ROWS, inputs={"q": "all"}
        )
    (made,) = body["documents"]
    assert made["summary"] == "Foxes [1] and whales [2, 7]."
    assert made["source_document_ids"] == ["a", "b", "c"]
    assert [entry["cited"] for entry in made["citations"]] == [True, True, False]
    assert [entry["document_id"] for entry in made["sources"]] == ["a", "b", "c"]
    assert made["generation"]["unknown_citations"] == [7]
    assert "[7]" in body["warnings"][0]
    prompt = server.requests[0].last
    assert prompt.startswith("About:\n[1] {")
    assert "狐" in prompt
    assert prompt.endswith("Write on all")
    assert body["stage_statistics"]["stages"]["tested"]["llm_calls"] == 1


def test_documents_are_appended_where_the_prompt_does_not_place_them():
    with LanguageServer() as server:
        run_with_model(
            server, "summarize", {"prompt": "{{INPUT.q}}"}, ROWS, inputs={"q": "{{DOCUMENTS}} {{SECRET.key}}"}
        )
    assert server.requests[0].last.startswith("{{DOCUMENTS}} {{SECRET.key}}\n\nDocuments:\n[1] ")


def test_no_documents_make_an_empty_summary_and_no_call():
    with LanguageServer() as server:
        body = run_with_model(server, "summarize", {}, [])
        assert server.requests == []
    assert (body["documents"], told(body)["summary"], body["status"]) == ([], "", "completed")


def test_every_group_gets_its_summary():
    def answer(asked: Asked) -> str:
        return f"about {asked.last.splitlines()[0]}"

    with LanguageServer([answer]) as server:
        body = run_with_model(
            server, "summarize", {"group_by": "kind", "prompt": "{{GROUP_VALUE}} {{DOC_COUNT}}"}, ROWS
        )
    assert [(d["group_value"], d["summary"]) for d in body["documents"]] == [
        ("land", "about land 2"),
        ("sea", "about sea 1"),
    ]


def test_every_document_gets_its_summary():
    with LanguageServer([lambda asked: "sea" if "whale" in asked.last else "land"]) as server:
        body = run_with_model(server, "summarize", {"mode": "per_document", "output_field": "metadata.short"}, ROWS)
    assert [d["metadata"]["short"] for d in body["documents"]] == ["land", "sea", "land"]
    assert ids(body) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("strategy", "used", "cut"), [("drop_last", 1, False), ("truncate_each", 3, True), ("smart", 2, True)]
)
def test_documents_are_cut_to_the_tokens_there_are_and_it_is_told(strategy, used, cut):
    rows = rows_of(0.9, 0.8, 0.7, text=["a" * 300, "b" * 300, "c" * 300])
    parameters = {"max_input_tokens": 100, "truncation_strategy": strategy, "content_field": "text"}
    with LanguageServer() as server:
        body = run_with_model(server, "summarize", parameters, rows)
    assert body["documents"][0]["documents_used"] == used
    assert ("…" in server.requests[0].last) is cut
    assert len(server.requests[0].last) < 700
    assert bool(body["limits"]) is (used < 3)


def test_a_summary_may_be_a_value_that_fits_a_schema():
    with LanguageServer(['{"season": "winter"}']) as server:
        body = run_with_model(server, "summarize", {"output_schema": SEASON}, ROWS)
    assert body["documents"][0]["summary"] == {"season": "winter"}
    with pytest.raises(ValidationError, match="JSON Schema"):
        run("summarize", {"output_schema": {"type": "nonsense"}}, ROWS)
    with pytest.raises(ValidationError, match="outside of the schema"):
        run("summarize", {"output_schema": {"$ref": "http://127.0.0.1/x"}}, ROWS)


def test_a_deleted_source_is_not_shown_on_a_later_page():
    with LanguageServer(["x"]) as server:
        place = World(ROWS)
        first = run_with_model(server, "summarize", {"group_by": "text"}, ROWS, world=place, request={"limit": 1})
        place.searcher.delete("col_1", "b")
        again = {"limit": 5, "cursor": first["pagination"]["next_cursor"]}
        second = run_with_model(server, "summarize", {"group_by": "text"}, ROWS, world=place, request=again)
    assert "blue whale" not in str([d.get("sources") for d in second["documents"]])


def test_no_model_fails_the_execution_with_what_to_set():
    with LanguageServer() as server, pytest.raises(UnavailableError, match="MEDIATHECA_LANGUAGE_URL"):
        run_with_model(server, "summarize", {}, ROWS, **NO_MODEL)


# llm_enrich


def test_every_document_gets_a_field_from_its_own_prompt():
    def answer(asked: Asked) -> str:
        return "sea creature" if "whale" in asked.last else "land animal"

    with LanguageServer([answer]) as server:
        body = run_with_model(server, "llm_enrich", {"prompt": "Describe {{DOC.text}}", "output_field": "note"}, ROWS)
    assert [d["note"] for d in body["documents"]] == ["land animal", "sea creature", "land animal"]
    assert sorted(asked.last for asked in server.requests)[0] == "Describe blue whale 狐"
    assert told(body)["enriched"] == 3


def test_an_answer_that_stays_wrong_is_flagged_and_stands_as_it_is():
    with LanguageServer(["not json 🦊"]) as server:
        body = run_with_model(server, "llm_enrich", {"schema": SEASON, "output_field": "s"}, ROWS[:1])
    assert body["documents"][0]["s"]["_raw"] == "not json 🦊"
    assert "not JSON" in body["documents"][0]["s"]["_error"]
    assert told(body)["flagged"] == 1
    assert len(server.requests) == 2


def test_a_document_that_times_out_gets_null_and_the_others_their_value():
    def answer(asked: Asked) -> Any:
        return Say("late", delay_s=30) if "whale" in asked.last else "fine"

    with LanguageServer([answer]) as server:
        body = run_with_model(server, "llm_enrich", {"output_field": "n", "hard_timeout_ms": 6000}, ROWS)
    assert [d["n"] for d in body["documents"]] == ["fine", None, "fine"]
    assert body["status"] == "degraded"


def test_a_budget_in_the_middle_leaves_the_rest_null_and_says_so():
    with LanguageServer([Say("fine", tokens=(300, 400))]) as server:
        parameters = {"output_field": "n", "batch_size": 1, "max_tokens": 100}
        body = run_with_model(server, "llm_enrich", parameters, ROWS, budget={"max_credits": 0.8})
    assert [d["n"] for d in body["documents"]] == ["fine", None, None]
    assert "max_credits" in body["degraded"][0]["reason"]


def test_when_and_empty_content_make_no_call():
    with LanguageServer() as server:
        rows = rows_of(0.9, 0.8, text=["fox", ""])
        body = run_with_model(server, "llm_enrich", {"content_field": "text", "output_field": "n"}, rows)
        assert [d.get("n") for d in body["documents"]] == ["ok", None]
        run_with_model(server, "llm_enrich", {"when": {"field": "text", "value": "none"}}, rows)
        run_with_model(server, "llm_enrich", {}, [])
        assert len(server.requests) == 1


def test_pictures_are_shown_to_the_model_and_broken_ones_are_told():
    picture = "data:image/png;base64," + base64.b64encode(b"\x89PNG").decode()
    rows = rows_of(0.9, 0.8, picture=[picture, "no picture!"])
    with LanguageServer() as server:
        body = run_with_model(
            server, "llm_enrich", {"multimodal_inputs": {"picture": "image"}, "output_field": "n"}, rows
        )
    assert sum("iVBORw==" in str(asked.body["messages"][-1]["content"][1:]) for asked in server.requests) == 1
    assert "neither a URL" in body["warnings"][0]


@pytest.mark.parametrize("field", ["score", "document_id", "_internal.x", "collection_id"])
def test_a_model_cannot_be_given_a_field_that_is_not_its(field):
    with pytest.raises(ValidationError):
        run("llm_enrich", {"output_field": field}, ROWS)


def test_settings_without_effect_are_told():
    with LanguageServer(["x"]) as server:
        body = run_with_model(server, "llm_enrich", {"thinking_level": "high", "use_vcache": True}, ROWS[:1])
    told_of = [warning.split(" has ")[0] for warning in body["warnings"]]
    assert told_of == ["tested: thinking_level", "tested: use_vcache"]


def test_what_is_left_of_the_budget_shrinks_from_stage_to_stage():
    shown = {"stage_id": "json_transform", "parameters": {"template": '{"left": {{ CONTEXT.budget_remaining }}}'}}
    with LanguageServer(["a summary"]) as server:
        context = {"context": {"max_credits": 2.0}, "then": [shown]}
        body = run_with_model(server, "llm_enrich", {}, ROWS[:2], **context)
    spent = body["budget"]["credits_used"]
    assert spent > 0
    assert body["documents"][0]["left"] == pytest.approx(2.0 - spent)


# query_expand


def shelf() -> World:
    made = World([])
    rows = [
        {"document_id": "a", "text": "red fox", "owner": "us"},
        {"document_id": "b", "text": "crimson vulpine", "owner": "us"},
        {"document_id": "c", "text": "crimson secret", "owner": "them"},
        {"document_id": "d", "text": "blue whale", "owner": "us"},
    ]
    made.searcher.add(VIEW, text_documents(VIEW, rows))
    return made


def expand(server: LanguageServer, parameters: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    config = {"searches": [{"feature_uri": TEXT_URI, "query": "{{INPUT.query}}", "min_score": 0.1}]}
    options = {"inputs": {"query": "red fox"}, "world": shelf(), "first": True, **options}
    return run_with_model(
        server, "query_expand", {"feature_search_config": config, **(parameters or {})}, [], **options
    )


def test_variations_find_what_the_words_of_the_query_do_not():
    said = json.dumps({"queries": ["crimson  vulpine", "RED fox", "", "crimson vulpine", "x", "y", "z"]})
    with LanguageServer([said]) as server:
        body = expand(server, {"num_expansions": 2})
    assert ids(body)[:2] == ["a", "b"]
    assert told(body)["variations"] == ["crimson vulpine", "x"]
    found = body["documents"][1]["query_expand"]
    assert found == body["documents"][1]["scores"]["query_expand"]
    assert found["fusion_score"] == body["documents"][1]["score"]
    assert found["matched_variations"] == ["crimson vulpine"]
    assert found["individual_ranks"] == [None, 1, None]
    assert body["documents"][0]["score"] == pytest.approx(2 / 61)
    assert "Write 2 search queries" in server.requests[0].last


def test_without_the_model_the_query_alone_is_searched_for_and_it_is_told():
    with LanguageServer([Say(status=401)]) as server:
        for options in ({}, NO_MODEL, {"budget": {"max_tokens": 3}}):
            body = expand(server, **options)
            assert ids(body) == ["a"]
            assert body["status"] == "degraded"
            assert "was not expanded" in body["degraded"][0]["reason"]
    with LanguageServer([Say("late", delay_s=30)]) as server:
        assert ids(expand(server, {"expansion_timeout_ms": 100})) == ["a"]


def test_variations_are_bound_by_the_filters_of_the_request_and_the_tenant():
    said = json.dumps({"queries": ["crimson secret", "{{SECRET.key}} secret"]})
    ours = {"field": "owner", "value": "us"}
    for options in (
        {"context": {"filter": parse_filter(ours)}},
        {"request": {"filters": ours}},
        {"own": {"pre_filters": ours}},
    ):
        with LanguageServer([said]) as server:
            assert "c" not in ids(expand(server, **options))
    with LanguageServer([said]) as server:
        assert "c" in ids(expand(server))


@pytest.mark.parametrize("strategy", ["linear", "max"])
def test_scores_may_be_fused_instead_of_ranks(strategy):
    with LanguageServer(['{"queries": ["crimson vulpine"]}']) as server:
        body = expand(server, {"fusion_strategy": strategy, "include_original": False})
    assert ids(body)[0] == "b"
    assert body["documents"][0]["score"] == pytest.approx(1.0)


def test_the_older_form_and_bad_configurations():
    with LanguageServer(['{"queries": []}']) as server:
        old = {"query": "{{INPUT.query}}", "vector_index": TEXT_URI, "top_k": 2, "num_variations": 2}
        options = {"inputs": {"query": "red fox"}, "world": shelf(), "first": True}
        assert "a" in ids(run_with_model(server, "query_expand", old, [], **options))
    for bad in ({}, {"feature_search_config": []}, {"feature_search_config": {"feature_uri": "nope", "query": "x"}}):
        with pytest.raises(ValidationError):
            run("query_expand", bad, [])
    vector = {"feature_uri": TEXT_URI, "query": [0.0] * 64}
    with pytest.raises(ValidationError, match="no search with a text"):
        run("query_expand", {"feature_search_config": vector}, [])


# agentic_enrich


def test_a_document_is_decided_with_tools_that_see_what_the_caller_may_see():
    def answer(asked: Asked) -> Any:
        turns = sum(message["role"] == "tool" for message in asked.body["messages"])
        if "never an instruction" in asked.text and "Which animal?" in asked.last:
            return "It is a fox."
        script = [
            Say(tools=[("query_examples", {"query": "crimson secret"})]),
            Say(tools=[("analyze_content", {"question": "Which animal?"})]),
            Say(tools=[("get_taxonomy_categories", {})]),
            '{"season": "winter"}',
        ]
        return script[turns]

    place = shelf()
    place.searcher.add(
        VIEW, text_documents(VIEW, [{"document_id": "x", "text": "a fox", "label": "animal", "owner": "us"}])
    )
    place.rows = ROWS[:1]
    parameters = {
        "system_prompt": "Which season?",
        "output_schema": SEASON,
        "example_collection_ids": ["first"],
        "reference_collection_id": "col_1",
    }
    context = {"filter": parse_filter({"field": "owner", "value": "us"})}
    with LanguageServer([answer]) as server:
        body = run_with_model(server, "agentic_enrich", parameters, [], world=place, context=context)
        heard = "\n".join(asked.text for asked in server.requests)
    made = body["documents"][0]
    assert made["metadata"]["classification"] == {"season": "winter"}
    (trace,) = told(body)["reasoning_traces"]
    assert [step["tool"] for step in trace["steps"]] == ["query_examples", "analyze_content", "get_taxonomy_categories"]
    assert all(step["error"] is None for step in trace["steps"])
    assert "crimson vulpine" in heard
    assert "It is a fox." in heard
    assert '["animal"]' in heard
    assert '"text":"crimson secret"' not in heard


def test_at_most_ten_documents_are_decided_and_a_wrong_decision_is_flagged():
    rows = rows_of(*(1 - n / 100 for n in range(12)), text=["x"] * 12)
    parameters = {"system_prompt": "Decide.", "output_schema": SEASON, "output_field": "d"}
    with LanguageServer(["never json"]) as server:
        body = run_with_model(server, "agentic_enrich", parameters, rows)
    assert body["limits"][0] | {"name": "documents", "requested": 12, "applied": 10} == body["limits"][0]
    assert body["documents"][0]["d"]["_raw"] == "never json"
    assert "d" not in body["documents"][11]
    assert told(body)["flagged"] == 10


@pytest.mark.parametrize(
    "bad",
    [
        {"output_schema": SEASON},
        {"system_prompt": "x"},
        {"system_prompt": "x", "output_schema": {"type": 5}},
        {"system_prompt": "x", "output_schema": SEASON, "taxonomy_id": "t"},
    ],
)
def test_agentic_parameters_are_checked_when_the_retriever_is_made(bad):
    with pytest.raises(ValidationError):
        run("agentic_enrich", bad, [])
