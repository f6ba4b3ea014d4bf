"""What pages say, what robots.txt allows, and references to secrets."""

from __future__ import annotations

import pytest

from mediatheca.kernel.robots import EVERYTHING, MAX_DELAY_S, read_robots, refused, robots_url
from mediatheca.kernel.secret_reference import secret_name
from mediatheca.kernel.web_page import charset_of, read_page

TEXT = "The red fox is a common animal. It lives in many places and eats many things, as everybody knows. " * 4
PAGE = f"""<html lang="en"><head><title> Foxes </title><base href="/wiki/">
<meta name="description" content="About foxes">
<link rel="canonical" href="https://a.example/wiki/fox"><meta name="robots" content="noindex, follow"></head><body>
<nav><a href="home">Home</a><a href="#top">Top</a></nav>
<article><h1>The fox</h1><p>{TEXT}</p><a href="den?x=1#y">The den</a><a href="den?x=1">again</a>
<a href="mailto:a@b.c">mail</a><a href="javascript:void(0)">js</a><a rel="nofollow ugc" href="https://b.example/ad">Ad</a>
<a href="papers/fox.PDF">Paper</a><img src="fox.jpg" alt=" A fox "><img src="dot.gif" width="1" height="1">
<img src="data:image/png;base64,AAAA" data-src="lazy.png"><img src="fox.jpg">
<pre><code class="language-python">def fox():
    return "red"</code></pre><div class="highlight-source-rust"><pre>fn main() {{ println!("fox"); }}</pre></div>
<pre>x</pre></article><script>alert("no")</script></body></html>"""


@pytest.fixture(scope="module", params=[False, True], ids=["quick", "careful"])
def careful(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_a_page_is_read_without_what_surrounds_it(careful: bool) -> None:
    page = read_page(PAGE.encode(), "utf-8", "https://a.example/wiki/fox?utm=1", careful=careful)
    assert "red fox" in page.text
    assert "alert" not in page.text
    assert (page.title, page.metadata["language"], page.metadata["description"]) == ("Foxes", "en", "About foxes")
    assert page.canonical == "https://a.example/wiki/fox"
    assert not page.index
    assert page.scripts == 1


def test_links_pictures_files_and_code_are_listed_once_with_whole_addresses() -> None:
    page = read_page(PAGE.encode(), "", "https://a.example/x/y")
    assert [(link.url, link.text, link.follow) for link in page.links] == [
        ("https://a.example/wiki/home", "Home", True),
        ("https://a.example/wiki/", "Top", True),
        ("https://a.example/wiki/den?x=1", "The den", True),
        ("https://b.example/ad", "Ad", False),
    ]
    assert page.assets == ("https://a.example/wiki/papers/fox.PDF",)
    assert page.images == (
        {"src": "https://a.example/wiki/fox.jpg", "alt": "A fox"},
        {"src": "https://a.example/wiki/lazy.png", "alt": ""},
    )
    assert [(block["language"], block["lines"]) for block in page.code_blocks] == [("python", 2), ("rust", 1)]


@pytest.mark.parametrize(
    "html", ["", "<", "<a href='http://[::1'>x</a>", "\0" * 50, "<pre>" * 5000, "<a href=x>" * 5000]
)
def test_broken_pages_are_read_as_far_as_they_go(html: str, careful: bool) -> None:
    page = read_page(html.encode(), "", "https://a.example/", careful=careful)
    assert all(link.url.startswith("https://a.example/") for link in page.links)


@pytest.mark.parametrize(
    ("header", "charset"),
    [("text/html; charset=UTF-8", "utf-8"), ("text/html;charset='latin-1'", "iso8859-1"), ("text/html", ""),
     ("text/html; charset=no-such", ""), ("text/html; charset=punycode", ""), ("text/html; charset=base64", "")],
)  # fmt: skip
def test_only_charsets_of_texts_are_believed(header: str, charset: str) -> None:
    assert charset_of(header) == charset


def test_robots_txt_says_what_may_be_read_how_often_and_where_lists_are() -> None:
    rules = read_robots(200, b"User-agent: *\nDisallow: /private\nCrawl-delay: 2\nSitemap: https://a.example/map.xml\n")
    assert rules.allows("https://a.example/open")
    assert not rules.allows("https://a.example/private/x")
    assert rules.delay_s == 2
    assert rules.sitemaps == ["https://a.example/map.xml"]
    assert read_robots(200, b"User-agent: *\nCrawl-delay: 86400").delay_s == MAX_DELAY_S


@pytest.mark.parametrize(
    ("status", "allowed"), [(404, True), (403, True), (200, True), (500, False), (503, False), (429, False)]
)
def test_no_rules_allow_everything_and_a_failing_server_nothing(status: int, allowed: bool) -> None:
    assert read_robots(status, b"").allows("https://a.example/x") is allowed
    assert EVERYTHING.allows("https://a.example/x")


def test_a_refusal_names_the_site_and_the_way_out() -> None:
    assert robots_url("http://a.example:8080/x?y") == "http://a.example:8080/robots.txt"
    for rules, reason in (
        (read_robots(200, b"User-agent: *\nDisallow: /x"), "not allow"),
        (read_robots(503, b""), "503"),
    ):
        told = refused("http://a.example:8080/x", rules)
        assert "robots.txt of a.example:8080" in told
        assert "respect_robots" in told
        assert reason in told


@pytest.mark.parametrize(
    ("text", "name"),
    [("{{SECRET.key}}", "key"), (" {{ secrets.my-key.2 }} ", "my-key.2"), ("{{secret.a}}", "a"), ("sk-123", None),
     ("{{SECRET.}}", None), ("{{SECRET.a}} and more", None), ("{{INPUT.key}}", None), ("", None)],
)  # fmt: skip
def test_a_reference_to_a_secret_is_the_whole_text_or_none(text: str, name: str | None) -> None:
    assert secret_name(text) == name
