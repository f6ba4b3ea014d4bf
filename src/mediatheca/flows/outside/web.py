"""Web search through one service that the operator chose: SearXNG, Brave, Tavily, Exa or SerpApi."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import orjson

from mediatheca.flows.outside import web_services
from mediatheca.flows.outside.domains import permitted
from mediatheca.flows.outside.web_services import Asked, Service
from mediatheca.kernel.errors import BadRequestError, UnavailableError
from mediatheca.kernel.outside import Http, HttpAnswer, HttpRequest, WebResult

SETTING = "MEDIATHECA_WEB_SEARCH"
KEPT_S = 3600.0
MAX_KEPT = 2_000
MAX_QUERY = 2_000
_TIMEOUT_S = 15.0
_MAX_BYTES = 8 << 20
HOW = (
    f"set {SETTING} to a service, and its key or address: 'searxng http://searxng:8080', 'brave KEY', 'tavily KEY', "
    "'exa KEY' or 'serpapi KEY'"
)


@dataclass(frozen=True, slots=True)
class SearchSetting:
    """Which service, with which key, at which address."""

    service: Service
    url: str
    key: str = field(repr=False, default="")

    @classmethod
    def parse(cls, text: str) -> SearchSetting | None:
        """Read `provider [key] [address]`; None for an empty text.

        Raises:
            UnavailableError: no such service, or it lacks its key or address. The text is not repeated.
        """
        words = text.split()
        if not words:
            return None
        service = web_services.SERVICES.get(words[0].lower())
        if service is None:
            raise UnavailableError(
                f"{SETTING}: the first word must be one of {', '.join(web_services.SERVICES)}; {HOW}"
            )
        urls = [word for word in words[1:] if word.startswith(("http://", "https://"))]
        keys = [word for word in words[1:] if word not in urls]
        url, key = (urls or [service.url])[0].rstrip("/"), (keys or [""])[0]
        if not url or (service.needs_key and not key):
            raise UnavailableError(f"{SETTING}: {words[0]} needs {'a key' if url else 'an address'}; {HOW}")
        return cls(service, url, key)

    @property
    def host(self) -> str:
        """Host and port, as an entry of the allow-list: the operator named it."""
        return urlsplit(self.url).netloc


class SearchCache:
    """Answers of the last hour, by a digest of the question. Thread-safe."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._lock = now, threading.Lock()
        self._held: OrderedDict[bytes, tuple[float, list[WebResult]]] = OrderedDict()

    def get(self, key: bytes) -> list[WebResult] | None:
        with self._lock:
            found = self._held.get(key)
            return found[1] if found is not None and self._now() - found[0] < KEPT_S else None

    def put(self, key: bytes, results: list[WebResult]) -> None:
        with self._lock:
            self._held[key] = (self._now(), results)
            self._held.move_to_end(key)
            if len(self._held) > MAX_KEPT:
                self._held.popitem(last=False)


class WebSearchService:
    """`WebSearch` for one tenant."""

    def __init__(self, setting: SearchSetting | None, http: Http, cache: SearchCache, tenant: str) -> None:
        self._setting, self._http, self._cache, self._tenant = setting, http, cache, tenant

    async def search(self, query: str, *, limit: int, options: Mapping[str, Any]) -> list[WebResult]:
        """See `mediatheca.kernel.outside.WebSearch`."""
        setting = self._configured()
        asked = Asked(
            query[:MAX_QUERY], limit, **{name: options[name] for name in web_services.OPTIONS if name in options}
        )
        key = self._key("search", setting, asked)
        found = self._cache.get(key)
        if found is None:
            found = await self._asked(setting, setting.service.request(asked, setting.url, setting.key), "search")
            found = _narrowed(found, asked)
            self._cache.put(key, found)
        return found[:limit]

    async def similar_images(self, image_url: str, *, limit: int, engine: str) -> list[WebResult]:
        """See `mediatheca.kernel.outside.WebSearch`."""
        setting = self._configured()
        if setting.service.images is None:
            message = f"{setting.service.name} finds no pictures by a picture; set {SETTING} to 'serpapi KEY'"
            raise UnavailableError(f"external_reverse_image: {message}")
        asked = Asked(image_url, limit, category=engine)
        key = self._key("images", setting, asked)
        found = self._cache.get(key)
        if found is None:
            request = setting.service.images(image_url, engine, setting.url, setting.key)
            found = await self._asked(setting, request, "images")
            self._cache.put(key, found)
        return found[:limit]

    def _configured(self) -> SearchSetting:
        if self._setting is None:
            raise UnavailableError(f"no web search is configured; the operator can {HOW}")
        return self._setting

    def _key(self, what: str, setting: SearchSetting, asked: Asked) -> bytes:
        """A digest: what is asked may hold a secret, and nothing of it is kept."""
        content = orjson.dumps([what, self._tenant, setting.service.name, setting.url, asked])
        return hashlib.blake2b(content, digest_size=16).digest()

    async def _asked(self, setting: SearchSetting, request: HttpRequest, what: str) -> list[WebResult]:
        name = setting.service.name
        request = replace(request, timeout_s=_TIMEOUT_S, max_bytes=_MAX_BYTES)
        try:
            answer = await self._http.send(request)
        except BadRequestError as error:
            raise BadRequestError(f"the web search ({name}) did not answer: {error.message}") from None
        if answer.status != 200:
            raise BadRequestError(f"the web search ({name}) answered with status {answer.status}{_hint(answer.status)}")
        read = setting.service.read if what == "search" else setting.service.read_images
        return _read(answer, read, name)


def _read(answer: HttpAnswer, read: Callable[[Any], list[WebResult]], name: str) -> list[WebResult]:
    try:
        return [found for found in read(orjson.loads(answer.data)) if found.url.startswith(("http://", "https://"))]
    except (orjson.JSONDecodeError, AttributeError, TypeError, KeyError, ValueError):
        hint = "; enable the JSON format in its settings (search.formats)" if name == "searxng" else ""
        raise BadRequestError(f"the web search ({name}) answered with something that cannot be read{hint}") from None


def _hint(status: int) -> str:
    if status in (401, 403):
        return f": the key in {SETTING} is not accepted, or the service does not allow JSON"
    return ": its rate is used up, try again later" if status == 429 else ""


def _narrowed(results: Sequence[WebResult], asked: Asked) -> list[WebResult]:
    """Domains, also where the service does not know of them; each page once."""
    kept: dict[str, WebResult] = {}
    for found in results:
        host = (urlsplit(found.url).hostname or "").lower()
        wanted = _below(host, asked.include_domains) if asked.include_domains else True
        if wanted and not _below(host, asked.exclude_domains):
            kept.setdefault(found.url, found if asked.text else replace(found, text=""))
    return list(kept.values())


def _below(host: str, domains: Sequence[str]) -> bool:
    """Whether a host is one of these domains, or below one: how search services understand them."""
    return bool(domains) and permitted(host, [form for name in domains for form in (name, f"*.{name}")])
