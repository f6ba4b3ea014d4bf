"""Whether what reaches outside really works: asked once, by `mediatheca doctor`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from mediatheca.flows.outside.code import CodeSandbox
from mediatheca.flows.outside.http import GuardedHttp
from mediatheca.flows.outside.language_models import Clients, LanguageConfig
from mediatheca.flows.outside.rates import Rates
from mediatheca.flows.outside.readiness import Readiness
from mediatheca.flows.outside.web import SearchCache, SearchSetting, WebSearchService
from mediatheca.kernel.errors import MediathecaError, UnavailableError
from mediatheca.kernel.models import Models
from mediatheca.settings import Settings
from mediatheca.stages.rerank import DEFAULT_MODEL
from mediatheca.stores.fetch import Fetcher

_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Probe:
    """One way out. Neither `works` nor `wrong`: it is not configured, and `state` says how to."""

    name: str
    where: str
    state: str
    works: bool = False
    wrong: bool = False


async def probe(settings: Settings, models: Models) -> list[Probe]:
    """Ask everything that is configured."""
    threads = ThreadPoolExecutor(1, "probe")
    try:
        return [
            *await _language(settings),
            await _search(settings, threads),
            await _code(settings, threads),
            await _reranker(models),
        ]
    finally:
        threads.shutdown()


async def _language(settings: Settings) -> list[Probe]:
    config = LanguageConfig.of(settings)
    reason = Readiness(settings).lacking("language")
    if not config.providers():
        return [Probe("language model", "", reason)]
    clients = Clients(config)
    try:
        return [await _provider(clients, config, provider, reason) for provider in config.providers()]
    finally:
        await clients.aclose()


async def _provider(clients: Clients, config: LanguageConfig, provider: str, reason: str) -> Probe:
    url = config.anthropic_url if provider == "anthropic" else config.url
    where = url or {"openai": "OpenAI", "anthropic": "Anthropic"}[provider]

    async def ask() -> str:
        if reason:
            raise UnavailableError(reason)
        served = await clients.served(provider)
        wanted = config.resolve("") if config.default else None
        if wanted is None:
            return "answers; no default model: set MEDIATHECA_LANGUAGE_MODEL, or name one in every stage"
        if wanted.provider == provider and served and wanted.model not in served:
            some = ", ".join(served[:_SHOWN])
            raise UnavailableError(
                f"answers, but has no model '{wanted.model}' (MEDIATHECA_LANGUAGE_MODEL); it has {some}"
            )
        return f"answers; default model {wanted}"

    return await _asked("language model", where, ask)


async def _search(settings: Settings, threads: ThreadPoolExecutor) -> Probe:
    reason = Readiness(settings).lacking("web_search")
    if reason:
        return Probe("web search", "", reason)
    setting = SearchSetting.parse(settings.web_search.get_secret_value())
    assert setting is not None
    http = GuardedHttp(Fetcher(allow=f"{settings.fetch_allow},{setting.host}"), Rates(), threads, "doctor")

    async def ask() -> str:
        found = await WebSearchService(setting, http, SearchCache(), "doctor").search("test", limit=1, options={})
        return f"answers ({len(found)} result for 'test')"

    return await _asked("web search", f"{setting.service.name} {setting.host}", ask)


async def _code(settings: Settings, threads: ThreadPoolExecutor) -> Probe:
    if not settings.allow_code:
        return Probe("code sandbox", "", Readiness(settings).lacking("code"))
    sandbox = CodeSandbox(True, threads)

    async def ask() -> str:
        limits = {"timeout_ms": 5000, "max_output_bytes": 1000, "memory_mb": 64}
        made = await sandbox.run("made = 6 * 7", language="python", inputs={}, result="made", **limits)
        return f"runs Python (6 * 7 = {made})"

    try:
        return await _asked("code sandbox", "", ask)
    finally:
        sandbox.close()


async def _reranker(models: Models) -> Probe:
    try:
        info = (await asyncio.to_thread(models.reranker, DEFAULT_MODEL)).info
    except UnavailableError as error:
        return Probe("reranker", "", f"none: `rerank` sorts by vectors and words. {error.message}")
    except MediathecaError as error:
        return Probe("reranker", "", error.message, wrong=True)
    return Probe("reranker", info.source, f"{info.weights_name} answers to {DEFAULT_MODEL}", works=True)


async def _asked(name: str, where: str, ask: Callable[[], Awaitable[str]]) -> Probe:
    try:
        return Probe(name, where, await ask(), works=True)
    except MediathecaError as error:
        return Probe(name, where, error.message, wrong=True)
