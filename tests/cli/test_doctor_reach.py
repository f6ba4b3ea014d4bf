"""What the doctor says of language models, web search, the code sandbox and rerankers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mediatheca.backends import make_models
from mediatheca.flows.outside.probe import Probe, probe
from mediatheca.settings import Settings
from outside_site import Reply, Site, a_site

KEY = "sk-very-secret"


@pytest.fixture
def site() -> Iterator[Site]:
    with a_site() as made:
        made.routes["/v1/models"] = models_of("llama3.1:8b", "qwen3:4b")
        yield made


def models_of(*names: str) -> Reply:
    data = [{"id": name, "object": "model", "created": 1, "owned_by": "me"} for name in names]
    return Reply({"object": "list", "data": data})


def asked(folder: Path, **own: Any) -> dict[str, Probe]:
    settings = Settings(data_dir=folder, **own)
    return {entry.name: entry for entry in asyncio.run(probe(settings, make_models(settings)))}


def language(folder: Path, site: Site, model: str = "llama3.1:8b") -> Probe:
    return asked(folder, language_url=f"{site.url}/v1", language_key=KEY, language_model=model)["language model"]


def test_nothing_configured_is_not_wrong_and_says_what_to_set(tmp_path: Path) -> None:
    found = asked(tmp_path)
    assert set(found) == {"language model", "web search", "code sandbox", "reranker"}
    assert not any(entry.wrong or entry.works for entry in found.values())
    for name, setting in (
        ("language model", "MEDIATHECA_LANGUAGE_URL"),
        ("web search", "MEDIATHECA_WEB_SEARCH"),
        ("code sandbox", "MEDIATHECA_ALLOW_CODE"),
        ("reranker", "MEDIATHECA_MODELS_HUB"),
    ):
        assert setting in found[name].state


def test_a_model_that_answers_works(tmp_path: Path, site: Site) -> None:
    found = language(tmp_path, site)
    assert found.works
    assert "openai:llama3.1:8b" in found.state
    assert site.asked[0].headers["authorization"] == f"Bearer {KEY}"


def test_a_default_model_that_is_not_served_is_named(tmp_path: Path, site: Site) -> None:
    found = language(tmp_path, site, "gpt-9")
    assert found.wrong
    assert "gpt-9" in found.state
    assert "qwen3:4b" in found.state


@pytest.mark.parametrize(
    ("reply", "setting"),
    [
        (Reply({"error": {"message": f"bad key {KEY}"}}, 401), "MEDIATHECA_LANGUAGE_KEY"),
        (Reply({"error": "x"}, 500), "MEDIATHECA_LANGUAGE_URL"),
    ],
)
def test_a_refusal_names_the_setting_and_not_the_key(tmp_path: Path, site: Site, reply: Reply, setting: str) -> None:
    site.routes["/v1/models"] = reply
    found = language(tmp_path, site)
    assert found.wrong
    assert setting in found.state
    assert KEY not in found.state


def test_a_server_that_does_not_list_its_models_works(tmp_path: Path, site: Site) -> None:
    site.routes["/v1/models"] = Reply(status=404)
    assert language(tmp_path, site).works


def test_no_server_is_wrong(tmp_path: Path) -> None:
    found = asked(tmp_path, language_url="http://127.0.0.1:1/v1")["language model"]
    assert found.wrong
    assert "cannot be reached" in found.state


def test_anthropic_is_asked_in_its_own_protocol(tmp_path: Path, site: Site) -> None:
    body = {"data": [{"id": "claude-x", "type": "model", "display_name": "x", "created_at": "2026-01-01T00:00:00Z"}]}
    site.routes["/v1/models"] = Reply({**body, "has_more": False, "first_id": None, "last_id": None})
    own = {"language_url": f"anthropic={site.url}", "language_key": f"anthropic={KEY}", "language_model": "claude-x"}
    found = asked(tmp_path, **own)["language model"]
    assert found.works, found
    headers = site.asked[0].headers
    assert "anthropic-version" in headers
    assert KEY in (headers.get("x-api-key") or headers["authorization"])


def test_a_web_search_is_asked_and_a_broken_one_is_wrong(tmp_path: Path, site: Site) -> None:
    site.routes["/search"] = Reply({"results": [{"url": "https://example.org", "title": "x", "content": "y"}]})
    assert asked(tmp_path, web_search=f"searxng {site.url}")["web search"].works
    site.routes["/search"] = Reply(status=403)
    found = asked(tmp_path, web_search=f"searxng {site.url}")["web search"]
    assert found.wrong
    assert "MEDIATHECA_WEB_SEARCH" in found.state


def test_the_sandbox_runs_code_where_it_is_allowed(tmp_path: Path) -> None:
    found = asked(tmp_path, allow_code=True)["code sandbox"]
    assert found.works, found
    assert "42" in found.state
