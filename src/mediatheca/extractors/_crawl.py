"""Visiting the pages of a web site: politely, each once, within depth, number, time and what the site allows.

Everything goes through the desk, so behind the guard of the server: this process has no network of its own.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import count
from typing import Any, Literal, TypeAlias

from mediatheca.extractors import Dropped, ItemError
from mediatheca.extractors._crawl_fetch import Fetching, PageError, Retries
from mediatheca.extractors._crawl_urls import Traps, canonical, is_address, may_know, site
from mediatheca.extractors._sitemaps import pages_of
from mediatheca.kernel.desk import Desk
from mediatheca.kernel.errors import BadRequestError, MediathecaError, PayloadTooLargeError, UnavailableError
from mediatheca.kernel.header_hosts import names_host
from mediatheca.kernel.outside import HttpRequest
from mediatheca.kernel.robots import EVERYTHING, MAX_BYTES, RobotRules, read_robots, refused, robots_url
from mediatheca.kernel.secret_reference import secret_name
from mediatheca.kernel.web_page import Link, WebPage

Render: TypeAlias = Literal["auto", "static", "javascript"]
Rank: TypeAlias = Callable[[Sequence[Link]], Sequence[float]]
"""How well links fit what is looked for, higher is better."""
_MAX_TOLD = 500
"""Pages that were not read are told one by one, up to here."""
_THIN = 200
"""Characters; a page with scripts and less text than this is one that its scripts make."""
_ROBOTS_S = 10.0
_BEAT_S = 5.0
_WASTED = 3
"""For each page that may be read, so many may be tried."""
_MAX_SEEN = 200_000
"""Addresses that are remembered; pages of a hostile site may link to a million."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How far to go, and how."""

    depth: int = 2
    pages: int = 50
    seconds: float = 300.0
    include: Sequence[Any] = ()
    """Compiled patterns; a page other than the first is visited when one of them is found in its address."""
    exclude: Sequence[Any] = ()
    same_site: bool = True
    delay_s: float = 0.0
    """Between two requests to a host; what robots.txt asks for counts where it is more."""
    robots: bool = True
    sitemap: bool = False
    render: Render = "auto"
    headers: Mapping[str, str] = field(default_factory=dict)
    """To the site of the given address only, wherever that leads."""
    header_hosts: Sequence[str] = ()
    """Of that site, the hosts that headers with secrets are sent to."""
    retries: Retries = field(default_factory=Retries)


@dataclass(frozen=True, slots=True)
class Visited:
    """A page that was read."""

    url: str
    """Where it really is."""
    page: WebPage
    depth: int
    parent: str
    rendered: bool = False


