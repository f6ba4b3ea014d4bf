"""Crawling a local site: politely, each page once, within bounds, out of traps."""

from __future__ import annotations

import contextlib
import gzip
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from desk_world import a_desk

from mediatheca.extractors import Dropped, ItemError
from mediatheca.extractors._crawl import Crawl, Rules, Visited
from mediatheca.extractors._crawl_fetch import Retries, retry_after
from mediatheca.extractors._crawl_urls import Traps, canonical, is_address, may_know, site
from mediatheca.extractors._sitemaps import pages_of, unpacked
from mediatheca.kernel.desk import Desk
from mediatheca.kernel.filter_checks import compile_regex
from mediatheca.kernel.web_page import Link
from outside_site import Asked, Reply, Site, a_site

WORDS = "Foxes live in many places, and this page tells something of its own about the place called "
QUICK = Retries(most=2, first_s=0.01, longest_s=0.5)


def page(name: str, *links: str, head: str = "") -> str:
    anchors = "".join(f'<a href="{link}">to {link}</a> ' for link in links)
    text = f"<h1>{name}</h1><p>{WORDS}{name}. {WORDS}{name}.</p>{anchors}"
    return f"<html><head><title>{name}</title>{head}</head><body><article>{text}</article></body></html>"


@pytest.fixture
def outside() -> Iterator[Site]:
    with a_site() as made:
        yield made


@pytest.fixture
def desk(tmp_path: Path, outside: Site) -> Iterator[Desk]:
    with a_desk(tmp_path, fetch_allow=outside.host) as made:
        yield made


def crawl(desk: Desk, start: str, rank: Any = None, **rules: Any) -> tuple[list[Visited], list[Dropped]]:
    found = list(
        Crawl(desk, Rules(**{"retries": QUICK, "render": "static", **rules}), lambda done: None, rank).visit(start)
    )
    return [f for f in found if isinstance(f, Visited)], [f for f in found if isinstance(f, Dropped)]


def names(visited: list[Visited]) -> list[str]:
    return [found.page.title for found in visited]


def test_pages_come_level_by_level_each_once_with_their_parents(desk: Desk, outside: Site) -> None:
    outside.html("/", page("home", "/a", "/b", "/a#part", "/a?utm_source=x"))
    outside.html("/a", page("a", "/b", "/c", "/"))
    outside.html("/b", page("b"))
    outside.html("/c", page("c", "/d"))
    outside.html("/d", page("d"))
    visited, dropped = crawl(desk, f"{outside.url}/", depth=2)
    assert names(visited) == ["home", "a", "b", "c"]
    assert [(found.depth, found.parent.removeprefix(outside.url)) for found in visited] == [
        (0, ""),
        (1, "/"),
        (1, "/"),
        (2, "/a"),
    ]
    assert outside.paths() == ["/robots.txt", "/", "/a", "/b", "/c"]
    assert dropped == []


def test_loops_redirects_and_pages_that_are_the_same_are_read_once(desk: Desk, outside: Site) -> None:
    outside.html("/", page("home", "/", "/old", "/twin", "/print"))
    outside.routes["/old"] = Reply(status=301, headers={"location": "/new"})
    outside.html("/new", page("new", "/old", "/new"))
    outside.html("/twin", page("new", "/old", "/new"))
    outside.html("/print", page("printed", head=f'<link rel="canonical" href="{outside.url}/new">'))
    visited, dropped = crawl(desk, f"{outside.url}/")
    assert names(visited) == ["home", "new"]
    assert sorted(entry.reason.split(" ")[1] for entry in dropped) == ["is", "says"]


def test_robots_nofollow_and_noindex_are_kept_to(desk: Desk, outside: Site) -> None:
    outside.routes["/robots.txt"] = Reply(b"User-agent: *\nDisallow: /private")
    outside.html("/", page("home", "/private/x", "/hidden") + '<a rel="nofollow" href="/ad">ad</a>')
    outside.html("/hidden", page("hidden", "/behind", head='<meta name="robots" content="noindex">'))
    outside.html("/behind", page("behind"))
    visited, dropped = crawl(desk, f"{outside.url}/")
    assert names(visited) == ["home", "behind"]
    assert {entry.what.removeprefix(outside.url): entry.reason[:20] for entry in dropped} == {
        "/private/x": "robots.txt of " + outside.host[:6],
        "/hidden": "the page asks not to",
    }
    assert "/ad" not in outside.paths()
    with pytest.raises(ItemError, match="robots"):
        crawl(desk, f"{outside.url}/private")
    assert "private" in names(crawl(desk, f"{outside.url}/", robots=False, pages=9)[0]) or "/ad" in outside.paths()


