"""Sitemaps: lists of pages that a site publishes (sitemaps.org, version 0.9), and lists of such lists, one level deep.

They are searched for what they list and not parsed as XML: nothing in them can be expanded.
"""

from __future__ import annotations

import html
import re
import zlib
from collections.abc import Callable, Sequence

from mediatheca.extractors._crawl_fetch import PageError
from mediatheca.kernel.errors import MediathecaError

MAX_BYTES = 16 << 20
"""Of one list, unpacked."""
MAX_LISTS = 20
_PLACE = re.compile(rb"<(?:\w{1,20}:)?loc>\s*(?:<!\[CDATA\[\s*)?([^<\]\s]{8,4000})", re.IGNORECASE)
_INDEX = re.compile(rb"<(?:\w{1,20}:)?sitemapindex[\s>]", re.IGNORECASE)


def pages_of(listed: Sequence[str], fetch: Callable[[str], bytes], *, most: int) -> list[str]:
    """Addresses of pages in the lists at these addresses, in their order, `most` at most. A list that cannot be read
    is passed over: the pages it names may still be linked to."""
    found: dict[str, None] = {}
    waiting = [(url, True) for url in listed]
    for _ in range(MAX_LISTS):
        if not waiting or len(found) >= most:
            break
        url, outer = waiting.pop(0)
        try:
            data = unpacked(fetch(url))
        except (PageError, MediathecaError, ValueError):
            continue
        places = [html.unescape(place.decode("utf-8", "replace")) for place in _PLACE.findall(data)]
        if _INDEX.search(data[:4096]):
            waiting += [(place, False) for place in places] if outer else []
        else:
            found |= dict.fromkeys(places[:most])
    return list(found)[:most]


def unpacked(data: bytes) -> bytes:
    """The list, unpacked where it is gzip.

    Raises:
        ValueError: it is broken, or larger than `MAX_BYTES`.
    """
    if not data.startswith(b"\x1f\x8b"):
        return data[:MAX_BYTES]
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        plain = inflater.decompress(data, MAX_BYTES)
    except zlib.error as error:
        raise ValueError(f"it is no gzip file: {error}") from error
    if not inflater.eof:
        raise ValueError("it ends too early, or is too large")
    return plain
