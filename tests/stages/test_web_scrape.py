"""`web_scrape`: main text, robots, crawling within bounds, and pages that want to do harm."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
from outside_world import ReachingStageSuite, Surroundings
from stage_runs import World, told

from mediatheca.kernel.errors import MediathecaError, ValidationError
from mediatheca.stages.web_scrape import web_scrape
from outside_site import Reply, Site, a_site

TEXT = "The red fox is a common animal. It lives in many places and eats many things, as everybody knows. " * 6
PAGE = f"""<html lang="en"><head><title>Foxes</title><meta name="description" content="About foxes"></head><body>
<nav><a href="/a">Home</a></nav><article><h1>The fox</h1><p>{TEXT}</p><a href="/b#top">More</a></article>
<script>alert("no")</script><footer>Imprint</footer></body></html>"""


def scrape(world: Surroundings, urls: list[Any], **more: Any) -> dict[str, Any]:
    given = [{"document_id": f"d{n}", "metadata": {"url": url}, "score": 1.0} for n, url in enumerate(urls)]
    parameters = {"delay_between_requests": 0, **more}
    return World(given).run("web_scrape", parameters, context=world.context())


def content(body: dict[str, Any]) -> list[Any]:
    return [d.get("web_content") for d in body["documents"]]


def test_the_main_text_of_a_page_is_kept_without_navigation_and_scripts(world: Surroundings, site: Site) -> None:
    site.html("/fox", PAGE)
    found = content(scrape(world, [f"{site.url}/fox"]))[0]
    assert found["text"].strip().startswith("The fox")
    assert "red fox" in found["text"]
    assert "alert" not in found["text"]
    assert "Imprint" not in found["text"]
    assert (found["title"], found["strategy_used"], found["status"]) == ("Foxes", "static", "success")
    assert found["metadata"] == {"language": "en", "description": "About foxes"}
    assert "html" not in found


def test_equal_addresses_are_read_once_and_html_is_kept_on_request(world: Surroundings, site: Site) -> None:
    site.html("/fox", PAGE)
    body = scrape(world, [f"{site.url}/fox"] * 5, include_html=True, url_field="metadata.url")
    assert site.paths() == ["/robots.txt", "/fox"]
    assert all("<article>" in found["html"] for found in content(body))


@pytest.mark.parametrize(
    ("data", "kind", "text"),
    [
        ("<p>Grüße aus Köln</p>".encode("latin-1"), "text/html; charset=latin-1", "Grüße aus Köln"),
        ("<meta charset=windows-1251><p>Привет, мир и люди</p>".encode("cp1251"), "text/html", "Привет, мир и люди"),
        ("<p>日本語のページ</p>".encode(), "text/html; charset=no-such-thing", "日本語のページ"),
        (b"plain text", "text/plain", "plain text"),
        (b"", "text/html", ""),
    ],
)
def test_pages_of_any_encoding_are_read(world: Surroundings, site: Site, data: bytes, kind: str, text: str) -> None:
    site.routes["/p"] = Reply(data, headers={"content-type": kind})
    assert content(scrape(world, [f"{site.url}/p"]))[0]["text"].strip() == text


@pytest.mark.parametrize(
    ("rules", "asked"),
    [
        (Reply(b"User-agent: *\nDisallow: /fox", headers={"content-type": "text/plain"}), False),
        (Reply(b"User-agent: mediatheca\nDisallow: /\n\nUser-agent: *\nAllow: /"), False),
        (Reply(b"User-agent: *\nDisallow: /other"), True),
        (Reply(b"\xff\xfe nonsense"), True),
        (Reply(status=404), True),
        (Reply(status=503), False),
    ],
)
def test_robots_txt_is_obeyed(world: Surroundings, site: Site, rules: Reply, asked: bool) -> None:
    site.html("/fox", PAGE)
    site.routes["/robots.txt"] = rules
    body = scrape(world, [f"{site.url}/fox"])
    assert ("/fox" in site.paths()) is asked
    assert content(body)[0]["status"] == ("success" if asked else "error")
    scrape(world, [f"{site.url}/fox"], respect_robots=False)
    assert "/fox" in site.paths()


@pytest.mark.parametrize(
    ("url", "reason"),
    [("red fox", "must begin with http"), ("https://169.254.169.254/x", "cloud metadata")],
    ids=["no address", "a refused address"],
)
def test_robots_txt_is_not_blamed_for_what_it_does_not_say(world: Surroundings, url: str, reason: str) -> None:
    told = " ".join(scrape(world, [url])["warnings"])
    assert reason in told
    assert "does not allow" not in told


def test_a_redirect_does_not_lead_around_robots_txt(world: Surroundings, site: Site) -> None:
    site.html("/fox", PAGE)
    site.routes["/robots.txt"] = Reply(b"User-agent: *\nDisallow: /fox")
    site.routes["/start"] = Reply(status=302, headers={"location": "/fox"})
    assert content(scrape(world, [f"{site.url}/start"]))[0]["status"] == "error"


def test_links_are_followed_within_depth_number_domain_and_patterns(world: Surroundings, site: Site) -> None:
    links = "".join(f'<a href="/docs/{n}">x</a>' for n in range(5))
    site.html(
        "/docs/",
        f'<p>{TEXT}</p>{links}<a href="/private/x">x</a><a href="https://other.example/">x</a><a href="mailto:a">x</a>',
    )
    site.routes["*"] = lambda asked: Reply(
        f'<p>{asked.path} {TEXT}</p><a href="{asked.path}/deeper">x</a>'.encode(), headers={"content-type": "text/html"}
    )
    options = {"max_depth": 1, "max_pages": 4, "url_patterns": {"include": ["*/docs/*"], "exclude": ["*/docs/1"]}}
    found = content(scrape(world, [f"{site.url}/docs/"], **options))[0]
    assert [page["url"].rsplit("/", 1)[1] for page in found["pages"]] == ["0", "2", "3"]
    assert {page["depth"] for page in found["pages"]} == {1}
    deep = content(scrape(world, [f"{site.url}/docs/"], max_depth=2, max_pages=100))[0]
    assert {page["depth"] for page in deep["pages"]} == {1, 2}
    assert not any("other.example" in page["url"] for page in deep["pages"])


def test_a_link_that_fails_is_an_entry(world: Surroundings, site: Site) -> None:
    site.html("/", f'<p>{TEXT}</p><a href="/gone">x</a>')
    pages = content(scrape(world, [f"{site.url}/"], max_depth=1))[0]["pages"]
    assert [(page["status"], "404" in page["error"]) for page in pages] == [("error", True)]


def test_a_host_is_not_asked_more_often_than_the_delay_allows(world: Surroundings, site: Site) -> None:
    times: list[float] = []
    site.routes["/robots.txt"] = Reply(status=404)
    site.routes["*"] = lambda asked: (
        times.append(time.monotonic()) or Reply(b"x", headers={"content-type": "text/plain"})
    )  # type: ignore[func-returns-value]
    began = time.monotonic()
    scrape(world, [f"{site.url}/{n}" for n in range(4)], delay_between_requests=0.1)
    # From the beginning: a request may be late on its way, but none is early.
    assert all(moment - began >= 0.1 * number - 0.01 for number, moment in enumerate(sorted(times)))


@pytest.mark.parametrize("kind", ["application/pdf", "video/mp4", "image/svg+xml"])
def test_what_is_no_page_is_an_error_of_the_document(world: Surroundings, site: Site, kind: str) -> None:
    site.routes["/p"] = Reply(b"%PDF", headers={"content-type": kind})
    body = scrape(world, [f"{site.url}/p"])
    assert kind in content(body)[0]["error"]
    assert body["status"] == "degraded"


@pytest.mark.parametrize(
    "url", [None, "", 5, "not a url", "file:///etc/passwd", "javascript:alert(1)", ["https://a.example"]]
)
def test_a_document_without_an_address_says_so(world: Surroundings, url: Any) -> None:
    assert content(scrape(world, [url]))[0]["status"] == "error"


def test_remove_and_raise(world: Surroundings, site: Site) -> None:
    site.html("/ok", PAGE)
    body = scrape(world, [f"{site.url}/ok", f"{site.url}/gone"], on_error="remove")
    assert [d["document_id"] for d in body["documents"]] == ["d0"]
    with pytest.raises(MediathecaError, match="404"):
        scrape(world, [f"{site.url}/gone"], on_error="raise")


def test_a_first_stage_makes_a_document_of_a_page(world: Surroundings, site: Site) -> None:
    site.html("/fox", PAGE)
    body = World([]).run(
        "web_scrape", {"url": "{{INPUT.url}}"}, inputs={"url": f"{site.url}/fox"}, context=world.context()
    )
    assert [(d["title"], "red fox" in d["content"]) for d in body["documents"]] == [("Foxes", True)]


def test_a_caller_cannot_bring_a_template_along(world: Surroundings, site: Site) -> None:
    site.routes["*"] = Reply(b"x", headers={"content-type": "text/plain"})
    inputs = {"url": f"{site.url}/" + "{{SECRET.k}}"}
    World([]).run("web_scrape", {"url": "{{INPUT.url}}"}, inputs=inputs, context=world.context(secrets={"k": "hush"}))
    assert not any("hush" in path for path in site.paths())


APP = """<html><body><div id=root></div><script>
document.getElementById("root").textContent = "The red fox came by script. ".repeat(30)</script></body></html>"""


@pytest.mark.parametrize("strategy", ["auto", "javascript"])
def test_a_page_made_by_scripts_is_read_after_they_ran(world: Surroundings, site: Site, strategy: str) -> None:
    site.html("/app", APP)
    found = content(scrape(world, [f"{site.url}/app"], strategy=strategy, include_html=True, timeout=60))[0]
    assert "The red fox came by script." in found["text"]
    assert (found["strategy_used"], found["final_url"]) == ("javascript", f"{site.url}/app")


def test_a_page_with_enough_text_is_not_read_twice(world: Surroundings, site: Site) -> None:
    site.html("/fox", PAGE)
    assert content(scrape(world, [f"{site.url}/fox"]))[0]["strategy_used"] == "static"
    assert site.paths() == ["/robots.txt", "/fox"]


def test_a_short_page_is_reported_where_no_browser_reads_it(
    world: Surroundings, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    site.html("/app", APP)
    body = scrape(world, [f"{site.url}/app"])
    assert content(body)[0]["strategy_used"] == "static"
    assert told(body)["short_pages"] == 1
    assert any("JavaScript" in warning for warning in body["warnings"])
    body = scrape(world, [f"{site.url}/app"], strategy="javascript")
    assert "install Chromium" in content(body)[0]["error"]


def test_a_script_reaches_nothing_inside(world: Surroundings, site: Site) -> None:
    with a_site() as inner:
        inner.routes["*"] = Reply(b"internal", headers={"access-control-allow-origin": "*"})
        script = f"fetch('{inner.url}/').then(r => r.text()).then(t => document.body.append(t))"
        site.html("/spy", f"<p>short</p><script>{script}</script>")
        found = content(scrape(world, [f"{site.url}/spy"], strategy="javascript", include_html=True, timeout=60))[0]
        assert "internal" not in found["text"]
        assert inner.asked == []


@pytest.mark.parametrize(
    "parameters",
    [{"url": "https://a.example", "url_field": "x"}, {"max_depth": 6}, {"max_pages": 101}, {"batch_size": 21},
     {"timeout": 61}, {"url_patterns": {"include": ["*" * 20]}}, {"url_patterns": "x"}, {"url": "ftp://a.example"}],
)  # fmt: skip
def test_parameters_out_of_bounds_are_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        World([]).run("web_scrape", parameters)


@pytest.mark.parametrize(
    "html",
    [b"<div>" * 200_000 + b"deep", b"".join(b"<b id=%d>" % n for n in range(3_000)) + b"<p>x" * 300_000],
    ids=["nested", "reconstructed"],
)
def test_a_page_that_would_eat_the_server_ends_a_process_and_nothing_else(
    world: Surroundings, site: Site, html: bytes
) -> None:
    site.routes["/bomb"] = Reply(html, headers={"content-type": "text/html"})
    site.html("/fox", PAGE)
    body = scrape(world, [f"{site.url}/bomb", f"{site.url}/fox"], timeout=30)
    bomb, page = content(body)
    assert page["status"] == "success"
    assert "cannot be read" in bomb.get("error", "cannot be read")
    assert html[:5] == b"<b id" or bomb["status"] == "error", "this one takes hours"


class TestWebScrape(ReachingStageSuite):
    stage = web_scrape
    parameters: ClassVar[dict[str, Any]] = {"url_field": "text"}
