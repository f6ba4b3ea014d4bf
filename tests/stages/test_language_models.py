"""Language models: both protocols, structured answers, streams, tools, budgets, and everything that goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

import pydantic_ai.models.openai  # noqa: F401 - loaded before any time begins
import pytest

from helpers import wait_for
from language_server import KEY, Asked, LanguageServer, Say
from mediatheca.flows.outside.language import LanguageProviders
from mediatheca.kernel.errors import BadRequestError, BudgetError, TooManyRequestsError, UnavailableError
from mediatheca.kernel.outside import Finished, Generate, LanguageModels, Tool
from mediatheca.settings import Settings

T = TypeVar("T")
COLOUR = {"type": "object", "properties": {"colour": {"type": "string"}}, "required": ["colour"]}
MODELS = {"openai": "openai:llama3.1:8b", "anthropic": "anthropic:claude-haiku-4-5"}
both = pytest.mark.parametrize("protocol", ["openai", "anthropic"])


def settings_for(server: LanguageServer, **changes: Any) -> Settings:
    own = {"language_url": f"{server.url}/v1, anthropic={server.url}", "language_key": f"{KEY},anthropic={KEY}"}
    return Settings(**{**own, "language_model": "llama3.1:8b", **changes})


def with_models(
    server: LanguageServer,
    use: Callable[[LanguageModels], Awaitable[T]],
    changes: dict[str, Any] | None = None,
    **budget: Any,
) -> T:
    """Run `use` with models of a fresh installation that talks to `server`."""

    async def run() -> T:
        providers = LanguageProviders(settings_for(server, **(changes or {})))
        try:
            return await use(providers.bound(**budget))
        finally:
            await providers.aclose()

    return asyncio.run(run())


def ask(
    server: LanguageServer, changes: dict[str, Any] | None = None, budget: dict[str, Any] | None = None, **request: Any
):
    asked = Generate(**{"prompt": "Which colour has the fox?", "timeout_s": 60.0, **request})
    return with_models(server, lambda models: models.generate(asked), changes, **(budget or {}))


@both
def test_both_protocols_answer_and_say_what_it_took(protocol):
    with LanguageServer(["red 🦊 狐"]) as server:
        answer = ask(server, model=MODELS[protocol], system="Be brief.", temperature=0.0)
    assert (answer.text, answer.model, answer.calls) == ("red 🦊 狐", MODELS[protocol], 1)
    assert (answer.input_tokens, answer.output_tokens) == (11, 7)
    asked = server.requests[0]
    assert (asked.protocol, asked.key) == (protocol, KEY)
    assert "Be brief." in asked.text
    assert "Which colour" in asked.text


@both
def test_a_structured_answer_is_parsed_and_checked(protocol):
    with LanguageServer(['Sure!\n```json\n{"colour": "red"}\n```']) as server:
        answer = ask(server, model=MODELS[protocol], schema=COLOUR)
    assert answer.value == {"colour": "red"}
    assert answer.problem == ""
    assert answer.calls == 1


@both
def test_an_answer_that_does_not_fit_is_repaired_once(protocol):
    with LanguageServer(['{"color": 1}', '{"colour": "red"}']) as server:
        answer = ask(server, model=MODELS[protocol], schema=COLOUR)
    assert answer.value == {"colour": "red"}
    assert (answer.calls, answer.input_tokens, answer.output_tokens) == (2, 22, 14)
    assert "cannot be used" in server.requests[1].last
    assert "colour" in server.requests[1].last


@pytest.mark.parametrize(
    "bad", ["no json at all", '{"colour": NaN}', '{"colour": "\\ud800"}', "[" * 500 + "]" * 500, '{"colour": ', ""]
)
def test_an_answer_that_stays_wrong_comes_with_its_problem_and_no_value(bad):
    with LanguageServer([bad]) as server:
        answer = ask(server, schema=COLOUR)
    assert answer.value is None
    assert answer.problem
    assert len(server.requests) == 2


def test_an_answer_that_was_cut_is_not_repaired():
    with LanguageServer([Say('{"colour": "re', finish="length")]) as server:
        answer = ask(server, schema=COLOUR)
    assert "raise max_tokens" in answer.problem
    assert len(server.requests) == 1


def test_a_server_that_knows_no_schemas_is_told_in_words_and_remembered():
    refusal = Say(status=400, text="response_format json_schema is not supported")

    def answer(asked: Asked) -> Any:
        return refusal if "response_format" in asked.body else '{"colour": "red"}'

    with LanguageServer([answer]) as server:

        async def twice(models: LanguageModels) -> list[Any]:
            return [(await models.generate(Generate(f"colour {n}?", schema=COLOUR))).value for n in range(2)]

        assert with_models(server, twice) == [{"colour": "red"}] * 2
    assert ["response_format" in asked.body for asked in server.requests] == [True, False, False]
    assert "must match this schema" in server.requests[1].text


def test_a_wrong_key_is_an_error_that_names_the_setting_and_not_the_key():
    with LanguageServer() as server, pytest.raises(UnavailableError) as raised:
        ask(server, {"language_key": "sk-wrong-and-secret"})
    assert "MEDIATHECA_LANGUAGE_KEY" in raised.value.message
    assert "sk-wrong" not in raised.value.message + repr(raised.value.details)
    assert raised.value.__cause__ is None
    assert len(server.requests) == 1


def test_the_callers_own_key_is_used_and_never_repeated():
    with LanguageServer(key="sk-of-the-caller") as server:
        assert ask(server, api_key="sk-of-the-caller").text == "ok"
        server.script = [Say(status=400, text="bad request by sk-of-the-caller")]
        with pytest.raises(BadRequestError) as raised:
            ask(server, api_key="sk-of-the-caller")
    assert "***" in raised.value.message
    assert "sk-of-the-caller" not in raised.value.message + repr(Generate("x", api_key="sk-of-the-caller"))


@both
def test_a_busy_provider_is_asked_again_after_the_time_it_names(protocol):
    limited = Say(status=429, headers={"retry-after": "0"}, text="slow down")
    with LanguageServer([limited, Say(status=529, headers={"retry-after": "0"}), "red"]) as server:
        assert ask(server, model=MODELS[protocol]).text == "red"
    assert len(server.requests) == 3


def test_a_rate_limit_that_lasts_is_told_with_the_time_to_wait():
    limited = Say(status=429, headers={"retry-after": "120"})
    with LanguageServer([limited]) as server, pytest.raises(TooManyRequestsError, match="rate limit") as raised:
        ask(server)
    assert raised.value.retry_after_s == 120
    assert raised.value.details["api_name"] == "openai"
    assert len(server.requests) == 1


def test_a_timeout_is_tried_once_more_and_then_told():
    with LanguageServer([Say("late", delay_s=20)]) as server:
        with pytest.raises(UnavailableError, match=r"did not answer within 3 s, 2 times"):
            ask(server, timeout_s=3.0)
        wait_for(lambda: len(server.requests) == 2)


def test_what_a_timeout_took_of_the_prompt_is_counted():
    with LanguageServer([Say("late", delay_s=0.6), Say("late", delay_s=0.6)]) as server:

        async def use(models: LanguageModels) -> int:
            with pytest.raises(UnavailableError):
                await models.generate(Generate("a" * 400, timeout_s=0.1))
            return models.usage.input_tokens

        assert with_models(server, use) == 100


def test_a_server_that_is_not_there_is_named_with_its_setting():
    with LanguageServer() as server:
        pass
    with pytest.raises(UnavailableError, match="MEDIATHECA_LANGUAGE_URL"):
        ask(server)


@pytest.mark.parametrize("body", [{"nonsense": True}, [], "text", {"choices": []}])
def test_an_answer_that_is_none_is_an_error(body):
    with LanguageServer([Say(body=body)]) as server, pytest.raises(UnavailableError):
        ask(server)


def test_a_model_that_is_not_served_is_an_error_that_says_so():
    missing = Say(status=404, text="model 'nope' not found")
    with LanguageServer([missing]) as server, pytest.raises(UnavailableError, match="not served"):
        ask(server, model="nope")


def test_nothing_configured_says_what_to_set():
    with pytest.raises(UnavailableError, match="MEDIATHECA_LANGUAGE_URL") as raised:
        asyncio.run(LanguageProviders(Settings()).bound().generate(Generate("hello")))
    assert "anthropic=" in raised.value.message


@pytest.mark.parametrize(
    ("wanted", "model", "found"),
    [
        ("", "llama3.1:8b", "openai:llama3.1:8b"),
        ("", "anthropic:claude-x", "anthropic:claude-x"),
        ("openai", "gpt-5", "openai:gpt-5"),
        ("qwen3:4b", "", "openai:qwen3:4b"),
        ("ollama:qwen3:4b", "", "openai:qwen3:4b"),
        ("claude-haiku-4-5", "llama", "anthropic:claude-haiku-4-5"),
        ("gpt-4o-mini", "llama,gpt-4o-mini=qwen3:4b", "openai:qwen3:4b"),
        ("openai:gpt-4o-mini", "gpt-4o-mini=anthropic:claude-x", "anthropic:claude-x"),
        ("google:gemini-3-flash", "llama, *=llama", "openai:llama"),
        ("google", "llama,google=llama", "openai:llama"),
    ],
)
def test_a_name_finds_its_model(wanted, model, found):
    with LanguageServer() as server:
        assert ask(server, {"language_model": model}, model=wanted).model == found


@pytest.mark.parametrize(
    ("wanted", "changes", "message"),
    [
        ("google:gemini-3-flash", {}, "no client for the provider 'google'"),
        ("anthropic:claude-x", {"language_url": "http://127.0.0.1:9", "language_key": ""}, "'anthropic' is not"),
        ("", {"language_model": ""}, "give model_name"),
        ("anthropic", {"language_model": "openai:gpt-5"}, "no model is named for anthropic"),
    ],
)
def test_a_name_that_finds_none_is_an_error_that_says_what_to_do(wanted, changes, message):
    with LanguageServer() as server, pytest.raises(UnavailableError, match=message):
        ask(server, changes, model=wanted)
    assert server.requests == []


@both
def test_a_stream_comes_in_pieces_and_is_counted(protocol):
    with LanguageServer(["one two three"]) as server:

        async def use(models: LanguageModels) -> tuple[list[str], int]:
            pieces = [
                piece async for piece in models.stream(Generate("count", model=MODELS[protocol], system="slowly"))
            ]
            return pieces, models.usage.tokens

        pieces, tokens = with_models(server, use)
    assert "".join(pieces).strip() == "one two three"
    assert len(pieces) == 3
    assert tokens == 18
    assert "slowly" in server.requests[0].text


def test_a_stream_is_tried_again_before_its_first_piece_and_may_be_left_early():
    with LanguageServer([Say(status=503, headers={"retry-after": "0"}), "one two three"]) as server:

        async def use(models: LanguageModels) -> str:
            async with aclosing(models.stream(Generate("count"))) as pieces:
                return await anext(pieces)

        assert with_models(server, use) == "one "


def test_the_budget_refuses_a_call_that_does_not_fit_and_cuts_answers_to_what_is_left():
    with LanguageServer(["ok"]) as server:
        with pytest.raises(BudgetError, match="max_llm_tokens"):
            ask(server, budget={"max_tokens": 50})
        with pytest.raises(BudgetError, match="max_credits"):
            ask(server, budget={"max_credits": 0.05})
        with pytest.raises(BudgetError, match="max_inference_calls"):
            ask(server, budget={"max_calls": 0})
        assert server.requests == []
        ask(server, budget={"max_tokens": 500})
    assert server.requests[0].body["max_tokens"] < 500


def test_a_budget_is_settled_with_what_calls_took_and_holds_for_calls_at_once():
    with LanguageServer([Say("ok", tokens=(60, 40))]) as server:

        async def use(models: LanguageModels) -> tuple[list[Any], int]:
            calls = (models.generate(Generate(f"question {n}", max_tokens=100)) for n in range(8))
            return await asyncio.gather(*calls, return_exceptions=True), models.usage.tokens

        answers, tokens = with_models(server, use, max_tokens=420)
    spent = [answer for answer in answers if isinstance(answer, BudgetError)]
    assert len(spent) + len(server.requests) == 8
    assert len(spent) >= 4
    assert tokens == 100 * len(server.requests)


def test_a_repair_that_no_tokens_are_left_for_is_not_made():
    with LanguageServer([Say("no json", tokens=(200, 200))]) as server:
        answer = ask(server, schema=COLOUR, budget={"max_tokens": 450}, max_tokens=70)
    assert "no tokens are left" in answer.problem
    assert len(server.requests) == 1


def test_the_same_request_is_answered_from_memory_for_the_same_tenant_and_key_only():
    with LanguageServer(["red"]) as server:

        async def run() -> list[int]:
            providers = LanguageProviders(settings_for(server))
            request = Generate("colour?", cache=True, temperature=0.0)
            seen = []
            for namespace, changed in (
                ("a", {}),
                ("a", {}),
                ("b", {}),
                ("a", {"prompt": "other"}),
                ("a", {"schema": {"type": "string"}}),
                ("a", {"files": [("image/png", b"1")]}),
                ("a", {"temperature": 0.5}),
                ("a", {"cache": False}),
            ):
                models = providers.bound(namespace_id=namespace)
                from dataclasses import replace

                await models.generate(replace(request, **changed))
                seen.append(models.usage.calls)
            await providers.aclose()
            return seen

        assert [min(calls, 1) for calls in asyncio.run(run())] == [1, 0, 1, 1, 1, 1, 1, 1]


def test_a_picture_is_sent_with_the_question():
    with LanguageServer() as server:
        ask(server, files=[("image/png", b"\x89PNG")])
        ask(server, model=MODELS["anthropic"], files=[("image/png", b"\x89PNG")])
    assert "iVBORw==" in str(server.requests[0].body["messages"])
    assert "iVBORw==" in str(server.requests[1].body["messages"])


def converse(server: LanguageServer, run: Callable[[dict[str, Any]], Awaitable[Any]], **options: Any):
    schema = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}
    tool = Tool("search", "Find documents.", schema, run)
    model = options.pop("model", "")
    limits = {"max_turns": options.pop("max_turns", 5), "timeout_s": options.pop("timeout_s", 60)}
    request = Generate("find foxes", model=model, schema=options.pop("schema", None))
    return with_models(server, lambda models: models.converse(request, [tool], **limits), **options)


@both
def test_a_conversation_calls_tools_until_the_model_answers(protocol):
    seen = []

    async def run(arguments: dict[str, Any]) -> Any:
        seen.append(arguments)
        return [{"title": "a fox 狐"}]

    with LanguageServer([Say(tools=[("search", {"query": "fox"})]), "found it"]) as server:
        ended = converse(server, run, model=MODELS[protocol])
    assert seen == [{"query": "fox"}]
    assert (ended.text, ended.finished, ended.turns, ended.calls) == ("found it", True, 2, 2)
    assert [(step["tool"], step["error"]) for step in ended.steps] == [("search", None)]
    assert "a fox 狐" in server.requests[1].text
    assert server.requests[0].tools == ["search"]


def test_wrong_calls_are_explained_to_the_model_and_do_no_harm():
    hostile = [
        ("rm_rf", {"query": "x"}),
        ("search", {"query": 5}),
        ("search", "{not json"),
        ("search", "[1]"),
        ("search", {}),
        *[("search", {"query": f"q{n}"}) for n in range(9)],
    ]
    seen = []

    async def run(arguments: dict[str, Any]) -> Any:
        seen.append(arguments["query"])
        raise RuntimeError("a secret: hunter2") if arguments["query"] == "q0" else BadRequestError("no such field")

    with LanguageServer([Say(tools=hostile), "sorry"]) as server:
        ended = converse(server, run)
    assert seen == ["q0", "q1", "q2"]
    errors = [step["error"] for step in ended.steps]
    assert "there is no tool 'rm_rf'; tools: search" in errors[0]
    assert "not a JSON object" in errors[2]
    assert errors[5] == "RuntimeError"
    assert errors[6] == "no such field"
    assert "more than 8 calls" in errors[-1]
    assert "hunter2" not in str(ended) + server.requests[1].text


def test_a_conversation_ends_when_a_tool_says_so_or_the_turns_or_the_time_are_over():
    async def finish(arguments: dict[str, Any]) -> Any:
        return Finished({"done": arguments["query"]})

    async def slow(arguments: dict[str, Any]) -> Any:
        await asyncio.sleep(5)

    async def quick(arguments: dict[str, Any]) -> Any:
        return "nothing"

    script = [Say(tools=[("search", {"query": "fox"})])]
    with LanguageServer(script) as server:
        assert converse(server, finish).value == {"done": "fox"}
        ended = converse(server, quick, max_turns=3)
        assert (ended.finished, ended.turns, len(ended.steps)) == (False, 3, 3)
        ended = converse(server, slow, timeout_s=0.3)
        assert not ended.finished
        assert "0.3 s" in ended.problem


def test_a_conversation_whose_budget_is_spent_keeps_what_it_did():
    async def run(arguments: dict[str, Any]) -> Any:
        return "more"

    with LanguageServer([Say(tools=[("search", {"query": "fox"})], tokens=(150, 20))]) as server:
        ended = converse(server, run, max_tokens=500)
        assert not ended.finished
        assert "tokens" in ended.problem
        assert ended.steps
        with pytest.raises(BudgetError):
            converse(server, run, max_tokens=10)


def test_the_end_of_a_conversation_fits_its_schema_or_says_why_not():
    async def run(arguments: dict[str, Any]) -> Any:
        return "x"

    with LanguageServer(["red", '{"colour": "red"}']) as server:
        assert converse(server, run, schema=COLOUR).value == {"colour": "red"}
    with LanguageServer(["red"]) as server:
        ended = converse(server, run, schema=COLOUR)
    assert ended.value is None
    assert "not JSON" in ended.problem


def test_old_results_are_left_out_of_long_conversations():
    async def run(arguments: dict[str, Any]) -> Any:
        return "y" * 100_000

    with LanguageServer([Say(tools=[("search", {"query": "fox"})] * 8)]) as server:
        ended = converse(server, run, max_turns=8)
    assert ended.turns == 8
    assert "left out" in server.requests[-1].text
    assert max(len(asked.text) for asked in server.requests) < 200_000
