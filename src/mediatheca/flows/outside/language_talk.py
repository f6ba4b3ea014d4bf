"""The messages between us and one model: sent within budget and time, answers with what they cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mediatheca.flows.outside.language_answers import clean, schema_instructions
from mediatheca.flows.outside.language_budget import Meter, Reservation, estimate
from mediatheca.flows.outside.language_errors import explain, tried
from mediatheca.flows.outside.language_models import ModelName
from mediatheca.kernel.errors import BadRequestError, UnavailableError
from mediatheca.kernel.outside import Generate, Generated, Tool
from mediatheca.telemetry import Span, span

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelMessage, ModelResponse
    from pydantic_ai.models import Model, ModelRequestParameters

MAX_ANSWER = 4096
"""Tokens of an answer where the request does not say."""
MAX_TEXT = 1 << 20


@dataclass(frozen=True, slots=True)
class Said:
    """One answer of a model."""

    text: str
    response: ModelResponse
    input_tokens: int
    output_tokens: int
    truncated: bool
    calls: Sequence[Any] = ()
    """The tools it wants called."""


@dataclass(slots=True)
class _Cost:
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


class Talk:
    """One request and what follows from it."""

    def __init__(
        self,
        model: Model,
        name: ModelName,
        request: Generate,
        meter: Meter,
        tools: Sequence[Tool],
        hidden: Sequence[str],
        unstructured: set[ModelName],
    ) -> None:
        self.name = name
        self.request = request
        self.messages: list[ModelMessage] = []
        self.size = estimate(request.system + request.prompt, len(request.files))
        """About the tokens of the messages."""
        self._model = model
        self._meter = meter
        self._hidden = hidden
        self._unstructured = unstructured
        self._tools = tools
        self._cost = _Cost()
        self._streamed: Said | None = None
        if request.schema is not None or tools:
            described = [request.schema, *(tool.schema for tool in tools)]
            self.size += estimate(str(described))
        self.messages.append(_first(request))

    async def ask(self) -> Said:
        """Send the messages.

        Raises:
            BudgetError: what is left of the tokens does not suffice.
            MediathecaError: see `tried`.
        """
        wanted = self.request.max_tokens or MAX_ANSWER
        with self._meter.reserve(self.size, wanted) as held, self._span() as traced:
            said = await tried(
                lambda: self._send(held),
                self.name,
                timeout_s=self.request.timeout_s,
                hidden=self._hidden,
            )
            traced.set_attributes(_spent(said))
        return self._counted(said)

    async def ask_aloud(self, hear: Callable[[str], None]) -> Said:
        """`ask`, where `hear` gets the pieces of the answer as they come. A broken answer is not begun again.

        Raises:
            BudgetError, MediathecaError: see `ask`.
        """
        async for piece in self.stream():
            hear(piece)
        if self._streamed is None:
            raise UnavailableError(f"{self.name} ended its answer before it began")
        return self._counted(self._streamed)

    def _span(self) -> AbstractContextManager[Span]:
        return span("chat", **{"gen_ai.operation.name": "chat", "gen_ai.request.model": str(self.name)})

    def _counted(self, said: Said) -> Said:
        self._cost.calls += 1
        self._cost.input_tokens += said.input_tokens
        self._cost.output_tokens += said.output_tokens
        return said

    def reply(self, said: Said, text: str) -> None:
        """Go on after an answer."""
        from pydantic_ai.messages import ModelRequest, UserPromptPart

        self.extend(said.response, ModelRequest(parts=[UserPromptPart(text)], instructions=self._system()))
        self.size += said.output_tokens + estimate(text)

    def extend(self, *messages: ModelMessage) -> None:
        self.messages.extend(messages)

    def result(self, said: Said, *, value: Any = None, problem: str = "") -> Generated:
        cost = self._cost
        return Generated(
            text=said.text,
            value=value,
            problem=problem,
            model=str(self.name),
            input_tokens=cost.input_tokens,
            output_tokens=cost.output_tokens,
            calls=cost.calls,
            truncated=said.truncated,
        )

    @property
    def cost(self) -> tuple[int, int, int]:
        """Calls, input tokens, output tokens."""
        return self._cost.calls, self._cost.input_tokens, self._cost.output_tokens

    async def stream(self) -> AsyncIterator[str]:
        """The pieces of the answer. It is tried again only before the first piece."""
        wanted = self.request.max_tokens or MAX_ANSWER
        with self._meter.reserve(self.size, wanted) as held, self._span() as traced:

            async def begin() -> tuple[AsyncGenerator[str, None], str | None]:
                opened = self._pieces(held)
                try:
                    return opened, await anext(opened, None)
                except BaseException:
                    await opened.aclose()
                    raise

            pieces, piece = await tried(begin, self.name, timeout_s=self.request.timeout_s, hidden=self._hidden)
            async with aclosing(pieces):
                while piece is not None:
                    yield piece
                    piece = await self._next(pieces)
            if self._streamed is not None:
                traced.set_attributes(_spent(self._streamed))

    async def _next(self, pieces: AsyncIterator[str]) -> str | None:
        try:
            async with asyncio.timeout(self.request.timeout_s):
                return await anext(pieces, None)
        except TimeoutError:
            raise UnavailableError(f"{self.name} stopped in the middle of its answer") from None
        except Exception as failure:
            raise explain(failure, self.name, self._hidden).error from None

    async def _pieces(self, held: Reservation) -> AsyncGenerator[str, None]:
        from pydantic_ai.direct import model_request_stream
        from pydantic_ai.messages import PartDeltaEvent, PartStartEvent, TextPart, TextPartDelta

        sent = 0
        stream = model_request_stream(
            self._model,
            self._spoken(),
            model_settings=self._settings(held),
            model_request_parameters=self._parameters(),
        )
        try:
            async with stream as events:
                async for event in events:
                    piece = ""
                    if isinstance(event, PartStartEvent) and isinstance(event.part, TextPart):
                        piece = event.part.content
                    elif isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
                        piece = event.delta.content_delta
                    if piece:
                        sent += estimate(piece)
                        yield clean(piece)
                self._streamed = _said(events.get(), self.size, sent)
                held.spent(self._streamed.input_tokens, self._streamed.output_tokens)
        finally:
            if sent and not held.input_tokens:
                held.spent(self.size, sent)

    async def _send(self, held: Reservation) -> Said:
        try:
            response = await self._requested(held)
        except asyncio.CancelledError:
            held.spent(self.size, 0)  # the provider read the prompt, and may have answered
            raise
        said = _said(response, self.size)
        held.spent(said.input_tokens, said.output_tokens)
        return said

    async def _requested(self, held: Reservation) -> ModelResponse:
        from pydantic_ai.direct import model_request
        from pydantic_ai.exceptions import ModelHTTPError

        native = self._native()
        settings = self._settings(held)
        try:
            return await model_request(
                self._model, self._spoken(), model_settings=settings, model_request_parameters=self._parameters(native)
            )
        except ModelHTTPError as error:
            if not native or error.status_code not in (400, 422) or not _about_schema(error):
                raise
            self._unstructured.add(self.name)
        return await model_request(
            self._model, self._spoken(), model_settings=settings, model_request_parameters=self._parameters()
        )

    def _native(self) -> bool:
        """The schema is given beside the messages, and the server keeps the model to it."""
        schema = self.request.schema
        if schema is None or schema.get("type") != "object" or self.name in self._unstructured:
            return False
        return bool(self._model.profile.get("supports_json_schema_output", False))

    def _spoken(self) -> list[ModelMessage]:
        """The messages; with the schema in words, where it cannot be given beside them."""
        first = self.messages[0]
        system = self._system()
        return [replace(first, instructions=system), *self.messages[1:]] if first.kind == "request" else self.messages

    def _system(self) -> str | None:
        schema = self.request.schema
        told = schema_instructions(schema) if schema is not None and not self._native() else ""
        return f"{self.request.system}\n\n{told}".strip() or None

    def _parameters(self, native: bool = False) -> ModelRequestParameters:
        from pydantic_ai.models import ModelRequestParameters
        from pydantic_ai.output import OutputObjectDefinition
        from pydantic_ai.tools import ToolDefinition

        functions = [
            ToolDefinition(name=tool.name, description=tool.description, parameters_json_schema=dict(tool.schema))
            for tool in self._tools
        ]
        if not native:
            return ModelRequestParameters(function_tools=functions)
        wanted = OutputObjectDefinition(json_schema=dict(self.request.schema or {}), name="answer")
        return ModelRequestParameters(function_tools=functions, output_mode="native", output_object=wanted)

    def _settings(self, held: Reservation) -> Any:
        settings: dict[str, Any] = {"max_tokens": held.answer}
        if self.request.temperature is not None:
            settings["temperature"] = self.request.temperature
        # Newer models of Anthropic refuse a request that has both.
        if self.request.top_p is not None and (self.name.provider != "anthropic" or "temperature" not in settings):
            settings["top_p"] = self.request.top_p
        return settings


def _said(response: ModelResponse, asked: int, answered: int = 0) -> Said:
    """A response as an answer. `asked`, `answered`: the tokens reckoned where the provider does not count."""
    text = clean("".join(part.content for part in response.parts if part.part_kind == "text"))[:MAX_TEXT]
    usage = response.usage
    taken = usage.input_tokens or asked, usage.output_tokens or answered or estimate(text)
    calls = [part for part in response.parts if part.part_kind == "tool-call"]
    return Said(text, response, *taken, truncated=response.finish_reason == "length", calls=calls)


def _spent(said: Said) -> dict[str, int]:
    """What a span tells of an answer."""
    return {"gen_ai.usage.input_tokens": said.input_tokens, "gen_ai.usage.output_tokens": said.output_tokens}


def _first(request: Generate) -> ModelMessage:
    from pydantic_ai.messages import BinaryContent, ModelRequest, UserPromptPart

    if not request.prompt.strip() and not request.files:
        raise BadRequestError("the prompt is empty: its template made no text")
    files = [BinaryContent(data=data, media_type=kind) for kind, data in request.files]
    content: Any = [clean(request.prompt), *files] if files else clean(request.prompt)
    return ModelRequest(parts=[UserPromptPart(content)])


def _about_schema(error: Exception) -> bool:
    text = str(getattr(error, "body", "")).lower()
    return any(word in text for word in ("response_format", "json_schema", "output_config", "structured output"))
