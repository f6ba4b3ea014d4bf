"""What a site's robots.txt allows (RFC 9309): all where there is none, nothing where the server fails. Pure.

`robots_url` says where to ask; the answer goes into `read_robots`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

AGENT = "mediatheca"
MAX_BYTES = 500 * 1024
"""As much of a robots.txt as RFC 9309 asks to be read."""
MAX_DELAY_S = 60.0
"""The longest pause between two requests that a site gets; it would be a day where somebody wrote one."""
_MAX_SITEMAPS = 20


@dataclass(frozen=True, slots=True)
class RobotRules:
    """The rules of one site for us."""

    rules: Any = None
    """Of protego; None: all or nothing."""
    unread: str = ""
    """Why robots.txt could not be read: nothing may be read then (RFC 9309, 2.3.1.4)."""

    def allows(self, url: str) -> bool:
        if self.rules is None:
            return not self.unread
        return bool(self.rules.can_fetch(url, AGENT))

    @property
    def delay_s(self) -> float:
        """Seconds between two requests that the site asks for; 0 where it does not."""
        delay = None if self.rules is None else self.rules.crawl_delay(AGENT)
        return min(max(float(delay or 0.0), 0.0), MAX_DELAY_S)

    @property
    def sitemaps(self) -> list[str]:
        """Addresses of lists of pages."""
        return [] if self.rules is None else [str(each) for each in self.rules.sitemaps][:_MAX_SITEMAPS]


EVERYTHING = RobotRules()


def site_of(url: str) -> str:
    """Scheme and host: what one robots.txt is for."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def robots_url(url: str) -> str:
    """Where the rules for a page are."""
    return f"{site_of(url)}/robots.txt"


def read_robots(status: int, data: bytes) -> RobotRules:
    """The rules that an answer holds. Half a megabyte takes a tenth of a second."""
    from protego import Protego

    if status >= 500 or status == 429:
        return RobotRules(unread=f"it answered with status {status}")
    if status != 200:
        return EVERYTHING
    return RobotRules(Protego.parse(data[:MAX_BYTES].decode("utf-8", "replace")))


def refused(url: str, rules: RobotRules) -> str:
    """What to tell about a page that may not be read."""
    place = f"robots.txt of {urlsplit(url).netloc}"
    if rules.unread:
        return f"{place} could not be read ({rules.unread}), so no page is; respect_robots: false ignores it"
    return f"{place} does not allow this page; respect_robots: false ignores it"
