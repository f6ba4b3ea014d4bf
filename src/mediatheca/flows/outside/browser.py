"""Web pages as they are after their JavaScript has run, by a Chromium of this machine (see `chromium.py`)."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

from mediatheca.flows.outside.chromium import HOW, Chromium, program
from mediatheca.kernel.http_headers import check_headers
from mediatheca.kernel.outside import HttpAnswer, RenderRequest
from mediatheca.stores.fetch import Fetcher, FetchFailedError, check_url

AT_ONCE = 2
VISITS = 25
"""Of one browser: then a fresh one is started, as after every failure."""
IDLE_S = 30.0
BUSY_S = 20.0
"""How long a page waits for a browser."""
MAX_TIMEOUT_S = 60.0


def lacking() -> str:
    """Why pages cannot be rendered here; empty when they can."""
    return "" if program() else HOW


class Browser:
    """Renders pages for all tenants of a process; thread-safe. Nothing is started before the first page."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher
        self._gate = threading.Semaphore(AT_ONCE)
        self._lock = threading.Lock()
        self._idle: list[Chromium] = []
        self._timer: threading.Timer | None = None
        self._closed = False

    def render(self, request: RenderRequest) -> HttpAnswer:
        """The page as its scripts left it: UTF-8 HTML of at most `max_bytes`, with the status and address it came from.

        The time counts from when a browser is free. `headers` go to the page's own site only.

        Raises:
            UnavailableError: no browser is installed, or it does not start.
            ValidationError: the URL, where it leads, or a header is refused.
            FetchFailedError: no page in time, the browser gave up on it, or all browsers are busy.
            BadRequestError: what is there is no web page.
        """
        check_headers(dict(request.headers))
        target = self._fetcher.encrypted(check_url(request.url))
        self._fetcher.check(str(target))
        with self._borrowed() as browser:
            return browser.visit(str(target), replace(request, timeout_s=min(request.timeout_s, MAX_TIMEOUT_S)))

    def close(self) -> None:
        """End every browser; one that is at work ends with its page."""
        with self._lock:
            self._closed = True
            held, self._idle = self._idle, []
            if self._timer is not None:
                self._timer.cancel()
        for browser in held:
            browser.close()

    @contextmanager
    def _borrowed(self) -> Iterator[Chromium]:
        """A running browser; it is used again only when all went well."""
        if not self._gate.acquire(timeout=BUSY_S):
            raise FetchFailedError("url: the browsers of this server are busy; try again later")
        try:
            with self._lock:
                held = self._idle.pop() if self._idle else None
            browser = held or Chromium(self._fetcher)
            try:
                yield browser
            except BaseException:
                browser.close()
                raise
            self._returned(browser)
        finally:
            self._gate.release()

    def _returned(self, browser: Chromium) -> None:
        with self._lock:
            if not self._closed and browser.visits < VISITS:
                browser.idle_since = time.monotonic()
                self._idle.append(browser)
                self._expire_later()
                return
        browser.close()

    def _expire_later(self) -> None:
        """Called under the lock."""
        if self._timer is None:
            self._timer = threading.Timer(IDLE_S, self._expire)
            self._timer.daemon = True
            self._timer.start()

    def _expire(self) -> None:
        """End browsers that nobody has needed for a while."""
        now = time.monotonic()
        with self._lock:
            old = [each for each in self._idle if now - each.idle_since >= IDLE_S * 0.9]
            self._idle = [each for each in self._idle if each not in old]
            self._timer = None
            if self._idle and not self._closed:
                self._expire_later()
        for browser in old:
            browser.close()


class PageRenderer:
    """`Renderer` for executions: waits in a thread of those for calls outside."""

    def __init__(self, browser: Browser, threads: ThreadPoolExecutor) -> None:
        self._browser, self._threads = browser, threads

    async def render(self, request: RenderRequest) -> HttpAnswer:
        """See `mediatheca.kernel.outside.Renderer`."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._browser.render, request)
