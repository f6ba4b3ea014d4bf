"""The real desk: what extractors ask for, done in this process under its guards, for one collection's extraction."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from mediatheca.flows.outside.reach import NO_LIMITS, Reach
from mediatheca.flows.own_loop import run_until_stopped, stopping
from mediatheca.flows.vault import Vault
from mediatheca.kernel.desk import Desk
from mediatheca.kernel.errors import BadRequestError, ForbiddenError, UnavailableError
from mediatheca.kernel.header_hosts import names_host
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
_HOSTS = "header_hosts"
"""The parameter that names the hosts which headers with secrets may be sent to."""
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

    def of(self, scope: Scope, parameters: Mapping[str, Any], memory: Memory) -> Desk:
        """For an extractor with its parameters: it gets no other secrets than they name, and those go to no other hosts
        than they name. What objects hold decides nothing: others may write it."""
        sent = secrets_in({name: value for name, value in parameters.items() if name != _MODEL_KEY})
        return ExtractionDesk(self, scope, Secrets(secrets_in(parameters), sent, hosts_in(parameters)), memory)

    def encrypted(self, url: str) -> str:
        """The address that a secret may be sent to: by https, unless the operator named the host."""
        return str(self._fetcher.encrypted(check_url(url)))

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
        except RuntimeError as error:  # the loop has ended since
            work.close()
            raise stopping() from error
        try:
            return running.result(timeout_s)
        except TimeoutError:
            running.cancel()
            raise UnavailableError(f"no answer from outside within {timeout_s:g} seconds") from None

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._closed:
                raise stopping()
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=run_until_stopped, args=(self._loop,), name="desks", daemon=True)
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


def secrets_in(parameters: Any) -> frozenset[str]:
    """Names of the secrets that parameters refer to, anywhere."""
    if isinstance(parameters, Mapping):
        return frozenset().union(*map(secrets_in, parameters.values()))
    if isinstance(parameters, list | tuple):
        return frozenset().union(*map(secrets_in, parameters))
    name = secret_name(parameters) if isinstance(parameters, str) else None
    return frozenset() if name is None else frozenset({name})


def hosts_in(parameters: Mapping[str, Any]) -> frozenset[str]:
    """The hosts that headers with secrets may be sent to, as the parameters name them."""
    given = parameters.get(_HOSTS) or ()
    return frozenset(map(str.lower, filter(_is_text, given))) if isinstance(given, list | tuple) else frozenset()


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


@dataclass(frozen=True, slots=True)
class Secrets:
    """Names of the secrets that an extraction may use."""

    named: frozenset[str]
    sent: frozenset[str]
    """Those that may stand in headers."""
    hosts: frozenset[str]
    """Where those may be sent to."""


class ExtractionDesk:
    """A `Desk` for one extractor of one namespace. The process that asks may be anybody's by now."""

    def __init__(self, desks: Desks, scope: Scope, secrets: Secrets, memory: Memory) -> None:
        self._desks, self._scope, self._secrets, self._memory = desks, scope, secrets, memory

    def fetch(self, request: HttpRequest) -> HttpAnswer:
        """See `Desk`. Values of headers may be references to secrets."""
        url, headers = self._opened_headers(request.url, request.headers)
        asked = replace(request, url=url, headers=headers)
        http = self._desks.reach().bound(self._scope, NO_LIMITS).http
        return self._desks.wait(http.send(asked), request.timeout_s + _SLACK_S)

    def render(self, request: RenderRequest) -> HttpAnswer:
        """See `Desk`."""
        url, headers = self._opened_headers(request.url, request.headers)
        return self._desks.reach().browser.render(replace(request, url=url, headers=headers))

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

    def _opened_headers(self, url: str, headers: Mapping[str, str]) -> tuple[str, dict[str, str]]:
        """Where to send them, and the headers. Secrets go to the hosts that the parameters name, whatever object, page,
        redirect or process asks for another."""
        wanted = {name: value for name, value in headers.items() if secret_name(value)}
        if not wanted:
            return url, dict(headers)
        target = self._desks.encrypted(url)
        if not names_host(self._secrets.hosts, target):
            raise ForbiddenError(f"'{target[:200]}' gets no secret: header_hosts does not name its host")
        opened = {name: self._opened(value, self._secrets.sent) for name, value in wanted.items()}
        return target, {**headers, **opened}

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
