"""What a streamed execution tells while a model writes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from language_runs import reach, settings_for
from stage_runs import VIEW, World, rows_of

from language_server import LanguageServer, Say
from mediatheca.flows.outside.language import LanguageProviders
from mediatheca.flows.retrieve import ExecutionContext
from mediatheca.flows.retrieve.streaming import Streams

ROWS = rows_of(0.9, 0.8, 0.7, text=["red fox", "blue whale", "green frog"], kind=["land", "sea", "land"])


def stream(server: LanguageServer, *stages: dict[str, Any], secrets: Any = None) -> list[dict[str, Any]]:
    """The events of an execution of the rows and these stages."""
    world = World(ROWS)

    async def gather() -> list[bytes]:
        providers = LanguageProviders(settings_for(server))
        caller = ExecutionContext(outside=reach(providers.bound()), seed=1, secrets=secrets or {})
        plan = world.engine.compile([{"stage_id": "given"}, *stages], [VIEW])

        async def answering(tell: Any) -> dict[str, Any]:
            return await world.engine.execute(plan, {"inputs": {}}, caller, tell)

        try:
            return [line async for line in Streams().start("exec_1", "owner", answering).read()]
        finally:
            await providers.aclose()

    return [json.loads(line.decode().split("data: ", 1)[1]) for line in asyncio.run(gather())]


def tokens(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["event_type"] == "token"]


def test_a_summary_is_told_while_it_is_written_and_is_what_the_answer_says():
    with LanguageServer(["Foxes [1] and whales [2]."]) as server:
        events = stream(server, {"stage_name": "sum", "stage_id": "summarize", "parameters": {}})
    pieces = tokens(events)
    assert len(pieces) > 3
    assert {(p["stage_name"], p["stage_index"], p["field"], p["document_id"]) for p in pieces} == {
        ("sum", 1, "summary", "summary")
    }
    assert [p["done"] for p in pieces] == [False] * (len(pieces) - 1) + [True]
    (made,) = events[-1]["documents"]
    assert "".join(p["text"] for p in pieces).strip() == made["summary"].strip()
    assert made["generation"]["output_tokens"] == 7
    assert [entry["cited"] for entry in made["citations"]] == [True, True, False]
    places = [event["event_type"] for event in events]
    assert places.index("token") > places.index("stage_start")
    assert len(places) - 1 - places[::-1].index("token") < len(places) - 2


def test_every_group_tells_its_own_text():
    with LanguageServer(["one text"]) as server:
        events = stream(server, {"stage_id": "summarize", "parameters": {"group_by": "kind"}})
    assert {piece["document_id"] for piece in tokens(events)} == {"summary:land", "summary:sea"}


def test_an_answer_of_llm_filter_is_told():
    with LanguageServer(["Foxes do."]) as server:
        parameters = {"prompt": "Who lives on land?", "output_field": "answer"}
        events = stream(server, {"stage_id": "llm_filter", "parameters": parameters})
    assert "".join(piece["text"] for piece in tokens(events)).strip() == "Foxes do."
    assert {piece["field"] for piece in tokens(events)} == {"answer"}


def test_verdicts_and_structured_answers_tell_no_pieces():
    schema = {"type": "object", "properties": {"season": {"type": "string"}}, "required": ["season"]}
    with LanguageServer(['{"season": "winter"}']) as server:
        events = stream(server, {"stage_id": "summarize", "parameters": {"output_schema": schema}})
    assert not tokens(events)
    assert events[-1]["documents"][0]["summary"] == {"season": "winter"}


def test_a_secret_that_a_model_repeats_is_not_told_in_pieces():
    value = "sesame word in three"  # the server sends word by word
    with LanguageServer([f"The password is {value} indeed."]) as server:
        parameters = {"prompt": "What is {{SECRET.word}}?"}
        events = stream(server, {"stage_id": "summarize", "parameters": parameters}, secrets={"word": value})
    told = "".join(piece["text"] for piece in tokens(events))
    assert told.strip() == "The password is *** indeed."


def test_a_model_that_fails_before_its_first_word_is_asked_again():
    with LanguageServer([Say(status=500), "then it works"]) as server:
        events = stream(server, {"stage_id": "summarize", "parameters": {}})
    assert "".join(piece["text"] for piece in tokens(events)).strip() == "then it works"


def test_without_a_reader_nothing_is_streamed_from_the_model():
    with LanguageServer(["plain"]) as server:
        world = World(ROWS)

        async def run() -> dict[str, Any]:
            providers = LanguageProviders(settings_for(server))
            plan = world.engine.compile([{"stage_id": "given"}, {"stage_id": "summarize", "parameters": {}}], [VIEW])
            try:
                return await world.engine.execute(plan, {}, ExecutionContext(outside=reach(providers.bound())))
            finally:
                await providers.aclose()

        assert asyncio.run(run())["documents"][0]["summary"] == "plain"
    assert not server.requests[0].body.get("stream")
