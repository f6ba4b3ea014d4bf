"""Fetching one page of a crawl: tried again where that may help, and read."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from mediatheca.extractors._html import read_html
from mediatheca.kernel.desk import Desk
from mediatheca.kernel.errors import MediathecaError, TooManyRequestsError
from mediatheca.kernel.outside import HttpAnswer, HttpRequest, RenderRequest
from mediatheca.kernel.sniff import kind_of
from mediatheca.kernel.web_page import WebPage, charset_of

MAX_BYTES = 8 << 20
MAX_FILE = 16 << 20
_ACCEPT = "text/html, application/xhtml+xml, text/plain;q=0.8, application/json;q=0.5"
_PAGE_S = 20.0
_RENDER_S = 30.0
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_HTML = frozenset({"text/html", "application/xhtml+xml"})
_TEXTS = frozenset({"application/json", "application/ld+json", "application/xml", "application/yaml"})
_CHALLENGE = re.compile(
    rb"cf-chl-|cdn-cgi/challenge-platform|g-recaptcha|h-captcha|hcaptcha\.com/1/api|px-captcha|captcha-delivery\.com"
)
"""What pages hold that ask whether a person is there."""


class PageError(Exception):
    """This page is not read; the message says why. `retryable`: another time it may be."""

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a page is asked for again, and when: twice as late every time."""

    most: int = 3
    first_s: float = 1.0
    longest_s: float = 30.0
    respect_retry_after: bool = True

    def wait_s(self, attempt: int, told: float | None) -> float:
        """Seconds before the next attempt, `attempt` from 0; `told`: what the server asks for."""
        if told is not None and self.respect_retry_after:
            return told
        return min(self.first_s * 2.0**attempt, self.longest_s)


class Fetching:
    """Asks the desk for pages."""

    def __init__(self, desk: Desk, retries: Retries, pause: Callable[[float], None]) -> None:
        self._desk, self._retries, self._pause = desk, retries, pause

    def page(self, url: str, headers: Mapping[str, str], seconds: float) -> tuple[str, WebPage]:
        """A page as the server sends it, and its final address.

        Raises:
            PageError: it answers with an error, or is no page.
            MediathecaError: the address is refused, or nobody answers.
        """
        answer = self._answer(url, {"accept": _ACCEPT, **headers}, MAX_BYTES, seconds)
        return answer.final_url, _read(answer)

    def rendered(self, url: str, headers: Mapping[str, str], seconds: float) -> tuple[str, WebPage]:
        """A page after its scripts ran.

        Raises:
            PageError: it answers with an error.
            MediathecaError: there is no browser, or it gives up.
        """
        request = RenderRequest(url, min(_RENDER_S, seconds), MAX_BYTES, headers)
        answer = self._persistent(lambda: self._desk.render(request), seconds)
        _check(answer)
        return answer.final_url, read_html(answer.data, "utf-8", answer.final_url)

    def file(self, url: str) -> bytes:
        """A file of any kind. Raises PageError or MediathecaError."""
        answer = self._answer(url, {}, MAX_FILE, _PAGE_S)
        _check(answer)
        return answer.data

    def _answer(self, url: str, headers: Mapping[str, str], most: int, seconds: float) -> HttpAnswer:
        request = HttpRequest(url, headers=headers, timeout_s=min(_PAGE_S, seconds), max_bytes=most)
        return self._persistent(lambda: self._desk.fetch(request), seconds)

    def _persistent(self, ask: Callable[[], HttpAnswer], seconds: float) -> HttpAnswer:
        """Ask again while the failure may pass, and time is left."""
        ends = time.monotonic() + seconds
        for attempt in range(self._retries.most):
            answer, told = _attempt(ask)
            if answer is not None and answer.status not in _PASSING:
                return answer
            wait = self._retries.wait_s(attempt, told)
            if wait > self._retries.longest_s or time.monotonic() + wait > ends:
                raise PageError(f"the site asks to wait {wait:.0f} s, longer than this may take", retryable=True)
            self._pause(wait)
        return ask()


def _attempt(ask: Callable[[], HttpAnswer]) -> tuple[HttpAnswer | None, float | None]:
    """The answer, if there is one, and the seconds that it asks to wait.

    Raises:
        MediathecaError: another attempt would not help.
    """
    try:
        answer = ask()
        return answer, retry_after(answer.headers)
    except TooManyRequestsError as error:
        return None, error.retry_after_s or None
    except MediathecaError as error:
        if not error.retryable:
            raise
        return None, None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that an answer asks to wait (RFC 9110, 10.2.3); None where it does not."""
    told = headers.get("retry-after", "").strip()
    if told.isascii() and told.isdigit():
        return float(told[:9])
    try:
        moment = parsedate_to_datetime(told)
    except (ValueError, OverflowError):
        return None
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return max((moment - datetime.now(UTC)).total_seconds(), 0.0)


def _check(answer: HttpAnswer) -> None:
    """Raises PageError: the answer is an error, or a question whether a person is there."""
    challenge = answer.status in (200, 403, 429, 503) and len(answer.data) < 65_536 and _CHALLENGE.search(answer.data)
    if challenge and (answer.status != 200 or answer.headers.get("cf-mitigated")):
        raise PageError(
            f"the site asks to prove that a person is there (status {answer.status}); that is not done here"
        )
    if answer.status >= 400:
        raise PageError(f"it answered with status {answer.status}", retryable=answer.status in _PASSING)


def _read(answer: HttpAnswer) -> WebPage:
    _check(answer)
    kind, charset = answer.content_type, charset_of(answer.headers.get("content-type", ""))
    if not kind:
        found, kind = kind_of(answer.data)
        kind = kind if found in ("html", "text") else f"{kind} ({found})"
    if kind in _HTML:
        return read_html(answer.data, charset, answer.final_url)
    if kind.startswith("text/") or kind in _TEXTS:
        return WebPage(answer.data.decode(charset or "utf-8", "replace"))
    raise PageError(f"it is '{kind[:80]}', not a web page or text")
