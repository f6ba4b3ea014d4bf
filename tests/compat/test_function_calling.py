"""Agents that search: a function any framework can call, and the loop of OpenAI's function calling around it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from compat_served import KEY, Served
from mixpeek import Mixpeek
from openai import OpenAI
from sdk_world import World, search_stage

from language_server import KEY as OPENAI_KEY
from language_server import Asked, LanguageServer, Say

TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "search_mixpeek",
            "description": "Search video, image, and audio content",
            "parameters": {
                "type": "object",
                "properties": {
                    "query": {"type": "string", "description": "Search query"},
                    "limit": {"type": "integer", "description": "Max results"},
                },
                "required": ["query"],
            },
        },
    }
]


@pytest.fixture
def world(served: Served, client: Mixpeek, namespace: str) -> World:
    return World(client, served.url, namespace).build()


@pytest.fixture
def search(world: World, served: Served) -> Iterator[Callable[..., list[Any]]]:
    """The function that is printed for "any framework", with this server's address."""
    with httpx.Client(base_url=served.url) as requests:

        def run(query: str, limit: int = 10) -> list[Any]:
            resp = requests.post(
                f"/v1/retrievers/{world.retriever}/execute",
                headers={
                    "Authorization": f"Bearer {KEY}",
                    "X-Namespace": world.namespace,
                    "Content-Type": "application/json",
                },
                json={"inputs": {"query_text": query}, "limit": limit},
            )
            found: list[Any] = resp.json()["results"]
            return found

        yield run


def test_a_function_of_ten_lines_searches(search: Callable[..., list[Any]]) -> None:
    """It says `query_text`, whatever the retriever calls its only text input."""
    assert search("something to drink from", 2)[0]["name"] == "Mug"
    assert len(search("something to drink from", 2)) == 2
    assert len(search("something to drink from")) == 3
    for item in search("music", limit=1):
        assert {"document_id", "collection_id", "score", "metadata"} <= set(item)
        assert isinstance(item["score"], float)
    json.dumps(search("music"))


@pytest.mark.parametrize(("required", "ignored"), [(True, ["query_text"]), (False, ["query_text"])])
def test_the_answer_says_which_input_was_taken_for_which(world: World, required: bool, ignored: list[str]) -> None:
    made = world.client.retrievers.create(
        retriever_name=world.name("named"),
        collection_identifiers=["texts"],
        stages=[search_stage()],
        input_schema={"query": {"type": "string", "required": required}},
    )
    found = world.client.retrievers.execute(made["retriever_id"], inputs={"query_text": "music"}, limit=1)
    assert found["results"][0]["name"] == "Headphones"
    said = found["interpretation"]
    assert said["provided_input_keys"] == ["query_text"]
    assert "query_text" in json.dumps([said, found["warnings"]])
    assert said["ignored_input_keys"] in ([], ignored)


def converse(openai_client: OpenAI, client: Mixpeek, retriever: str, question: str) -> tuple[str, list[str]]:
    """Ask until the model answers without calling a tool; gives the answer, and what the tools gave it."""
    messages: list[Any] = [{"role": "user", "content": question}]
    given = []
    for _ in range(5):
        response = openai_client.chat.completions.create(model="gpt-4o", messages=messages, tools=TOOLS)
        message = response.choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        if not message.tool_calls:
            return str(message.content), given
        for call in message.tool_calls:
            arguments = json.loads(call.function.arguments)
            result = client.retrievers.execute(
                retriever, inputs={"query": arguments["query"]}, limit=arguments.get("limit", 10)
            )
            given.append(json.dumps([dict(item) for item in result["results"]]))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": given[-1]})
    raise AssertionError("the model never answered")


def read_the_results(asked: Asked) -> str:
    """A model that repeats the best result of every tool message."""
    results = [json.loads(m["content"]) for m in asked.body["messages"] if m["role"] == "tool"]
    return "I found: " + ", ".join(found[0]["name"] for found in results)


def test_a_model_calls_the_retriever_and_answers_from_its_results(world: World) -> None:
    both = Say(tools=[("search_mixpeek", {"query": "gardening", "limit": 1}), ("search_mixpeek", {"query": "music"})])
    first = Say(tools=[("search_mixpeek", {"query": "something to drink from", "limit": 2})])
    with LanguageServer([first, both, read_the_results]) as model:
        openai_client = OpenAI(base_url=f"{model.url}/v1", api_key=OPENAI_KEY, max_retries=0)
        with openai_client:
            answer, given = converse(openai_client, world.client, world.retriever, "What do you sell?")
        assert answer == "I found: Mug, Lawn mower, Headphones"
        assert [len(json.loads(text)) for text in given] == [2, 1, 3]
        assert [asked.tools for asked in model.requests] == [["search_mixpeek"]] * 3
