"""A conversation in which a model calls tools. The engine runs them; the model only ever gets text back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from mediatheca.flows.outside.language_answers import MAX_NESTING, clean, read_answer, repair_request
from mediatheca.flows.outside.language_budget import estimate
from mediatheca.flows.outside.language_talk import Said, Talk
from mediatheca.kernel.errors import BudgetError, MediathecaError
from mediatheca.kernel.json_schema import nesting, problems
from mediatheca.kernel.outside import Conversation, Finished, Tool

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelMessage

MAX_RESULT = 4000
"""Characters of a tool's result that the model sees."""
MAX_CALLS = 8
"""Tools called in one turn."""
MAX_HISTORY = 24_000
"""Tokens after which the results of older steps are left out."""
KEPT_MESSAGES = 4
_LEFT_OUT = "(left out: an older result)"
log = logging.getLogger(__name__)


class Exchange:
    """One conversation."""

    def __init__(self, talk: Talk, tools: Sequence[Tool], schema: Mapping[str, Any] | None) -> None:
        self._talk = talk
        self._tools = {tool.name: tool for tool in tools}
        self._schema = schema
        self._repaired = False
        self.steps: list[dict[str, Any]] = []
        self.turns = 0
        self._last: Said | None = None

    async def run(self, max_turns: int, timeout_s: float) -> Conversation:
        """Talk until the model answers without calling a tool, a tool finishes, or turns, time or budget run out.

        Raises:
            MediathecaError: nothing came of the first turn.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while self.turns < max_turns:
                    ended = await self._turn()
                    if ended is not None:
                        return ended
        except TimeoutError:
            return self._ended(finished=False, problem=f"the {timeout_s:g} s of the conversation are over")
        except MediathecaError as error:
            if not self.steps:
                raise
            return self._ended(finished=False, problem=error.message)
        return self._ended(finished=False, problem=f"the {max_turns} turns of the conversation are over")

    async def _turn(self) -> Conversation | None:
        self._shorten()
        self.turns += 1
        said = self._last = await self._talk.ask()
        if not said.calls:
            return self._answered(said)
        parts = []
        for number, call in enumerate(said.calls):
            outcome = await self._call(call, number)
            if isinstance(outcome, Finished):
                return self._ended(value=outcome.value)
            parts.append(outcome)
        self._continue(said, parts)
        return None

    def _answered(self, said: Said) -> Conversation | None:
        if self._schema is None:
            return self._ended()
        value, problem = read_answer(self._schema, said.text)
        if problem and not self._repaired and not said.truncated:
            self._repaired = True
            self._talk.reply(said, repair_request(self._schema, problem))
            return None
        return self._ended(value=value, problem=problem)

    async def _call(self, call: Any, number: int) -> Any:
        """A `ToolReturnPart`, or `Finished`."""
        from pydantic_ai.messages import ToolReturnPart

        began = time.perf_counter()
        step: dict[str, Any] = {
            "tool": clean(str(call.tool_name))[:100],
            "arguments": {},
            "result": None,
            "error": None,
        }
        self.steps.append(step)
        try:
            result = await self._run(call, number, step)
        except BudgetError:
            raise
        except MediathecaError as error:
            step["error"] = error.message[:MAX_RESULT]
            result = {"error": step["error"]}
        except Exception as error:
            log.exception("the tool '%s' failed", step["tool"])
            step["error"] = type(error).__name__
            result = {"error": f"the tool failed ({type(error).__name__})"}
        step["duration_ms"] = (time.perf_counter() - began) * 1000
        if isinstance(result, Finished):
            return result
        text = _as_text(result)
        step["result"] = text[:500]
        return ToolReturnPart(tool_name=call.tool_name, content=text, tool_call_id=call.tool_call_id)

    async def _run(self, call: Any, number: int, step: dict[str, Any]) -> Any:
        tool = self._tools.get(call.tool_name)
        if tool is None:
            return _mistake(step, f"there is no tool '{step['tool']}'; tools: {', '.join(self._tools)}")
        if number >= MAX_CALLS:
            return _mistake(step, f"more than {MAX_CALLS} calls at once; call again")
        try:
            arguments = _arguments(call.args)
        except ValueError as error:
            return _mistake(step, f"the arguments are not a JSON object: {error}")
        step["arguments"] = arguments
        found = problems(tool.schema, arguments)
        return _mistake(step, "; ".join(found)) if found else await tool.run(arguments)

    def _continue(self, said: Said, parts: Sequence[Any]) -> None:
        from pydantic_ai.messages import ModelRequest

        self._talk.extend(said.response, ModelRequest(parts=list(parts)))
        self._talk.size += said.output_tokens + sum(estimate(part.content) for part in parts)

    def _shorten(self) -> None:
        """Leave out the results of older steps once the messages are long."""
        if self._talk.size <= MAX_HISTORY:
            return
        messages = self._talk.messages
        for at, message in enumerate(messages[1:-KEPT_MESSAGES], start=1):
            shorter = _without_results(message)
            self._talk.size -= _length(message) - _length(shorter)
            messages[at] = shorter

    def _ended(self, *, value: Any = None, problem: str = "", finished: bool = True) -> Conversation:
        calls, input_tokens, output_tokens = self._talk.cost
        return Conversation(
            text=self._last.text if self._last is not None else "",
            value=value,
            problem=problem,
            model=str(self._talk.name),
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            calls=calls,
            truncated=self._last is not None and self._last.truncated,
            steps=self.steps,
            turns=self.turns,
            finished=finished,
        )


def _mistake(step: dict[str, Any], message: str) -> dict[str, str]:
    step["error"] = message
    return {"error": message}


def _arguments(raw: Any) -> dict[str, Any]:
    """The arguments of a call.

    Raises:
        ValueError: they are no JSON object, or nested too deep.
    """
    value = orjson.loads(clean(raw)) if isinstance(raw, str) and raw.strip() else raw or {}
    if not isinstance(value, dict):
        raise ValueError(f"got {type(value).__name__}")
    if nesting(value, MAX_NESTING) > MAX_NESTING:
        raise ValueError(f"nested deeper than {MAX_NESTING} levels")
    return value


def _as_text(result: Any) -> str:
    text = result if isinstance(result, str) else orjson.dumps(result, default=repr).decode()
    text = clean(text)
    return text if len(text) <= MAX_RESULT else text[:MAX_RESULT] + " … (cut)"


def _without_results(message: ModelMessage) -> ModelMessage:
    if message.kind != "request":
        return message
    parts = [_left_out(part) if part.part_kind == "tool-return" else part for part in message.parts]
    return replace(message, parts=parts)


def _length(message: ModelMessage) -> int:
    return sum(estimate(str(part.content)) for part in message.parts if part.part_kind == "tool-return")


def _left_out(part: Any) -> Any:
    return replace(part, content=_LEFT_OUT)
