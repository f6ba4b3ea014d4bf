"""Addresses of a crawl: which are the same page, which belong to one site, and which lead nowhere but on.

The rules for sameness are those of RFC 3986, section 6.2, and the parameters that visits are counted with.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

MAX_LENGTH = 2_000
MAX_SEGMENTS = 20
MAX_QUERIES = 40
"""Of one path: a calendar, a filter or a session would go on for ever."""
_COUNTING = re.compile(
    r"utm_\w+|pk_\w+|mtm_\w+|hsa_\w+|mc_[ce]id|_ga|_gl|gclid|gbraid|wbraid|dclid|fbclid|msclkid|yclid|twclid|igshid|ttclid|"
    r"li_fat_id|vero_id|oly_\w+_id|_hsenc|_hsmi|__hs\w+|s_cid|ref_src|spm|phpsessid|jsessionid|sessionid|session_id|sid",
    re.IGNORECASE,
)
_SESSION_PATH = re.compile(r";(?:jsessionid|phpsessid|sid)=[^/?#]*", re.IGNORECASE)
_PORTS = {"http": 80, "https": 443}
_SAFE = "!$&'()*+,;=:@/~-._"


def spelled_out(text: str) -> str:
    """An address as people write it, with a scheme; any other text as it is."""
    text = text.strip()
    bare = text and "://" not in text and " " not in text and len(text) <= MAX_LENGTH
    return f"https://{text}" if bare else text


def is_address(url: str) -> bool:
    """Whether this is an http(s) address with a host and, if any, a port that exists: links hold anything."""
    try:
        parts = urlsplit(url)
        return parts.scheme in _PORTS and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def may_know(url: str, seeds: Iterable[str]) -> bool:
    """Whether what is meant for the sites of `seeds` may be sent to `url`: one of theirs, and encrypted if they are."""
    secure = urlsplit(url).scheme == "https"
    return any(site(url) == site(seed) and (secure or urlsplit(seed).scheme == "http") for seed in seeds)


def canonical(url: str) -> str:
    """One spelling for all addresses of a page: `http` and `https` are one, parameters are sorted."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    port = parts.port
    place = host if port is None or port == _PORTS.get(parts.scheme) else f"{host}:{port}"
    path = _without_dots(quote(unquote(_SESSION_PATH.sub("", parts.path)), safe=_SAFE)) or "/"
    pairs = [
        (key, value) for key, value in parse_qsl(parts.query, keep_blank_values=True) if not _COUNTING.fullmatch(key)
    ]
    return urlunsplit(("https", place, path if path == "/" else path.rstrip("/"), urlencode(sorted(pairs)), ""))


def _without_dots(path: str) -> str:
    """RFC 3986, section 5.2.4."""
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            if len(kept) > 1:
                kept.pop()
        elif segment != ".":
            kept.append(segment)
    return "/".join(kept)


def site(url: str) -> str:
    """What pages of one site have in common: host and port, without `www.`."""
    parts = urlsplit(url)
    port = parts.port
    host = (parts.hostname or "").rstrip(".").removeprefix("www.")
    return host if port is None or port == _PORTS.get(parts.scheme) else f"{host}:{port}"


class Traps:
    """Tells addresses that a machine makes without end."""

    def __init__(self) -> None:
        self._queries: Counter[str] = Counter()

    def why(self, url: str) -> str:
        """Why an address is not followed; empty when it is. Counts it."""
        if len(url) > MAX_LENGTH:
            return f"the address has more than {MAX_LENGTH:,} characters"
        parts = urlsplit(url)
        segments = [segment for segment in parts.path.split("/") if segment]
        if len(segments) > MAX_SEGMENTS or any(count > 3 for count in Counter(segments).values()):
            return "the path repeats itself, or has too many parts"
        if parts.query:
            path = f"{parts.netloc}{parts.path}"
            self._queries[path] += 1
            if self._queries[path] > MAX_QUERIES:
                return f"{path[:200]} has more than {MAX_QUERIES} sets of parameters"
        return ""