def test_a_site_whose_robots_txt_fails_is_left_alone(desk: Desk, outside: Site) -> None:
    outside.routes["/robots.txt"] = Reply(status=503)
    outside.html("/", page("home"))
    with pytest.raises(
        ItemError, match=r"robots.txt of .* could not be read \(it answered with status 503\)"
    ) as caught:
        crawl(desk, f"{outside.url}/")
    assert not caught.value.permanent


def test_a_site_that_does_not_answer_is_not_said_to_forbid_its_pages(tmp_path: Path) -> None:
    with a_desk(tmp_path, fetch_allow="127.0.0.1:1") as desk:
        with pytest.raises(ItemError, match=r"robots.txt of 127.0.0.1:1 could not be read") as caught:
            crawl(desk, "http://127.0.0.1:1/")
        assert not caught.value.permanent


def test_a_host_is_asked_no_faster_than_it_wants(desk: Desk, outside: Site) -> None:
    moments: list[float] = []

    def timed(asked: Asked) -> Reply:
        moments.append(time.monotonic())
        return Reply(page(asked.path, "/b", "/c").encode(), headers={"content-type": "text/html"})

    outside.routes["/robots.txt"] = Reply(b"User-agent: *\nCrawl-delay: 0.2")
    outside.routes["*"] = timed
    began = time.monotonic()
    visited, _ = crawl(desk, f"{outside.url}/", pages=3)
    assert len(visited) == 3
    # From the beginning: a request may be late on its way, but none is early.
    assert all(moment - began >= 0.2 * number - 0.01 for number, moment in enumerate(moments))


def test_patterns_sites_and_numbers_bound_a_crawl(desk: Desk, outside: Site) -> None:
    outside.html("/", page("home", "/docs/1", "/docs/2", "/blog/1", "https://elsewhere.example/", "/docs/old"))
    for path in ("/docs/1", "/docs/2", "/docs/old", "/blog/1"):
        outside.html(path, page(path))
    include = [compile_regex("/docs/", "x", case_sensitive=True)]
    exclude = [compile_regex("old$", "x", case_sensitive=True)]
    visited, dropped = crawl(desk, f"{outside.url}/", include=include, exclude=exclude)
    assert names(visited) == ["home", "/docs/1", "/docs/2"]
    assert dropped == []
    visited, dropped = crawl(desk, f"{outside.url}/", pages=2)
    assert len(visited) == 2
    assert [(entry.what, entry.reason) for entry in dropped] == [("3 more pages", "max_pages: 2 pages were read")]
    assert names(crawl(desk, f"{outside.url}/", depth=0)[0]) == ["home"]


def test_an_endless_calendar_ends(desk: Desk, outside: Site) -> None:
    def calendar(asked: Asked) -> Reply:
        day = int(asked.path.partition("=")[2] or 0)
        following = [f"/cal?day={day + more}" for more in range(1, 8)]
        text = page(f"day {day}", *following, f"{asked.path.split('?')[0]}/x/x/x/x/x")
        return Reply(text.encode(), headers={"content-type": "text/html"})

    outside.routes["*"] = calendar
    visited, dropped = crawl(desk, f"{outside.url}/cal", depth=10, pages=100)
    assert len(visited) <= 45
    assert any("sets of parameters" in entry.reason for entry in dropped)
    assert any("repeats itself" in entry.reason for entry in dropped)


def test_a_page_that_fails_for_a_moment_is_asked_again(desk: Desk, outside: Site) -> None:
    answers = iter([Reply(status=503), Reply(status=429, headers={"retry-after": "0"})])
    good = Reply(page("home").encode(), headers={"content-type": "text/html"})
    outside.routes["/"] = lambda asked: next(answers, good)
    assert names(crawl(desk, f"{outside.url}/")[0]) == ["home"]
    assert outside.paths() == ["/robots.txt", "/", "/", "/"]


def test_a_site_that_asks_for_patience_beyond_reason_is_told_so(desk: Desk, outside: Site) -> None:
    outside.html("/", page("home", "/later", "/gone", "/file", "/data"))
    outside.routes["/later"] = Reply(status=429, headers={"retry-after": "3600"})
    outside.routes["/gone"] = Reply(status=410)
    outside.routes["/file"] = Reply(b"\x7fELF", headers={"content-type": "application/x-executable"})
    outside.routes["/data"] = Reply({"plain": "json"})
    visited, dropped = crawl(desk, f"{outside.url}/")
    assert len(visited) == 2
    reasons = {entry.what.removeprefix(outside.url): entry.reason for entry in dropped}
    assert "3600 s" in reasons["/later"]
    assert reasons["/gone"] == "it answered with status 410"
    assert "not a web page" in reasons["/file"]
    assert all(entry.kind == "url" for entry in dropped)


