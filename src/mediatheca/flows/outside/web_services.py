"""How each search service is asked and read.

Sources: the services' own API references (SearXNG search API, Brave Web Search, Tavily Search, Exa Search, SerpApi
Google Search and Google Lens).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import orjson

from mediatheca.kernel.outside import HttpRequest, WebResult

OPTIONS = ("include_domains", "exclude_domains", "start_published_date", "category", "autoprompt", "text")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a stage wants to know."""

    query: str
    limit: int
    include_domains: Sequence[str] = ()
    exclude_domains: Sequence[str] = ()
    start_published_date: str | None = None
    category: str | None = None
    autoprompt: bool = True
    text: bool = True


@dataclass(frozen=True, slots=True)
class Service:
    """A search service: how to ask it, and how to read its answer."""

    name: str
    url: str
    request: Callable[[Asked, str, str], HttpRequest]
    read: Callable[[Any], list[WebResult]]
    needs_key: bool = True
    images: Callable[[str, str, str, str], HttpRequest] | None = None
    """Picture URL, engine, address, key."""
    read_images: Callable[[Any], list[WebResult]] = lambda body: []


def _get(url: str, query: dict[str, Any], headers: dict[str, str] | None = None) -> HttpRequest:
    given = {name: value for name, value in query.items() if value not in (None, "")}
    return HttpRequest(f"{url}?{urlencode(given)}", headers={"accept": "application/json", **(headers or {})})


def _post(url: str, body: dict[str, Any], headers: dict[str, str]) -> HttpRequest:
    given = {name: value for name, value in body.items() if value not in (None, "", [])}
    sent = {"accept": "application/json", "content-type": "application/json", **headers}
    return HttpRequest(url, "POST", sent, orjson.dumps(given))


def _sites(asked: Asked) -> str:
    """The query with `site:` operators, for engines that have no parameter for domains."""
    include = " OR ".join(f"site:{name}" for name in asked.include_domains)
    exclude = " ".join(f"-site:{name}" for name in asked.exclude_domains)
    return " ".join(part for part in (asked.query, f"({include})" if include else "", exclude) if part)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _entries(body: Any, *path: str) -> list[dict[str, Any]]:
    for name in path:
        body = body.get(name) or {}
    return [entry for entry in body if isinstance(entry, dict)] if isinstance(body, list) else []


def _searxng(asked: Asked, url: str, key: str) -> HttpRequest:
    query = {"q": _sites(asked), "format": "json", "categories": asked.category}
    return _get(f"{url}/search", query, {"authorization": f"Bearer {key}"} if key else None)


def _read_searxng(body: Any) -> list[WebResult]:
    return [
        WebResult(
            url=_text(entry.get("url")),
            title=_text(entry.get("title")),
            text=_text(entry.get("content")),
            published_date=entry.get("publishedDate"),
            author=entry.get("author"),
            score=_number(entry.get("score")),
            thumbnail=entry.get("thumbnail") or entry.get("img_src"),
            source=_text(entry.get("engine")),
        )
        for entry in _entries(body, "results")
    ]


def _brave(asked: Asked, url: str, key: str) -> HttpRequest:
    since = asked.start_published_date
    fresh = f"{since[:10]}to9999-12-31" if since else None
    query = {"q": _sites(asked), "count": min(asked.limit, 20), "freshness": fresh, "result_filter": "web"}
    return _get(f"{url}/res/v1/web/search", query, {"x-subscription-token": key})


def _read_brave(body: Any) -> list[WebResult]:
    return [
        WebResult(
            url=_text(entry.get("url")),
            title=_text(entry.get("title")),
            text="\n".join([_text(entry.get("description")), *map(_text, entry.get("extra_snippets") or [])]).strip(),
            published_date=entry.get("page_age"),
            thumbnail=(entry.get("thumbnail") or {}).get("src"),
            source=_text((entry.get("profile") or {}).get("name")),
        )
        for entry in _entries(body, "web", "results")
    ]


def _tavily(asked: Asked, url: str, key: str) -> HttpRequest:
    body = {
        "query": asked.query,
        "max_results": min(asked.limit, 20),
        "auto_parameters": None,
        "topic": asked.category if asked.category in ("general", "news", "finance") else None,
        "include_domains": list(asked.include_domains),
        "exclude_domains": list(asked.exclude_domains),
        "start_date": asked.start_published_date[:10] if asked.start_published_date else None,
    }
    return _post(f"{url}/search", body, {"authorization": f"Bearer {key}"})


def _read_tavily(body: Any) -> list[WebResult]:
    return [
        WebResult(
            url=_text(entry.get("url")),
            title=_text(entry.get("title")),
            text=_text(entry.get("raw_content")) or _text(entry.get("content")),
            published_date=entry.get("published_date"),
            score=_number(entry.get("score")),
        )
        for entry in _entries(body, "results")
    ]


def _exa(asked: Asked, url: str, key: str) -> HttpRequest:
    body = {
        "query": asked.query,
        "numResults": asked.limit,
        "type": "auto" if asked.autoprompt else "keyword",
        "category": asked.category,
        "includeDomains": list(asked.include_domains),
        "excludeDomains": list(asked.exclude_domains),
        "startPublishedDate": asked.start_published_date,
        "contents": {"text": True} if asked.text else None,
    }
    return _post(f"{url}/search", body, {"x-api-key": key})


def _read_exa(body: Any) -> list[WebResult]:
    return [
        WebResult(
            url=_text(entry.get("url")),
            title=_text(entry.get("title")),
            text=_text(entry.get("text")),
            published_date=entry.get("publishedDate"),
            author=entry.get("author"),
            score=_number(entry.get("score")),
            thumbnail=entry.get("image"),
        )
        for entry in _entries(body, "results")
    ]


def _serpapi(asked: Asked, url: str, key: str) -> HttpRequest:
    query = {"engine": "google", "q": _sites(asked), "num": min(asked.limit, 100), "api_key": key}
    if asked.start_published_date:
        year, month, day = asked.start_published_date[:10].split("-")
        query["tbs"] = f"cdr:1,cd_min:{month}/{day}/{year}"
    return _get(f"{url}/search.json", query)


def _read_google(entries: list[dict[str, Any]]) -> list[WebResult]:
    return [
        WebResult(
            url=_text(entry.get("link")),
            title=_text(entry.get("title")),
            text=_text(entry.get("snippet")),
            published_date=entry.get("date"),
            thumbnail=entry.get("thumbnail"),
            source=_text(entry.get("source")),
        )
        for entry in entries
    ]


def _read_serpapi(body: Any) -> list[WebResult]:
    return _read_google(_entries(body, "organic_results"))


def _lens(image_url: str, engine: str, url: str, key: str) -> HttpRequest:
    name = "image_url" if engine == "google_reverse_image" else "url"
    return _get(f"{url}/search.json", {"engine": engine, name: image_url, "api_key": key})


def _read_lens(body: Any) -> list[WebResult]:
    return _read_google(_entries(body, "visual_matches") or _entries(body, "image_results"))


SERVICES: dict[str, Service] = {
    service.name: service
    for service in (
        Service("searxng", "", _searxng, _read_searxng, needs_key=False),
        Service("brave", "https://api.search.brave.com", _brave, _read_brave),
        Service("tavily", "https://api.tavily.com", _tavily, _read_tavily),
        Service("exa", "https://api.exa.ai", _exa, _read_exa),
        Service("serpapi", "https://serpapi.com", _serpapi, _read_serpapi, images=_lens, read_images=_read_lens),
    )
}
