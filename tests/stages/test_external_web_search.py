"""`external_web_search` and `external_reverse_image`: every service by its own protocol, on a real server here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
from outside_world import ReachingStageSuite, Surroundings, surroundings
from stage_runs import World, ids, told

from mediatheca.kernel.errors import NotEnabledError, UnavailableError, ValidationError
from mediatheca.stages.external_reverse_image import external_reverse_image
from mediatheca.stages.external_web_search import external_web_search
from outside_site import Reply, Site

PAGES = [
    {"url": "https://a.example/1", "title": "One", "text": "first"},
    {"url": "https://b.example/2", "title": "Two", "text": "second"},
]
KEY = "the-search-key-1234"


def answer_of(service: str) -> tuple[str, dict[str, Any]]:
    """Path and answer of a service that finds `PAGES`."""
    first, second = PAGES
    plain = [{"url": p["url"], "title": p["title"], "content": p["text"]} for p in PAGES]
    organic = [{"link": p["url"], "title": p["title"], "snippet": p["text"]} for p in PAGES]
    return {
        "searxng": ("/search", {"results": plain}),
        "brave": ("/res/v1/web/search", {"web": {"results": [{**p, "description": p["text"]} for p in PAGES]}}),
        "tavily": ("/search", {"results": [{**p, "score": 0.5} for p in plain]}),
        "exa": ("/search", {"results": [first, second]}),
        "serpapi": ("/search.json", {"organic_results": organic}),
    }[service]  # fmt: skip


@pytest.fixture
def world(tmp_path: Path, site: Site) -> Iterator[Surroundings]:
    path, answer = answer_of("searxng")
    site.routes[path] = Reply(answer)
    with surroundings(tmp_path, web_search=f"searxng {site.url}") as made:
        yield made


def search(world: Surroundings, rows: list[dict[str, Any]], *, inputs: Any = None, **parameters: Any) -> dict[str, Any]:
    return World(rows).run(
        "external_web_search", parameters, inputs=inputs or {"query": "red fox"}, context=world.context()
    )


@pytest.mark.parametrize("service", ["searxng", "brave", "tavily", "exa", "serpapi"])
def test_every_service_is_asked_in_its_own_way(tmp_path: Path, site: Site, service: str) -> None:
    path, answer = answer_of(service)
    site.routes[path] = Reply(answer)
    setting = f"{service} {site.url}" if service == "searxng" else f"{service} {KEY} {site.url}"
    with surroundings(tmp_path, web_search=setting) as world:
        body = search(
            world, [], num_results=2, start_published_date="2026-01-02", include_domains=["a.example", "b.example"]
        )
    assert [(d["url"], d["title"], d["content"]) for d in body["documents"]] == [tuple(p.values()) for p in PAGES]
    assert [d["metadata"]["source"] for d in body["documents"]] == ["web", "web"]
    asked = site.asked[0]
    query = {name: values[0] for name, values in parse_qs(urlsplit(asked.path).query).items()}
    if service in ("tavily", "exa"):
        assert asked.method == "POST"
        assert asked.json["query"] == "red fox"
        assert asked.headers["authorization" if service == "tavily" else "x-api-key"].endswith(KEY)
    else:
        assert query["q"].startswith("red fox (site:a.example OR site:b.example)")
    if service == "brave":
        assert asked.headers["x-subscription-token"] == KEY
    if service == "serpapi":
        assert query["api_key"] == KEY
    assert KEY not in str(body)


def test_pages_are_appended_to_documents_and_kept_for_an_hour(world: Surroundings, site: Site) -> None:
    rows = [{"document_id": "own", "score": 1.0}]
    assert len(ids(search(world, rows))) == 3
    assert ids(search(world, rows))[0] == "own"
    assert len(ids(search(world, rows, mode="create"))) == 2
    assert len(site.asked) == 1


def test_each_document_is_enriched_with_results_of_its_own_query(world: Surroundings, site: Site) -> None:
    rows = [
        {"document_id": f"d{n}", "title": title, "score": 1.0} for n, title in enumerate(["fox", "owl", "fox", None])
    ]
    body = search(world, rows, query="{DOC.title}")
    assert len(site.asked) == 2, "equal queries share one call"
    found = body["documents"][0]["metadata"]["web_search"]
    assert (found["query"], found["num_results"], found["results"][1]["position"]) == ("fox", 2, 2)
    assert set(found["results"][0]) == {"url", "title", "text", "published_date", "author", "score", "position"}
    assert told(body)["failed"] == 1
    assert any("single braces" in warning for warning in body["warnings"])


def test_domains_are_kept_out_even_where_the_service_does_not_know_them(world: Surroundings) -> None:
    assert [d["url"] for d in search(world, [], exclude_domains=["a.example"])["documents"]] == ["https://b.example/2"]
    assert search(world, [], include_domains=["example"], num_results=1)["pagination"]["total"] == 1


@pytest.mark.parametrize(
    "reply",
    [Reply(status=500), Reply(status=403), Reply(status=429), Reply(b"<html>"), Reply([1]), Reply({"results": "x"})],
)
def test_a_service_that_fails_leaves_the_documents_and_says_so(tmp_path: Path, site: Site, reply: Reply) -> None:
    site.routes["/search.json"] = reply
    with surroundings(tmp_path, web_search=f"serpapi {KEY} {site.url}") as world:
        body = search(world, [{"document_id": "own", "score": 1.0}])
    assert ids(body) == ["own"]
    assert body["status"] == "degraded" or reply.body == {"results": "x"}
    assert KEY not in str(body)


def test_without_a_service_the_error_says_how_to_configure_one(tmp_path: Path) -> None:
    with surroundings(tmp_path) as world, pytest.raises(UnavailableError, match="MEDIATHECA_WEB_SEARCH"):
        search(world, [])


@pytest.mark.parametrize("setting", ["google key", "brave", "searxng", "exa https://x.example"])
def test_a_setting_that_cannot_work_is_refused_at_the_start(tmp_path: Path, setting: str) -> None:
    with pytest.raises(UnavailableError, match="MEDIATHECA_WEB_SEARCH"), surroundings(tmp_path, web_search=setting):
        pass


def test_an_empty_query_asks_nothing(world: Surroundings, site: Site) -> None:
    body = search(world, [], inputs={"query": " "})
    assert (body["documents"], site.asked) == ([], [])


def test_pictures_are_found_and_appended(tmp_path: Path, site: Site) -> None:
    found = {
        "visual_matches": [
            {"link": "https://a.example/p", "title": "P", "source": "A", "thumbnail": "https://t.example"}
        ]
    }
    site.routes["/search.json"] = Reply(found)
    with surroundings(tmp_path, web_search=f"serpapi {KEY} {site.url}") as world:
        inputs = {"image_url": "https://pictures.example/x.jpg"}
        body = World([{"document_id": "own", "score": 2.0}]).run(
            "external_reverse_image", {}, inputs=inputs, context=world.context()
        )
    meta = body["documents"][1]["metadata"]
    assert (meta["source"], meta["rank"], meta["link"], meta["source_name"]) == ("web", 1, "https://a.example/p", "A")
    assert parse_qs(urlsplit(site.asked[0].path).query)["url"] == ["https://pictures.example/x.jpg"]


def test_no_match_is_no_failure_and_other_services_say_what_they_lack(
    tmp_path: Path, site: Site, world: Surroundings
) -> None:
    site.routes["/search.json"] = Reply({"error": "Google Lens hasn't returned any results for this query."})
    inputs = {"image_url": "https://pictures.example/x.jpg"}
    with surroundings(tmp_path / "other", web_search=f"serpapi {KEY} {site.url}") as serpapi:
        body = World([]).run("external_reverse_image", {}, inputs=inputs, context=serpapi.context())
    assert (body["documents"], body["status"]) == ([], "completed")
    with pytest.raises(UnavailableError, match="serpapi"):
        World([]).run("external_reverse_image", {}, inputs=inputs, context=world.context())


def test_a_picture_must_have_a_public_address(world: Surroundings) -> None:
    for url in ("data:image/png;base64,AAAA", "s3://bucket/x.png", "x" * 10):
        with pytest.raises(ValidationError, match="image_url"):
            World([]).run("external_reverse_image", {"image_url": url}, context=world.context())
    with pytest.raises(NotEnabledError):
        World([]).run("external_reverse_image", {"provider": "bing"})


def test_contents_that_no_service_gives_are_told(world: Surroundings) -> None:
    parameters = {"query": "fox", "mode": "enrich", "contents": {"highlights": True}}
    body = World([]).run("external_web_search", parameters, context=world.context())
    assert body["documents"] == []
    assert "contents.highlights and contents.summary have no effect" in body["warnings"][0]


class TestExternalWebSearch(ReachingStageSuite):
    stage = external_web_search
    parameters: ClassVar[dict[str, Any]] = {"query": "fox", "mode": "enrich"}


class TestExternalReverseImage(ReachingStageSuite):
    stage = external_reverse_image
    parameters: ClassVar[dict[str, Any]] = {"image_url": ""}