@pytest.mark.parametrize(
    "target", ["http://169.254.169.254/latest/meta-data/", "http://localhost:1/", "file:///etc/passwd"]
)
def test_no_redirect_and_no_link_leads_inside(desk: Desk, outside: Site, target: str) -> None:
    outside.html("/", page("home", "/go", target))
    outside.routes["/go"] = Reply(status=302, headers={"location": target})
    visited, dropped = crawl(desk, f"{outside.url}/", same_site=False, robots=False)
    assert names(visited) == ["home"]
    assert dropped
    with pytest.raises(ItemError) as caught:
        crawl(desk, f"{outside.url}/go")
    assert caught.value.permanent


def test_whether_a_first_page_may_succeed_later_is_told(desk: Desk, outside: Site) -> None:
    outside.routes["/broken"] = Reply(status=500)
    with pytest.raises(ItemError, match="status 500") as caught:
        crawl(desk, f"{outside.url}/broken")
    assert not caught.value.permanent
    with pytest.raises(ItemError, match="status 404") as caught:
        crawl(desk, f"{outside.url}/missing")
    assert caught.value.permanent


def test_time_ends_a_crawl_and_what_was_read_stays(desk: Desk, outside: Site) -> None:
    def slow(asked: Asked) -> Reply:
        number = len(outside.asked)
        return Reply(page(f"p{number}", f"/n{number}").encode(), headers={"content-type": "text/html"}, delay_s=0.4)

    outside.routes["/robots.txt"] = Reply(status=404)
    outside.routes["*"] = slow
    visited, dropped = crawl(desk, f"{outside.url}/", depth=10, pages=100, seconds=3.0)
    assert 1 <= len(visited) < 10
    assert any("crawl_timeout" in entry.reason or "within" in entry.reason for entry in dropped)


def test_sitemaps_lead_to_pages_that_nobody_links_to(desk: Desk, outside: Site) -> None:
    outside.routes["/robots.txt"] = Reply(f"Sitemap: {outside.url}/index.xml".encode())
    outside.routes["/index.xml"] = Reply(
        f"<sitemapindex><sitemap><loc>{outside.url}/map.gz</loc></sitemap></sitemapindex>".encode()
    )
    places = f"<urlset><url><loc> {outside.url}/lonely?a=1&amp;b=2 </loc></url><url><loc>https://b.example/</loc></url></urlset>"
    outside.routes["/map.gz"] = Reply(gzip.compress(places.encode()))
    outside.html("/", page("home"))
    outside.html("/lonely", page("lonely"))
    assert names(crawl(desk, f"{outside.url}/", sitemap=True)[0]) == ["home", "lonely"]
    assert names(crawl(desk, f"{outside.url}/")[0]) == ["home"]


def test_links_that_fit_the_goal_come_first(desk: Desk, outside: Site) -> None:
    outside.html("/", page("home", "/prices", "/foxes", "/imprint"))
    for path in ("/prices", "/foxes", "/imprint"):
        outside.html(path, page(path))

    def rank(links: Any) -> list[float]:
        return [1.0 if "fox" in link.url else 0.0 for link in links]

    assert names(crawl(desk, f"{outside.url}/", rank, pages=2)[0]) == ["home", "/foxes"]


def test_headers_of_the_caller_go_to_the_first_site_only(desk: Desk, outside: Site) -> None:
    with a_site() as other:
        other.html("/x", page("other"))
        outside.html("/", page("home", f"http://localhost:{other.port}/x", f"{other.url}/x", "/b"))
        outside.html("/b", page("b"))
        crawl(desk, f"{outside.url}/", headers={"x-key": "1"}, same_site=False, robots=False)
        assert all(asked.headers.get("x-key") == "1" for asked in outside.asked)
        assert not any("x-key" in asked.headers for asked in other.asked)


@pytest.mark.parametrize("render", ["static", "auto"])
def test_headers_do_not_follow_a_redirect_to_another_site(tmp_path: Path, outside: Site, render: str) -> None:
    thin = "<html><body><div id=root></div><script>1</script><a href='/next'>next</a></body></html>"
    with a_site() as other, a_desk(tmp_path, fetch_allow="127.0.0.1") as desk:
        for path in ("/home", "/thin", "/next"):
            other.html(path, thin)
        outside.html("/", page("home", "/away"))
        for path, place in (("/away", "/thin"), ("/moved", "/home")):
            outside.routes[path] = Reply(status=302, headers={"location": f"{other.url}{place}"})
        for start in ("/", "/moved"):
            with contextlib.suppress(ItemError):
                crawl(desk, f"{outside.url}{start}", headers={"x-key": "1"}, render=render, same_site=False)
        assert {"/home", "/thin", "/next"} <= set(other.paths())
        assert not any("x-key" in asked.headers for asked in other.asked)
        assert any("x-key" in asked.headers for asked in outside.asked)


