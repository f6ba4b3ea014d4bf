"""Which language model answers to a name, and the client that reaches it.

Two protocols: OpenAI's (OpenAI, and servers that speak it: Ollama, vLLM, llama.cpp, LM Studio, gateways), and
Anthropic's.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from mediatheca.kernel.errors import NotConfiguredError, UnavailableError
from mediatheca.kernel.extras import require
from mediatheca.settings import Settings

if TYPE_CHECKING:
    from pydantic_ai.models import Model

OPENAI = frozenset({"openai", "openai-chat", "openai-compatible", "ollama", "vllm"})
ANTHROPIC = frozenset({"anthropic"})
OTHERS = frozenset(
    {"google", "google-gla", "google-vertex", "typesafe", "azure", "bedrock", "cohere", "groq", "mistral"}
)
"""Providers that retrievers name and that have no client of their own here."""
MAX_CLIENTS = 64
PROBE_S = 10.0
HOW = (
    "set MEDIATHECA_LANGUAGE_URL (a server that speaks OpenAI's protocol, such as Ollama or vLLM) or "
    "MEDIATHECA_LANGUAGE_KEY (of OpenAI; anthropic=… of Anthropic), and MEDIATHECA_LANGUAGE_MODEL"
)


@dataclass(frozen=True, slots=True)
class ModelName:
    """A model as `provider:model`; the provider is one of the two protocols."""

    provider: str
    model: str

    def __str__(self) -> str:
        return f"{self.provider}:{self.model}"

    @property
    def key_setting(self) -> str:
        return "MEDIATHECA_LANGUAGE_KEY" + (" (anthropic=…)" if self.provider == "anthropic" else "")

    @property
    def url_setting(self) -> str:
        return "MEDIATHECA_LANGUAGE_URL" + (" (anthropic=…)" if self.provider == "anthropic" else "")


@dataclass(frozen=True, slots=True)
class LanguageConfig:
    """What the operator chose."""

    url: str = ""
    key: str = field(default="", repr=False)
    anthropic_url: str = ""
    anthropic_key: str = field(default="", repr=False)
    default: str = ""
    substitutes: dict[str, str] = field(default_factory=dict)
    """Names that retrievers use → what answers to them here; `*`: to every name."""

    @classmethod
    def of(cls, settings: Settings) -> LanguageConfig:
        entries = [entry.strip() for entry in settings.language_model.split(",") if entry.strip()]
        pairs = [entry.partition("=")[::2] for entry in entries if "=" in entry]
        url, anthropic_url = _by_protocol(settings.language_url)
        key, anthropic_key = _by_protocol(settings.language_key.get_secret_value())
        return cls(
            url=url,
            key=key,
            anthropic_url=anthropic_url,
            anthropic_key=anthropic_key,
            default=next((entry for entry in entries if "=" not in entry), ""),
            substitutes={name.strip(): model.strip() for name, model in pairs},
        )

    def providers(self, api_key: str = "") -> tuple[str, ...]:
        """The protocols there is an address and a key for. A caller's own key does for both."""
        openai = ("openai",) if self.url or self.key or api_key else ()
        return openai + (("anthropic",) if self.anthropic_key or self.anthropic_url or api_key else ())

    def resolve(self, wanted: str, api_key: str = "") -> ModelName:
        """The model that answers to a name: `provider:model`, a bare model name, `provider`, or empty.

        Raises:
            UnavailableError: none does; the message says what to set. NotConfiguredError: no other would.
        """
        if not self.providers(api_key):
            raise NotConfiguredError(f"no language model is configured: {HOW}")
        provider, model = _split(wanted)
        substitute = self.substitutes.get(wanted) or self.substitutes.get(model) or self.substitutes.get("*")
        if wanted and substitute:
            provider, model = _split(substitute)
        if not model:
            provider, model = self._default(provider)
        if provider in OTHERS:
            own = self.default or "your-model"
            raise UnavailableError(
                f"no client for the provider '{provider}' is built in; name a model of "
                f"{' or '.join(self.providers(api_key))}, or map it: MEDIATHECA_LANGUAGE_MODEL={own},{model}={own}"
            )
        return ModelName(self._protocol(provider, model, api_key), model)

    def _default(self, provider: str) -> tuple[str, str]:
        chosen, model = _split(self.default)
        if not model or (provider and chosen and _family(provider) != _family(chosen)):
            raise NotConfiguredError(
                f"no model is named{f' for {provider}' if provider else ''}: give model_name in the stage, or set "
                "MEDIATHECA_LANGUAGE_MODEL to the default one"
            )
        return chosen or provider, model

    def _protocol(self, provider: str, model: str, api_key: str) -> str:
        configured = self.providers(api_key)
        if not provider:
            guess = "anthropic" if model.startswith("claude") else "openai"
            return guess if guess in configured else configured[0]
        family = _family(provider)
        if family not in configured:
            raise UnavailableError(f"the provider '{provider}' is not configured: {HOW}")
        return family


