"""Language models over pydantic-ai: answers, answers that fit a schema, streams, and conversations with tools.

`LanguageProviders` is made once per process; `bound` gives what one execution may use. Every call is reserved in the
execution's budget before it is sent, and settled when the answer says what it took.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import orjson

from mediatheca.flows.outside.language_answers import read_answer, repair_request, schema_instructions
from mediatheca.flows.outside.language_budget import Meter
from mediatheca.flows.outside.language_models import Clients, LanguageConfig, ModelName
from mediatheca.flows.outside.language_talk import Talk
from mediatheca.flows.outside.language_tools import Exchange
from mediatheca.kernel.errors import BudgetError
from mediatheca.kernel.outside import Conversation, Generate, Generated, LanguageModels, LanguageUsage, Tool
from mediatheca.settings import Settings

CACHE_ENTRIES = 4096
CACHE_CHARACTERS = 16 * 1024
"""Longer answers are not kept."""


class LanguageProviders:
    """The language models of this installation. Nothing is connected, or imported, before the first request."""

    def __init__(self, settings: Settings) -> None:
        self.config = LanguageConfig.of(settings)
        self.clients = Clients(self.config)
        self.unstructured: set[ModelName] = set()
        """Models whose server refused a schema beside the request: they are told it in words."""
        self._answers: OrderedDict[bytes, Generated] = OrderedDict()

    def bound(
        self,
        *,
        namespace_id: str = "",
        max_tokens: int | None = None,
        max_credits: float | None = None,
        max_calls: int | None = None,
    ) -> LanguageModels:
        """For one execution. None: no limit. A thousand tokens are a credit."""
        return Language(self, Meter(max_tokens, max_credits, max_calls), namespace_id)

    def remembered(self, key: bytes) -> Generated | None:
        found = self._answers.get(key)
        if found is not None:
            self._answers.move_to_end(key)
        return found

    def remember(self, key: bytes, answer: Generated) -> None:
        if len(answer.text) <= CACHE_CHARACTERS and not answer.problem and not answer.truncated:
            self._answers[key] = replace(answer, calls=0, input_tokens=0, output_tokens=0)
            if len(self._answers) > CACHE_ENTRIES:
                self._answers.popitem(last=False)

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        await self.clients.aclose()


class Language:
    """`LanguageModels` of one execution."""

    def __init__(self, providers: LanguageProviders, meter: Meter, namespace_id: str) -> None:
        self._providers = providers
        self._meter = meter
        self._namespace_id = namespace_id

    @property
    def usage(self) -> LanguageUsage:
        return self._meter.usage

    async def generate(self, request: Generate) -> Generated:
        name = self._providers.config.resolve(request.model, request.api_key)
        key = self._key(request, name) if request.cache and not request.temperature else None
        found = self._providers.remembered(key) if key else None
        if found is not None:
            if request.hear is not None and request.schema is None:
                request.hear(found.text)
            return found
        talk = await self._talk(request, name)
        answer = await (self._plain(talk, request) if request.schema is None else self._structured(talk, request))
        if key:
            self._providers.remember(key, answer)
        return answer

    async def stream(self, request: Generate) -> AsyncIterator[str]:
        name = self._providers.config.resolve(request.model, request.api_key)
        talk = await self._talk(replace(request, schema=None), name)
        async for piece in talk.stream():
            yield piece

    async def converse(
        self, request: Generate, tools: Sequence[Tool], *, max_turns: int, timeout_s: float
    ) -> Conversation:
        name = self._providers.config.resolve(request.model, request.api_key)
        system = request.system
        if request.schema is not None:
            system = f"{system}\n\nWhen you are done: {schema_instructions(request.schema)}".strip()
        talk = await self._talk(replace(request, system=system, schema=None), name, tools)
        return await Exchange(talk, tools, request.schema).run(max_turns, timeout_s)

    async def _talk(self, request: Generate, name: ModelName, tools: Sequence[Tool] = ()) -> Talk:
        model = await self._providers.clients.model(name, request.api_key)
        config = self._providers.config
        hidden = (request.api_key, config.key, config.anthropic_key)
        return Talk(model, name, request, self._meter, tools, hidden, self._providers.unstructured)

    async def _plain(self, talk: Talk, request: Generate) -> Generated:
        said = await (talk.ask() if request.hear is None else talk.ask_aloud(request.hear))
        return talk.result(said)

    async def _structured(self, talk: Talk, request: Generate) -> Generated:
        """An answer that fits the schema, after one repair; else with the problem."""
        assert request.schema is not None
        said = await talk.ask()
        value, problem = read_answer(request.schema, said.text)
        if problem and not said.truncated:
            talk.reply(said, repair_request(request.schema, problem))
            try:
                said = await talk.ask()
            except BudgetError:
                return talk.result(said, problem=f"{problem} (no tokens are left to repair it)")
            value, problem = read_answer(request.schema, said.text)
        if problem and said.truncated:
            problem = f"the answer was cut after {said.output_tokens:,} tokens; raise max_tokens"
        return talk.result(said, value=value, problem=problem)

    def _key(self, request: Generate, name: ModelName) -> bytes:
        """Digest of everything that decides the answer, and of whose it is."""
        files = [(kind, hashlib.blake2b(data).digest().hex()) for kind, data in request.files]
        key = hashlib.blake2b(request.api_key.encode()).hexdigest()
        content = [self._namespace_id, key, str(name), request.system, request.prompt, request.schema, files]
        data = orjson.dumps([*content, request.max_tokens, request.top_p], default=repr, option=orjson.OPT_SORT_KEYS)
        return hashlib.blake2b(data, digest_size=16).digest()