def test_what_is_meant_for_a_site_stays_there_and_encrypted() -> None:
    assert may_know("https://www.a.example/x", ["https://a.example"])
    assert may_know("https://a.example/x", ["http://a.example"])
    assert not may_know("http://a.example/x", ["https://a.example"])
    assert not may_know("https://b.a.example/x", ["https://a.example"])
    assert not may_know("https://a.example:8443/x", ["https://a.example"])


@pytest.mark.parametrize("bad", ["https://x:99999/", "https://x:y/", "https://[::1", "https:///x", "ftp://x/", "//x"])
def test_an_address_that_is_none_is_passed_over(desk: Desk, outside: Site, bad: str) -> None:
    assert not is_address(bad)
    outside.html("/", page("home", bad, "/b") + f'<img src="{bad}"><link rel="canonical" href="{bad}">')
    outside.html("/b", page("b", head=f'<base href="{bad}"><link rel="canonical" href="{bad}">'))
    outside.routes["/robots.txt"] = Reply(f"Sitemap: {outside.url}/map.xml\nSitemap: {bad}".encode())
    outside.routes["/map.xml"] = Reply(f"<urlset><loc>{bad}/longer</loc><loc>{outside.url}/c</loc></urlset>".encode())
    outside.html("/c", page("c"))
    assert names(crawl(desk, f"{outside.url}/", sitemap=True)[0]) == ["home", "b", "c"]


def test_a_list_of_blanks_is_read_in_no_time() -> None:
    blanks = b"<loc>" + b" " * 2_000_000 + b"<"
    assert pages_of(["https://a.example/map"], lambda url: blanks * 2, most=5) == []


def test_lists_are_not_read_when_the_time_is_over(desk: Desk, outside: Site) -> None:
    lists = "".join(f"Sitemap: {outside.url}/map{number}\n" for number in range(20))
    outside.routes["/robots.txt"] = Reply(lists.encode())
    outside.html("/", page("home"))
    outside.routes["*"] = Reply(b"<urlset></urlset>", delay_s=0.8)
    crawl(desk, f"{outside.url}/", sitemap=True, seconds=3.0)
    assert sum(path.startswith("/map") for path in outside.paths()) < 6


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://A.example:80/x/../y/?b=2&a=1#f", "https://a.example/y?a=1&b=2"),
        ("https://a.example/%7Efox", "https://a.example/~fox"),
        ("https://a.example", "https://a.example/?utm_source=x&fbclid=y"),
        ("https://a.example/p;jsessionid=AB12?q=", "https://a.example/p?q="),
        ("https://a.example/d/./e/", "https://a.example/d/e"),
    ],
)
def test_one_page_has_one_address(one: str, other: str) -> None:
    assert canonical(one) == canonical(other)


def test_other_pages_have_other_addresses() -> None:
    urls = [
        "https://a.example/x",
        "https://a.example/x?a=1",
        "https://a.example:8443/x",
        "https://b.example/x",
        "https://a.example/X",
    ]
    assert len({canonical(url) for url in urls}) == len(urls)
    assert site("https://www.a.example/x") == site("http://a.example:80/") == "a.example"
    assert site("https://a.example:8443/") != site("https://a.example/")


def test_traps_are_told_and_ordinary_addresses_are_not() -> None:
    traps = Traps()
    assert traps.why("https://a.example/docs/a/b/c?page=2") == ""
    assert "repeats" in traps.why("https://a.example/a/a/a/a")
    assert "characters" in traps.why("https://a.example/" + "x" * 2001)
    assert Link("https://a.example/").follow


@pytest.mark.parametrize(
    ("told", "low", "high"),
    [("5", 5, 5), ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0), ("Fri, 31 Dec 2999 23:59:59 GMT", 1e6, 1e12)],
)
def test_a_server_says_when_to_come_back_in_seconds_or_as_a_date(told: str, low: float, high: float) -> None:
    wait = retry_after({"retry-after": told})
    assert wait is not None
    assert low <= wait <= high


@pytest.mark.parametrize("told", ["", "soon", "-1", "1e9", f"Mon, 01 Jan 2024 00:00:00 +{'9' * 30}"])
def test_what_is_no_moment_is_none(told: str) -> None:
    assert retry_after({"retry-after": told}) is None


def test_a_packed_list_that_unpacks_without_end_is_passed_over() -> None:
    bomb = gzip.compress(b"<loc>https://a.example/x</loc>" + b" " * (20 << 20))
    with pytest.raises(ValueError, match="too large"):
        unpacked(bomb)
    assert pages_of(["https://a.example/map"], lambda url: bomb, most=10) == []
    endless = b"<sitemapindex><loc>https://a.example/map</loc></sitemapindex>"
    assert pages_of(["https://a.example/map"], lambda url: endless, most=10) == []
