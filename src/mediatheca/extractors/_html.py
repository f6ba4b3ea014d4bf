"""Web pages in extractors: what a page says, with the extra that reads it."""

from __future__ import annotations

from mediatheca.extractors import ItemError
from mediatheca.kernel.extras import missing, require
from mediatheca.kernel.web_page import WebPage, read_page


def need_page_reader(what: str) -> None:
    """Raises UnavailableError, naming the extra: nothing here reads web pages. For `describe`."""
    require(what, "web")


def warm_up() -> None:
    """Load what reads pages, which takes a second. For `open`."""
    read_html(b"<p>warm</p>", "utf-8", "http://localhost/")


def read_html(data: bytes, charset: str, url: str) -> WebPage:
    """A page with its main text. See `mediatheca.kernel.web_page.read_page`."""
    return read_page(data, charset, url, careful=True)


def page_text(html: str, name: str) -> str:
    """The main text of a page.

    Raises:
        ItemError: the packages that read pages are not installed.
    """
    reason = missing("web")
    if reason:
        raise ItemError(f"'{name}' is a web page, and {reason}")
    return read_html(html.encode("utf-8", "replace"), "utf-8", "http://localhost/").text
