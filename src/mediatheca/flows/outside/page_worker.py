"""Reads one HTML page from standard input and writes what it says as JSON. Run as a script, for one page.

A parser that meets hostile HTML may need all memory or all time: this process is allowed little of both, and its
parent kills it.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any
from urllib.parse import urldefrag, urljoin

MAX_LINKS = 2_000
MAX_META = 100
MAX_META_TEXT = 2_000


def read_page(data: bytes, charset: str, url: str) -> dict[str, Any]:
    """The main text, title, links and meta entries of a page."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding
    from resiliparse.parse.html import HTMLTree

    html = bytes_to_str(data, charset or detect_encoding(data) or "utf-8")
    tree = HTMLTree.parse(html)
    text = extract_plain_text(tree, main_content=True, alt_texts=False)
    if not text.strip():
        text = extract_plain_text(tree, main_content=False, alt_texts=False)
    document: Any = tree.document
    meta = {"language": _attribute(document.query_selector("html"), "lang")}
    for node in document.query_selector_all("meta[content]")[:MAX_META]:
        name = _attribute(node, "name") or _attribute(node, "property")
        meta.setdefault(name.lower()[:100], _attribute(node, "content")[:MAX_META_TEXT])
    links = _links(document, url)
    shown = {name: value for name, value in meta.items() if name and value}
    return {"text": text, "title": (tree.title or "").strip()[:1000], "links": links, "metadata": shown}


def _links(document: Any, url: str) -> list[str]:
    base = _attribute(document.query_selector("base[href]"), "href")
    found: dict[str, None] = {}
    for node in document.query_selector_all("a[href]"):
        try:
            link = urldefrag(urljoin(urljoin(url, base), _attribute(node, "href").strip())).url
        except ValueError:
            continue
        if link.startswith(("http://", "https://")) and len(link) <= 4096:
            found[link] = None
        if len(found) >= MAX_LINKS:
            break
    return list(found)


def _attribute(node: Any, name: str) -> str:
    value = None if node is None else node.getattr(name)
    return value if isinstance(value, str) else ""


def main() -> None:
    charset, url, memory_mb, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    page = read_page(sys.stdin.buffer.read(), charset, url)
    sys.stdout.buffer.write(json.dumps(page).encode("utf-8", "replace"))


if __name__ == "__main__":
    main()
