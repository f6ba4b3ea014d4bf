"""Fetching pages and following their links, within depth, number, domain and patience."""

from __future__ import annotations

import asyncio
import codecs
import fnmatch
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from mediatheca.kernel.errors import BadRequestError, MediathecaError, ValidationError
from mediatheca.kernel.outside import HttpAnswer, HttpRequest, Outside, Page
from mediatheca.stages._robots import Robots

MAX_BYTES = 5 << 20
MAX_TEXT = 500_000
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([A-Za-z0-9._:-]{1,40})", re.I)
_NO_PAGE = frozenset({"punycode", "idna"})
"""Encodings of host names: no page has them, and decoding one takes the square of its length."""
_HTML = frozenset({"text/html", "application/xhtml+xml", ""})
_ACCEPT = "text/html, application/xhtml+xml, text/plain;q=0.8"


@dataclass(frozen=True, slots=True)
class Crawl:
    """How far to go from a page."""

    depth: int = 0
    pages: int = 10
    same_domain: bool = True
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    delay_s: float = 0.5
    timeout_s: float = 10.0
    html: bool = False


class Scraper:
    """Reads pages for one stage. Hosts are not asked more often than once in `delay_s`."""

    def __init__(self, outside: Outside, crawl: Crawl, robots: Robots | None) -> None:
        self._outside, self._crawl, self._robots = outside, crawl, robots
        self._next: dict[str, float] = {}

    async def scrape(self, url: str) -> dict[str, Any]:
        """A page, and with a depth the pages it links to, as `pages`.

        Raises:
            MediathecaError: the first page cannot be had.
        """
        first, links = await self.page(url)
        if not self._crawl.depth:
            return first
        first["pages"] = await self._follow(str(first["final_url"]), links)
        return first

    async def page(self, url: str) -> tuple[dict[str, Any], Sequence[str]]:
        """One page, and its links."""
        if self._robots is not None:
            await self._robots.check(url)
        await self._turn(url)
        answer = await self._outside.http.send(
            HttpRequest(url, headers={"accept": _ACCEPT}, timeout_s=self._crawl.timeout_s, max_bytes=MAX_BYTES)
        )
        if answer.status >= 400:
            raise BadRequestError(f"the page answered with status {answer.status}")
        if self._robots is not None and answer.final_url != url:
            await self._robots.check(answer.final_url)
        page = await self._read(answer)
        made: dict[str, Any] = {
            "text": page.text[:MAX_TEXT],
            "title": page.title,
            "url": url,
            "final_url": answer.final_url,
            "content_length": len(answer.data),
            "metadata": dict(page.metadata),
            "strategy_used": "static",
            "status": "success",
        }
        if len(page.text) > MAX_TEXT:
            made["truncated"] = True
        if self._crawl.html:
            made["html"] = answer.data.decode(_charset(answer) or "utf-8", "replace")
        return made, page.links

    async def _read(self, answer: HttpAnswer) -> Page:
        charset = _charset(answer)
        if answer.content_type in _HTML:
            return await self._outside.pages.read(answer.data, charset, answer.final_url)
        if answer.content_type.startswith("text/") or answer.content_type == "application/json":
            return Page(answer.data.decode(charset or "utf-8", "replace"))
        raise BadRequestError(f"the page is '{answer.content_type[:60]}', not a web page or text")

    async def _turn(self, url: str) -> None:
        """Wait until this host may be asked again."""
        host = urlsplit(url).netloc
        now = time.monotonic()
        at = max(now, self._next.get(host, 0.0))
        self._next[host] = at + self._crawl.delay_s
        if at > now:
            await asyncio.sleep(at - now)

    async def _follow(self, start: str, links: Sequence[str]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        seen, level = {start}, list(links)
        for depth in range(1, self._crawl.depth + 1):
            following: list[str] = []
            for link in level:
                if len(found) + 1 >= self._crawl.pages:
                    return found
                if link in seen or not self._wanted(link, start):
                    continue
                seen.add(link)
                entry, further = await self._linked(link)
                found.append({**entry, "depth": depth})
                following.extend(further)
            level = following
        return found

    async def _linked(self, link: str) -> tuple[dict[str, Any], Sequence[str]]:
        """A page that is linked to; its failure is an entry, not an error."""
        try:
            return await self.page(link)
        except MediathecaError as error:
            return {"url": link, "status": "error", "error": error.message}, ()

    def _wanted(self, link: str, start: str) -> bool:
        if self._crawl.same_domain and urlsplit(link).hostname != urlsplit(start).hostname:
            return False
        if self._crawl.include and not any(fnmatch.fnmatch(link, pattern) for pattern in self._crawl.include):
            return False
        return not any(fnmatch.fnmatch(link, pattern) for pattern in self._crawl.exclude)


def _charset(answer: HttpAnswer) -> str:
    match = _CHARSET.search(answer.headers.get("content-type", ""))
    if match is None:
        return ""
    try:
        name = codecs.lookup(match[1]).name
        "".encode(name)
    except (LookupError, ValueError):
        return ""
    return "" if name in _NO_PAGE else name


def check_patterns(patterns: Any) -> None:
    """Raises ValidationError for patterns that are not short texts: `https://example.com/docs/*`."""
    for side in ("include", "exclude"):
        given = patterns.get(side) or [] if isinstance(patterns, dict) else None
        if (
            not isinstance(given, list)
            or len(given) > 50
            or not all(isinstance(p, str) and len(p) <= 200 for p in given)
        ):
            message = "must be {include: […], exclude: […]} of at most 50 patterns with *, such as https://a.org/docs/*"
            raise ValidationError.at("url_patterns", message, "url_patterns")
        if any(pattern.count("*") > 5 for pattern in given):
            raise ValidationError.at("url_patterns", "a pattern may have five * at most", "url_patterns")
