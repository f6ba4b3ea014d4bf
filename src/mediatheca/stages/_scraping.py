"""Fetching pages and following their links, within depth, number, domain and patience."""

from __future__ import annotations

import asyncio
import fnmatch
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from mediatheca.kernel.errors import BadRequestError, MediathecaError, UnavailableError, ValidationError
from mediatheca.kernel.outside import HttpAnswer, HttpRequest, Outside, Page, RenderRequest
from mediatheca.kernel.web_page import charset_of
from mediatheca.stages._robots import Robots

MAX_BYTES = 5 << 20
MAX_TEXT = 500_000
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
    strategy: Literal["static", "javascript", "auto"] = "static"
    short: int = 0
    """Characters; with less text a page is read again in a browser, with `auto`."""


class Scraper:
    """Reads pages for one stage. Hosts are not asked more often than once in `delay_s`."""

    def __init__(self, outside: Outside, crawl: Crawl, robots: Robots | None) -> None:
        self._outside, self._crawl, self._robots = outside, crawl, robots
        self._next: dict[str, float] = {}
        self._no_browser = False

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
        rendered = self._crawl.strategy == "javascript"
        answer = await (self._rendered(url) if rendered else self._sent(url))
        page = await self._read(answer)
        if self._crawl.strategy == "auto" and len(page.text) < self._crawl.short and not self._no_browser:
            answer, page, rendered = await self._again(answer, page)
        return self._made(url, answer, page, "javascript" if rendered else "static"), page.links

    def _made(self, url: str, answer: HttpAnswer, page: Page, strategy: str) -> dict[str, Any]:
        """A page as documents hold it."""
        made: dict[str, Any] = {
            "text": page.text[:MAX_TEXT],
            "title": page.title,
            "url": url,
            "final_url": answer.final_url,
            "content_length": len(answer.data),
            "metadata": dict(page.metadata),
            "strategy_used": strategy,
            "status": "success",
        }
        if len(page.text) > MAX_TEXT:
            made["truncated"] = True
        if self._crawl.html:
            made["html"] = answer.data.decode(charset_of(answer.headers.get("content-type", "")) or "utf-8", "replace")
        return made

    async def _sent(self, url: str) -> HttpAnswer:
        """A page as its server sends it."""
        request = HttpRequest(url, headers={"accept": _ACCEPT}, timeout_s=self._crawl.timeout_s, max_bytes=MAX_BYTES)
        return await self._good(url, await self._outside.http.send(request))

    async def _rendered(self, url: str) -> HttpAnswer:
        """A page after its scripts ran."""
        request = RenderRequest(url, timeout_s=self._crawl.timeout_s, max_bytes=MAX_BYTES)
        return await self._good(url, await self._outside.browser.render(request))

    async def _good(self, url: str, answer: HttpAnswer) -> HttpAnswer:
        """Raises BadRequestError: it is an error, or leads to where robots.txt allows nothing."""
        if answer.status >= 400:
            raise BadRequestError(f"the page answered with status {answer.status}")
        if self._robots is not None and answer.final_url != url:
            await self._robots.check(answer.final_url)
        return answer

    async def _again(self, answer: HttpAnswer, page: Page) -> tuple[HttpAnswer, Page, bool]:
        """A short page after its scripts ran, where there is a browser and that says more."""
        if answer.content_type not in _HTML or b"<script" not in answer.data.lower():
            return answer, page, False
        try:
            made = await self._rendered(answer.final_url)
            found = await self._read(made)
        except MediathecaError as error:
            self._no_browser = isinstance(error, UnavailableError)
            return answer, page, False
        return (made, found, True) if len(found.text) > len(page.text) else (answer, page, False)

    async def _read(self, answer: HttpAnswer) -> Page:
        charset = charset_of(answer.headers.get("content-type", ""))
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
