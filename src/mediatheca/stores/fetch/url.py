"""What may be a URL here, and the parts of it that a connection needs."""

from __future__ import annotations

import re
from typing import TypeAlias

import httpx

from mediatheca.kernel.errors import ValidationError

MAX_URL_LENGTH = 8192
_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[a-z0-9._:-]{1,253}")
Origin: TypeAlias = tuple[str, str, int]
"""Scheme, host, port."""


def check_url(url: str) -> httpx.URL:
    """Parse a URL that may be fetched; its fragment is dropped.

    Raises:
        ValidationError: not http or https, no host, credentials inside, too long, or no URL at all.
    """
    if len(url) > MAX_URL_LENGTH:
        raise _bad_url(f"must have at most {MAX_URL_LENGTH} characters, got {len(url)}")
    try:
        parsed = httpx.URL(url).copy_with(fragment=None)
        host = host_of(parsed)
        if not 0 <= port_of(parsed) <= 65535:
            raise ValueError(f"there is no port {parsed.port}")
    except (httpx.InvalidURL, ValueError, TypeError) as error:
        raise _bad_url(f"'{url[:200]}' is not a URL: {error}") from error
    if parsed.scheme not in _PORTS:
        raise _bad_url(f"'{url[:200]}' must begin with http:// or https://")
    if not _HOST.fullmatch(host):
        raise _bad_url(f"'{url[:200]}' names no host that can be looked up")
    if parsed.userinfo:
        raise _bad_url("must not hold a user name or password; use a signed URL, or a connection with credentials")
    return parsed


def redirected(base: httpx.URL, location: str) -> str:
    """Where a redirect leads.

    Raises:
        ValidationError: `location` is no URL.
    """
    try:
        return str(base.join(location))
    except (httpx.InvalidURL, ValueError) as error:
        raise _bad_url(f"it redirects to '{location[:200]}', which is not a URL") from error


def host_of(url: httpx.URL) -> str:
    """The name in its ASCII form, without the dot that may end it."""
    return url.raw_host.decode("ascii").lower().rstrip(".")


def port_of(url: httpx.URL) -> int:
    """The port, or the one of the scheme; 0 of a scheme that has none here."""
    return url.port if url.port is not None else _PORTS.get(url.scheme, 0)


def origin_of(url: httpx.URL) -> Origin:
    return url.scheme, host_of(url), port_of(url)


def _bad_url(message: str) -> ValidationError:
    return ValidationError.at("url", message, "url")