def _by_protocol(text: str) -> tuple[str, str]:
    """`one, anthropic=other`: what is for OpenAI's protocol, and what for Anthropic's."""
    found = {"openai": "", "anthropic": ""}
    for entry in (part.strip() for part in text.split(",")):
        name, equals, value = entry.partition("=")
        if equals and name in found:
            found[name] = value
        elif entry:
            found["openai"] = entry
    return found["openai"], found["anthropic"]


def _split(name: str) -> tuple[str, str]:
    """Provider and model. Models of Ollama have colons in their names, so only known providers are split off."""
    provider, colon, model = name.partition(":")
    if provider in OPENAI | ANTHROPIC | OTHERS:
        return provider, model if colon else ""
    return "", name


def _family(provider: str) -> str:
    return "anthropic" if provider in ANTHROPIC else "openai"


class Clients:
    """Clients of the providers, one for each event loop and key: they keep connections open."""

    def __init__(self, config: LanguageConfig) -> None:
        self._config = config
        self._loaded: set[str] = set()
        self._open: WeakKeyDictionary[Any, dict[tuple[str, bytes], Any]] = WeakKeyDictionary()

    async def model(self, name: ModelName, api_key: str) -> Model:
        """A model of pydantic-ai.

        Raises:
            UnavailableError: the extra `language` is not installed.
        """
        if name.provider not in self._loaded:  # two seconds: not on the event loop
            require("a language model", "language")
            await asyncio.to_thread(_load, name.provider)
            self._loaded.add(name.provider)
        client = self._client(name.provider, api_key)
        return _anthropic(name.model, client) if name.provider == "anthropic" else self._openai(name.model, client)

    async def served(self, provider: str) -> list[str]:
        """The models that a configured provider says it has; none, where it does not tell.

        Raises:
            UnavailableError: it does not answer, or refuses the key.
        """
        require("a language model", "language")
        name, client = ModelName(provider, ""), self._client(provider, "")
        models = client.models  # the SDK loads itself here, which takes seconds
        try:
            async with asyncio.timeout(PROBE_S):
                page = await models.list()
        except TimeoutError:
            raise UnavailableError(f"did not answer within {PROBE_S:g} s; check {name.url_setting}") from None
        except Exception as error:  # two SDKs without a common error; the cause may quote the key
            status = getattr(error, "status_code", None)
            if status == 404:
                return []
            said = "cannot be reached" if status is None else f"answers with HTTP {status}"
            setting = name.key_setting if status in (401, 403) else name.url_setting
            raise UnavailableError(f"{said}; check {setting}") from None
        return [str(model.id) for model in page.data]

    def _client(self, provider: str, api_key: str) -> Any:
        held = self._open.setdefault(asyncio.get_running_loop(), {})
        slot = provider, hashlib.blake2b(api_key.encode(), digest_size=16).digest()
        if slot not in held:
            if len(held) >= MAX_CLIENTS:  # callers' own keys come and go
                held.pop(next(iter(held)))
            held[slot] = self._connect(provider, api_key)
        return held[slot]

    def _connect(self, provider: str, api_key: str) -> Any:
        # Retries are ours: they know the execution's time and budget.
        if provider == "anthropic":
            from anthropic import AsyncAnthropic

            key, url = api_key or self._config.anthropic_key or "none", self._config.anthropic_url
            return AsyncAnthropic(api_key=key, base_url=url or None, max_retries=0)
        from openai import AsyncOpenAI

        key, url = api_key or self._config.key or "none", self._config.url
        return AsyncOpenAI(api_key=key, base_url=url or None, max_retries=0)

    def _openai(self, model: str, client: Any) -> Model:
        from pydantic_ai.models.openai import OpenAIChatModel
        from pydantic_ai.providers.openai import OpenAIProvider
        from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

        if not self._config.url:
            return OpenAIChatModel(model, provider=OpenAIProvider(openai_client=client))
        provider = OpenAICompatibleProvider("language-url", openai_client=client, profile=_compatible)
        return OpenAIChatModel(model, provider=provider)

    async def aclose(self) -> None:
        """Close the connections of the running loop."""
        for client in self._open.pop(asyncio.get_running_loop(), {}).values():
            await client.close()


def _load(provider: str) -> None:
    import pydantic_ai.direct
    import pydantic_ai.messages
    import pydantic_ai.models

    if provider == "anthropic":
        import pydantic_ai.models.anthropic
        import pydantic_ai.providers.anthropic
    else:
        import pydantic_ai.models.openai
        import pydantic_ai.providers.openai
        import pydantic_ai.providers.openai_compatible  # noqa: F401


def _compatible(model: str) -> Any:
    """What every server with OpenAI's protocol understands: the older name of the limit, one system message."""
    from pydantic_ai.profiles.openai import OpenAIModelProfile

    return OpenAIModelProfile(supports_json_schema_output=True, openai_chat_supports_max_completion_tokens=False)


def _anthropic(model: str, client: Any) -> Model:
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.providers.anthropic import AnthropicProvider

    return AnthropicModel(model, provider=AnthropicProvider(anthropic_client=client))
