"""What a web page says: its main text, title, links, pictures, code and what it tells about itself. Pure.

The page is read by `resiliparse`, as browsers do, however broken it is; `careful` finds the main text by `trafilatura`,
which takes longer and leaves out more of what surrounds it. Call it only where time and memory are limited.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urldefrag, urljoin, urlsplit

MAX_LINKS = 2_000
MAX_META = 100
MAX_META_TEXT = 2_000
MAX_PICTURES = 200
MAX_CODE = 200
MAX_URL = 4_096
_MIN_CODE = 20
_MIN_SIDE = 48
"""Pictures that say they are smaller than this, in pixels, are buttons and counters."""
_LOOKED_AT = 5_000
"""Nodes of a kind. A slice of a selection takes milliseconds; going through it one by one, the square of its length."""
_NEAR = 8
_MIN_TEXT = 200
"""Characters; with less of main text, all of the page's text is looked at."""
_ASSETS = frozenset(
    {
        "pdf", "doc", "docx", "xls", "xlsx", "ppt", "pptx", "odt", "ods", "odp", "epub", "csv", "json", "xml", "zip",
        "gz", "tgz", "bz2", "xz", "7z", "rar", "tar", "mp3", "wav", "flac", "ogg", "m4a", "mp4", "m4v", "mov", "avi",
        "mkv", "webm", "jpg", "jpeg", "png", "gif", "webp", "svg", "tif", "tiff", "bmp", "exe", "dmg", "iso", "deb",
        "rpm", "apk",
    }
)  # fmt: skip
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([A-Za-z0-9._:-]{1,40})", re.I)
_NO_PAGE = frozenset({"punycode", "idna"})
"""Encodings of host names: no page has them, and decoding one takes the square of its length."""
_LANGUAGE = re.compile(r"(?:^|\s)(?:language|lang|highlight-source|brush:?|sourceCode)[-\s]+([A-Za-z0-9+#_.-]{1,30})")


@dataclass(frozen=True, slots=True)
class Link:
    """A link to another page. `text`: what it is called."""

    url: str
    text: str = ""
    follow: bool = True
    """False: the page asks that it is not followed."""


