"""The tokens of an execution are shared by its stages, and by the retrievers they call."""

from __future__ import annotations

from language_runs import run_with_model
from stage_runs import ids, rows_of

from language_server import LanguageServer, Say

ROWS = rows_of(0.9, 0.8, text=["red fox", "blue whale"])
SECOND = {"stage_name": "second", "stage_id": "summarize", "parameters": {"mode": "per_document"}}


def test_what_the_first_stage_spends_the_second_has_not():
    with LanguageServer([Say("fine", tokens=(400, 200))]) as server:
        parameters = {"output_field": "note", "max_tokens": 100, "batch_size": 1}
        body = run_with_model(server, "llm_enrich", parameters, ROWS, then=[SECOND], budget={"max_tokens": 1250})
    stages = body["stage_statistics"]["stages"]
    assert (stages["tested"]["llm_calls"], stages["tested"]["tokens_used"]) == (2, 1200)
    assert (stages["second"]["llm_calls"], stages["second"]["tokens_used"]) == (0, 0)
    assert body["budget"]["tokens_used"] == 1200
    assert body["status"] == "degraded"
    assert body["degraded"][0]["stage"] == "second"
    assert ids(body) == ["a", "b"]
    assert [d["note"] for d in body["documents"]] == ["fine", "fine"]


def test_credits_that_are_left_are_told():
    with LanguageServer([Say("fine", tokens=(400, 100))]) as server:
        context = {"max_credits": 3.0}
        body = run_with_model(server, "llm_enrich", {}, ROWS, context=context, budget={"max_credits": 3.0})
    assert (body["budget"]["credits_used"], body["budget"]["credits_remaining"]) == (1.0, 2.0)


def test_calls_are_counted_too():
    with LanguageServer(["fine"]) as server:
        body = run_with_model(server, "llm_enrich", {"output_field": "note"}, ROWS, budget={"max_calls": 1})
        assert len(server.requests) == 1
    assert sorted(str(d["note"]) for d in body["documents"]) == ["None", "fine"]
    assert "max_inference_calls" in body["degraded"][0]["reason"]