class Crawl:
    """One crawl. `rank` orders links by how well they fit; without it pages come by depth, then as they are linked."""

    def __init__(self, desk: Desk, rules: Rules, beat: Callable[[float], None], rank: Rank | None = None) -> None:
        self._desk, self._rules, self._beat, self._rank = desk, rules, beat, rank
        self._fetching = Fetching(desk, rules.retries, self._pause)
        self._robots: dict[str, RobotRules] = {}
        self._next: dict[str, float] = {}
        self._traps = Traps()
        self._queue: list[tuple[float, int, str, int, str]] = []
        """Rank, number, address, depth, and the page that links to it."""
        self._number = count()
        self._seen: set[str] = set()
        self._said: dict[bytes, str] = {}
        self._told: Counter[str] = Counter()
        self._home = self._start = ""
        self._ends = time.monotonic() + rules.seconds
        self._browser_missing = ""

    def visit(self, start: str) -> Iterator[Visited | Dropped]:
        """The pages, the first one first; what was not read, with the reason.

        Raises:
            ItemError: the first page cannot be read.
        """
        first, rest = self._first(start)
        yield first
        yield from rest
        read, tried = 1, 1
        while self._queue:
            if read >= self._rules.pages or tried >= self._rules.pages * _WASTED or time.monotonic() > self._ends:
                yield self._cut(read, tried)
                break
            _, _, url, depth, parent = heapq.heappop(self._queue)
            tried += 1
            for made in self._tried(url, depth, parent):
                read += isinstance(made, Visited)
                yield made
            self._beat(min(read / self._rules.pages, 0.99))
        yield from self._summed_up()

    def file(self, url: str) -> bytes:
        """A picture or another file of a page, as politely as a page.

        Raises:
            PageError: the site does not allow it, or the time is over; it answers with an error.
            MediathecaError: the address is refused, or nobody answers.
        """
        with self._turn(url, self._allowed(url)):
            if time.monotonic() > self._ends:
                raise PageError("the time of the crawl was over")
            return self._fetching.file(url)

    def _first(self, start: str) -> tuple[Visited, list[Dropped]]:
        self._home, self._start = site(start), start
        try:
            found, dropped = self._read(start, 0, "")
        except (PageError, MediathecaError) as error:
            lasting = not (getattr(error, "retryable", False) or getattr(error, "status", 400) >= 500)
            raise ItemError(f"{start[:300]} cannot be read: {error}", permanent=lasting) from error
        self._home = site(found.url)
        self._seen |= {canonical(start), canonical(found.url)}
        self._said[_digest(found.page.text)] = found.url
        self._enqueue(found)
        if self._rules.sitemap and self._rules.depth:
            self._add([Link(url) for url in self._mapped(found.url)], 1, found.url)
        return found, [*dropped, *self._withheld(start)]

    def _withheld(self, start: str) -> Iterator[Dropped]:
        """Headers with secrets that the first page does not get."""
        names = sorted(self._rules.headers.keys() - self._headers(start).keys())
        if names:
            reason = f"{', '.join(names)} of custom_headers was not sent: header_hosts does not name this host"
            yield Dropped(start, reason, kind="warning")

    def _tried(self, url: str, depth: int, parent: str) -> Iterator[Visited | Dropped]:
        """One more page; its failure is told and does no harm."""
        try:
            found, dropped = self._read(url, depth, parent)
        except (PageError, MediathecaError) as error:
            yield from self._tell(url, str(error))
            return
        yield from dropped
        problem = self._unwanted(url, found)
        if problem:
            yield from self._tell(url, problem)
            return
        self._enqueue(found)
        yield found

    def _read(self, url: str, depth: int, parent: str) -> tuple[Visited, list[Dropped]]:
        """
        Raises:
            PageError, MediathecaError: the page cannot be read, or must not be.
        """
        fetch = self._fetching.rendered if self._rules.render == "javascript" else self._fetching.page
        with self._turn(url, self._allowed(url)):
            seconds = max(self._ends - time.monotonic(), 1.0)
            final, page = fetch(url, self._headers(url), seconds)
        if canonical(final) != canonical(url):
            self._allowed(final)
        rendered = self._rules.render == "javascript"
        dropped: list[Dropped] = []
        if self._rules.render == "auto" and page.scripts and len(page.text.strip()) < _THIN:
            final, page, rendered, dropped = self._again(final, page, seconds)
        return Visited(final, page, depth, parent, rendered), dropped

    def _headers(self, url: str) -> Mapping[str, str]:
        """A redirect may have made another site the home of this crawl: the caller's headers are not meant for that."""
        if not may_know(url, (self._start,)):
            return {}
        secrets = names_host(self._rules.header_hosts, url)
        return {name: value for name, value in self._rules.headers.items() if secrets or secret_name(value) is None}

    def _again(self, url: str, page: WebPage, seconds: float) -> tuple[str, WebPage, bool, list[Dropped]]:
        """A page that its scripts make, read again after they ran, where there is a browser."""
        if not self._browser_missing:
            try:
                final, made = self._fetching.rendered(url, self._headers(url), seconds)
                self._allowed(final)
                better = len(made.text.strip()) > len(page.text.strip())
                return (final, made, True, []) if better else (url, page, False, [])
            except UnavailableError as error:
                self._browser_missing = error.message
            except (PageError, MediathecaError) as error:
                return url, page, False, [Dropped(url, f"without JavaScript: {error}", kind="warning")]
        return url, page, False, [Dropped(url, f"without JavaScript: {self._browser_missing}", kind="warning")]

    def _unwanted(self, url: str, found: Visited) -> str:
        """Why a page that was read is left out; empty when it is not."""
        place, told = canonical(found.url), found.page.canonical
        if self._rules.same_site and site(found.url) != self._home:
            return f"it leads to another site: {found.url[:300]}"
        if place != canonical(url) and place in self._seen:
            return f"it is the same page as {found.url[:300]}"
        self._seen.add(place)
        if is_address(told) and site(told) == self._home and canonical(told) != place:
            if canonical(told) in self._seen:
                return f"it is the same page as {told[:300]}, as it says itself"
            self._seen.add(canonical(told))
        before = self._said.setdefault(_digest(found.page.text), found.url)
        if before != found.url and found.page.text.strip():
            return f"it says the same as {before[:300]}"
        if self._rules.robots and not found.page.index:
            self._enqueue(found)
            return "the page asks not to be kept (robots noindex)"
        return ""

    def _enqueue(self, found: Visited) -> None:
        if found.depth < self._rules.depth:
            links = [link for link in found.page.links if link.follow or not self._rules.robots]
            self._add(links, found.depth + 1, found.url)

    def _add(self, links: Sequence[Link], depth: int, parent: str) -> None:
        if len(self._seen) > _MAX_SEEN:
            self._told[f"there are more than {_MAX_SEEN:,} addresses"] += len(links)
            return
        new: dict[str, Link] = {}
        for link in filter(lambda link: is_address(link.url), links):
            place = canonical(link.url)
            if place not in self._seen and place not in new and self._wanted(link.url):
                new[place] = link
        kept = [link for link in new.values() if not self._trapped(link.url)]
        self._seen |= new.keys()
        ranks = [float(depth)] * len(kept) if self._rank is None else [-score for score in self._rank(kept)]
        for link, rank in zip(kept, ranks, strict=True):
            heapq.heappush(self._queue, (rank, next(self._number), link.url, depth, parent))

    def _wanted(self, url: str) -> bool:
        if self._rules.same_site and site(url) != self._home:
            return False
        if self._rules.include and not any(pattern.search(url) for pattern in self._rules.include):
            return False
        return not any(pattern.search(url) for pattern in self._rules.exclude)

    def _trapped(self, url: str) -> bool:
        reason = self._traps.why(url)
        if reason:
            self._told[reason] += 1
        return bool(reason)

    def _allowed(self, url: str) -> RobotRules:
        """The rules of the site.

        Raises:
            PageError: it does not allow this page.
        """
        if not self._rules.robots:
            return EVERYTHING
        place = robots_url(url)
        if place not in self._robots:
            self._robots[place] = self._load(place)
        rules = self._robots[place]
        if not rules.allows(url):
            raise PageError(refused(url, rules), retryable=bool(rules.unread))
        return rules

    def _load(self, place: str) -> RobotRules:
        try:
            answer = self._desk.fetch(HttpRequest(place, timeout_s=_ROBOTS_S, max_bytes=MAX_BYTES))
        except PayloadTooLargeError:
            return EVERYTHING
        except BadRequestError as error:
            return RobotRules(unread=error.message)
        return read_robots(answer.status, answer.data)

    def _mapped(self, url: str) -> list[str]:
        """Pages that the site lists."""
        listed = self._allowed(url).sitemaps
        return pages_of(listed, self._list, most=self._rules.pages * 4)

    def _list(self, url: str) -> bytes:
        if time.monotonic() > self._ends:
            raise PageError("the time of the crawl was over")
        return self._fetching.file(url)

    @contextmanager
    def _turn(self, url: str, rules: RobotRules) -> Iterator[None]:
        """Wait until this host may be asked again; it rests from when it has answered."""
        host = site(url)
        self._pause(self._next.get(host, 0.0) - time.monotonic())
        try:
            yield
        finally:
            self._next[host] = time.monotonic() + max(self._rules.delay_s, rules.delay_s)

    def _pause(self, seconds: float) -> None:
        """Sleep, alive; no longer than the crawl may take."""
        ends = min(time.monotonic() + seconds, self._ends)
        while (left := ends - time.monotonic()) > 0:
            self._beat(0.0)
            time.sleep(min(left, _BEAT_S))

    def _tell(self, url: str, reason: str) -> Iterator[Dropped]:
        if self._told["failed"] < _MAX_TOLD:
            yield Dropped(url, reason, kind="url")
        self._told["failed"] += 1

    def _cut(self, read: int, tried: int) -> Dropped:
        if time.monotonic() > self._ends:
            reason = f"crawl_timeout: {self._rules.seconds:g} s were over"
        elif read >= self._rules.pages:
            reason = f"max_pages: {self._rules.pages} pages were read"
        else:
            reason = f"{tried} pages were tried, and most could not be read"
        return Dropped(f"{len(self._queue)} more pages", reason, kind="url")

    def _summed_up(self) -> Iterator[Dropped]:
        for reason, many in self._told.items():
            if reason != "failed":
                yield Dropped(f"{many} pages", reason, kind="url")
        if self._told["failed"] > _MAX_TOLD:
            yield Dropped(f"{self._told['failed'] - _MAX_TOLD} more pages", "they could not be read", kind="url")


def _digest(text: str) -> bytes:
    return blake2b(" ".join(text.split()).encode("utf-8", "replace"), digest_size=16).digest()