@dataclass(frozen=True, slots=True)
class WebPage:
    """Addresses are absolute, in their order, each once."""

    text: str
    title: str = ""
    links: tuple[Link, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    """`description`, `author`, `language`, `og:…` and the like."""
    images: tuple[dict[str, str], ...] = ()
    """`src` and `alt`."""
    code_blocks: tuple[dict[str, Any], ...] = ()
    """`language`, `code`, and `lines`, how many."""
    assets: tuple[str, ...] = ()
    """Links to files that are no pages."""
    canonical: str = ""
    """The address that the page itself calls the right one."""
    index: bool = True
    """False: the page asks that it is not kept."""
    scripts: int = 0


def read_page(data: bytes, charset: str, url: str, *, careful: bool = False) -> WebPage:
    """Read a page.

    Args:
        charset: what the server said, empty where it did not: then it is detected.
        url: where the page is; links are relative to it, or to its `base`.
    """
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding
    from resiliparse.parse.html import HTMLTree

    html = bytes_to_str(data, charset or detect_encoding(data) or "utf-8")
    tree = HTMLTree.parse(html)
    document: Any = tree.document
    base = _joined(url, attribute(document.query_selector("base[href]"), "href")) or url
    metadata = _metadata(document)
    links, assets = _links(document, base)
    wishes = {
        word.strip() for word in f"{metadata.get('robots', '')},{metadata.get('mediatheca', '')}".lower().split(",")
    }
    return WebPage(
        text=_main_text(html, tree, url, careful),
        title=(tree.title or "").strip()[:1000],
        links=tuple(Link(link.url, link.text, link.follow and not {"nofollow", "none"} & wishes) for link in links),
        metadata=metadata,
        images=tuple(_pictures(document, base)),
        code_blocks=tuple(_code(document)),
        assets=tuple(assets),
        canonical=_joined(base, attribute(document.query_selector('link[rel~="canonical"][href]'), "href")),
        index=not {"noindex", "none"} & wishes,
        scripts=len(document.query_selector_all("script")),
    )


def charset_of(content_type: str) -> str:
    """The charset that a `content-type` header names; empty where it names none that can be read."""
    match = _CHARSET.search(content_type)
    if match is None:
        return ""
    try:
        name = codecs.lookup(match[1]).name
        "".encode(name)
    except (LookupError, ValueError):
        return ""
    return "" if name in _NO_PAGE else name


def attribute(node: Any, name: str) -> str:
    """An attribute of a node; empty where there is no node or no attribute."""
    value = None if node is None else node.getattr(name)
    return value if isinstance(value, str) else ""


def _main_text(html: str, tree: Any, url: str, careful: bool) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    text = ""
    if careful:
        import trafilatura

        text = trafilatura.extract(html, url=url, include_comments=False, favor_recall=True, fast=True) or ""
    if len(text) < _MIN_TEXT:
        found = extract_plain_text(tree, main_content=True, alt_texts=False)
        text = found if len(found.strip()) > len(text) else text
    if not text.strip():
        text = extract_plain_text(tree, main_content=False, alt_texts=False)
    return str(text)


def _metadata(document: Any) -> dict[str, str]:
    found = {"language": attribute(document.query_selector("html"), "lang")}
    for node in document.query_selector_all("meta[content]")[:MAX_META]:
        name = attribute(node, "name") or attribute(node, "property")
        found.setdefault(name.lower()[:100], attribute(node, "content")[:MAX_META_TEXT])
    return {name: value for name, value in found.items() if name and value}


def _links(document: Any, base: str) -> tuple[list[Link], list[str]]:
    """Links to pages, and to other files."""
    pages: dict[str, Link] = {}
    assets: dict[str, None] = {}
    for node in document.query_selector_all("a[href]")[:_LOOKED_AT]:
        url = _joined(base, attribute(node, "href"))
        if not url:
            continue
        if PurePosixPath(urlsplit(url).path.lower()).suffix.lstrip(".") in _ASSETS:
            assets[url] = None
        elif url not in pages:
            follow = "nofollow" not in attribute(node, "rel").lower().split()
            pages[url] = Link(url, " ".join(str(node.text).split())[:300], follow)
        if len(pages) >= MAX_LINKS or len(assets) >= MAX_LINKS:
            break
    return list(pages.values()), list(assets)


def _pictures(document: Any, base: str) -> Iterator[dict[str, str]]:
    seen: set[str] = set()
    for node in document.query_selector_all("img")[:_LOOKED_AT]:
        written = attribute(node, "src") or attribute(node, "data-src")
        if not written or written.startswith("data:"):
            written = attribute(node, "data-src") or attribute(node, "srcset").strip().split(" ")[0].rstrip(",")
        url = _joined(base, written)
        if not url or url in seen or _tiny(node):
            continue
        seen.add(url)
        yield {"src": url, "alt": attribute(node, "alt").strip()[:500]}
        if len(seen) >= MAX_PICTURES:
            return


def _tiny(node: Any) -> bool:
    sides = [attribute(node, name) for name in ("width", "height")]
    return any(side.isascii() and side.isdigit() and int(side[:9]) < _MIN_SIDE for side in sides)


def _code(document: Any) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    for node in document.query_selector_all("pre")[: 2 * MAX_CODE]:
        if _inside_another(node):  # the outer one has its text; nested without end, each would take longer
            continue
        code = str(node.text).strip("\n\r ")
        if len(code) < _MIN_CODE or code in seen:
            continue
        seen.add(code)
        yield {"language": _code_language(node), "code": code, "lines": code.count("\n") + 1}
        if len(seen) >= MAX_CODE:
            return


def _inside_another(node: Any) -> bool:
    """Whether a block lies in one of its own kind, close by."""
    above = node.parent
    for _ in range(_NEAR):
        if above is None or above.tag == node.tag:
            return above is not None
        above = above.parent
    return False


def _code_language(node: Any) -> str:
    """By the classes that highlighters leave, on the block, inside it and around it."""
    inner = node.query_selector("code")
    for each in (inner, node, node.parent):
        told = attribute(each, "data-lang") or attribute(each, "data-language")
        found = _LANGUAGE.search(attribute(each, "class"))
        if told or found:
            return (told or (found[1] if found else "")).lower()[:30]
    return ""


def _joined(base: str, written: str) -> str:
    """An absolute http(s) address without its fragment; empty where it is none."""
    try:
        url = urldefrag(urljoin(base, written.strip())).url if written.strip() else ""
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # no brackets where some are due, a port that does not exist
        return ""
    return url if good and len(url) <= MAX_URL else ""
