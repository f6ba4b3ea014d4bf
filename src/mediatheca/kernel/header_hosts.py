"""Hosts that headers with secrets may be sent to: named one by one, never by what leads there. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import urlsplit

MAX_HOSTS = 50
MAX_HOST = 260
_HOST = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9_])?|\[[0-9a-f:.]{2,45}\])(?P<port>:[0-9]{1,5})?")
_PORTS = {"http": 80, "https": 443}


def checked_host(given: str) -> str:
    """A host name or address in lower case, with its port where it is not that of its scheme.

    Raises:
        ValueError: it is none.
    """
    host = given.strip().lower().rstrip(".")
    found = _HOST.fullmatch(host)
    if found is None or not 0 < int((found["port"] or ":1")[1:]) < 65536:
        raise ValueError(
            f"'{given[:80]}' is not a host such as shop.example or shop.example:8443: give it without https://, path "
            "or '*', in its ASCII form"
        )
    return host


def names_host(hosts: Collection[str], url: str) -> bool:
    """Whether one of these hosts is the one that an address leads to: by its whole name, and by its port where that is
    not that of its scheme."""
    try:
        parts = urlsplit(url)
        name = (parts.hostname or "").rstrip(".").encode("idna").decode() if parts.hostname else ""
        port = parts.port
    except ValueError:  # UnicodeError is one
        return False
    host = f"[{name}]" if ":" in name else name
    usual = _PORTS.get(parts.scheme)
    places = {f"{host}:{usual if port is None else port}"} | ({host} if port in (None, usual) else set())
    return bool(host) and usual is not None and not places.isdisjoint(hosts)
