"""The real desk: what extractors ask for, done in this process under its guards, for one collection's extraction."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Protocol, TypeVar

from mediatheca.extractors import Item, Source
from mediatheca.extractors._crawl_urls import is_address, may_know, spelled_out
from mediatheca.flows.outside.reach import NO_LIMITS, Reach
from mediatheca.flows.vault import Vault
from mediatheca.kernel.desk import Desk
from mediatheca.kernel.errors import BadRequestError, ForbiddenError, UnavailableError
from mediatheca.kernel.outside import Generate, Generated, HttpAnswer, HttpRequest, RenderRequest
from mediatheca.kernel.scope import Scope
from mediatheca.kernel.secret_reference import secret_name
from mediatheca.kernel.steps import MAX_RESULT_BYTES
from mediatheca.settings import Settings
from mediatheca.stores.db.engine import Database
from mediatheca.stores.fetch import Fetcher, check_url

T = TypeVar("T")
_KEY = re.compile(r"[0-9a-f]{64}")
_SLACK_S = 15.0
_MODEL_KEY = "llm_api_key"
"""The parameter whose secret goes to language models only."""
_MAX_ADDRESS = 8192
_MAX_GENERATE_S = 300.0


class Memory(Protocol):
    """Where steps are remembered, as in `Desk`: the results of a namespace."""

    def recall(self, key: str) -> bytes | None: ...

    def remember(self, key: str, data: bytes) -> None: ...


class Desks:
    """What a process answers its extractors with; one per process. Nothing is started before the first question."""

    def __init__(self, settings: Settings, database: Database, vault: Vault, fetcher: Fetcher) -> None:
        self._settings, self._db, self._fetcher, self.vault = settings, database, fetcher, vault
        self._lock = threading.Lock()
        self._reach: Reach | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def of(self, scope: Scope, parameters: Mapping[str, Any], memory: Memory, items: Iterable[Item] = ()) -> Desk:
        """For an extractor with its parameters and items: it gets no other secrets than the parameters name, and they
        go to no other sites than parameters and items name."""
        sent = secrets_in({name: value for name, value in parameters.items() if name != _MODEL_KEY})
        sites = {*addresses_in(parameters), *addresses_of(items)} if sent else set()
        return ExtractionDesk(self, scope, Secrets(secrets_in(parameters), sent, frozenset(sites)), memory)

    def reach(self) -> Reach:
        with self._lock:
            if self._reach is None:
                self._reach = Reach(self._settings, self._db, self.vault, self._fetcher)
            return self._reach

    def wait(self, work: Coroutine[Any, Any, T], timeout_s: float) -> T:
        """Run on the loop that connections of this process's desks belong to.

        Raises:
            UnavailableError: it took longer, or the process ends.
        """
        try:
            running = asyncio.run_coroutine_threadsafe(work, self._running_loop())
        except UnavailableError:
            work.close()
            raise
        try:
            return running.result(timeout_s)
        except TimeoutError:
            running.cancel()
            raise UnavailableError(f"no answer from outside within {timeout_s:g} seconds") from None

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._closed:
                raise UnavailableError("the server stops; the work is taken up again after the restart")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_run, args=(self._loop,), name="desks", daemon=True)
                self._thread.start()
            return self._loop

    def close(self) -> None:
        with self._lock:
            self._closed = True
            reach, loop, self._reach, self._loop = self._reach, self._loop, None, None
        if loop is not None and reach is not None:
            asyncio.run_coroutine_threadsafe(reach.language.aclose(), loop).result(_SLACK_S)
        if loop is not None and self._thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join(_SLACK_S)
        if reach is not None:
            reach.close()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """Until it is stopped; what still runs then is cancelled."""
    asyncio.set_event_loop(loop)
    loop.run_forever()
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.close()


def secrets_in(parameters: Any) -> frozenset[str]:
    """Names of the secrets that parameters refer to, anywhere."""
    if isinstance(parameters, Mapping):
        return frozenset().union(*map(secrets_in, parameters.values()))
    if isinstance(parameters, list | tuple):
        return frozenset().union(*map(secrets_in, parameters))
    name = secret_name(parameters) if isinstance(parameters, str) else None
    return frozenset() if name is None else frozenset({name})


def addresses_in(parameters: Any) -> Iterator[str]:
    """Addresses that parameters name, anywhere."""
    if isinstance(parameters, Mapping):
        yield from chain.from_iterable(map(addresses_in, parameters.values()))
    elif isinstance(parameters, list | tuple):
        yield from chain.from_iterable(map(addresses_in, parameters))
    elif isinstance(parameters, str) and is_address(parameters.strip()):
        yield parameters.strip()


def addresses_of(items: Iterable[Item]) -> Iterator[str]:
    """Addresses that the inputs of items are."""
    for source in chain.from_iterable(chain.from_iterable(item.inputs.values() for item in items)):
        text = spelled_out(_short_text(source))
        if is_address(text):
            yield text


def _short_text(source: Source) -> str:
    """Of an input that may be an address; empty for what is too long for one."""
    if source.value is not None:
        return source.value if isinstance(source.value, str) and len(source.value) <= _MAX_ADDRESS else ""
    data = source.data or b""
    if source.data is None and source.path is not None:
        with open(source.path, "rb") as file:
            data = file.read(_MAX_ADDRESS + 1)
    return data.decode("utf-8-sig", "replace") if len(data) <= _MAX_ADDRESS else ""


@dataclass(frozen=True, slots=True)
class Secrets:
    """Names of the secrets that an extraction may use."""

    named: frozenset[str]
    sent: frozenset[str]
    """Those that may stand in headers."""
    sites: frozenset[str]
    """Addresses of the sites that they may be sent to."""


class ExtractionDesk:
    """A `Desk` for one extractor of one namespace. The process that asks may be anybody's by now."""

    def __init__(self, desks: Desks, scope: Scope, secrets: Secrets, memory: Memory) -> None:
        self._desks, self._scope, self._secrets, self._memory = desks, scope, secrets, memory

    def fetch(self, request: HttpRequest) -> HttpAnswer:
        """See `Desk`. Values of headers may be references to secrets."""
        asked = replace(request, headers=self._opened_headers(request.url, request.headers))
        http = self._desks.reach().bound(self._scope, NO_LIMITS).http
        return self._desks.wait(http.send(asked), request.timeout_s + _SLACK_S)

    def render(self, request: RenderRequest) -> HttpAnswer:
        """See `Desk`."""
        asked = replace(request, headers=self._opened_headers(request.url, request.headers))
        return self._desks.reach().browser.render(asked)

    def generate(self, request: Generate) -> Generated:
        """See `Desk`."""
        limit = min(request.timeout_s, _MAX_GENERATE_S)
        asked = replace(request, api_key=self._opened_key(request.api_key), timeout_s=limit)
        language = self._desks.reach().bound(self._scope, NO_LIMITS).language
        return self._desks.wait(language.generate(asked), 4 * limit + _SLACK_S)

    def recall(self, key: str) -> bytes | None:
        """See `Desk`."""
        return self._memory.recall(_checked(key))

    def remember(self, key: str, data: bytes) -> None:
        """See `Desk`."""
        if len(data) > MAX_RESULT_BYTES:
            raise BadRequestError(
                f"the result of a step may have {MAX_RESULT_BYTES >> 20} MiB, got {len(data):,} bytes"
            )
        self._memory.remember(_checked(key), data)

    def _opened_headers(self, url: str, headers: Mapping[str, str]) -> dict[str, str]:
        """Secrets go to the sites that the caller named, whatever page, redirect or process asks for another."""
        wanted = {name: value for name, value in headers.items() if secret_name(value)}
        if not wanted:
            return dict(headers)
        target = check_url(url)
        if not may_know(str(target), self._secrets.sites):
            raise ForbiddenError(
                f"'{target.host}' gets no secret: inputs and parameters name no address there, or name it with https"
            )
        return {**headers, **{name: self._opened(value, self._secrets.sent) for name, value in wanted.items()}}

    def _opened_key(self, key: str) -> str:
        if key and secret_name(key) is None:
            raise BadRequestError("llm_api_key: give it as {{SECRET.name}} and store the key as a secret of that name")
        return self._opened(key, self._secrets.named) if key else ""

    def _opened(self, reference: str, allowed: frozenset[str]) -> str:
        """The secret that the collection's parameters name."""
        name = secret_name(reference)
        if name is None or name not in allowed:
            raise ForbiddenError(f"the parameters of this extractor do not name the secret '{str(name)[:100]}'")
        return str(self._desks.vault.read(self._scope, {name})[name])


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise BadRequestError("the key of a step has 64 hex digits")
    return key
