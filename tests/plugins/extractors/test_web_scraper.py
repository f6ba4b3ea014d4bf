"""`web_scraper` with the real models on a local site: texts, code and pictures that can be searched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest
from desk_world import Steps, a_desk

from language_server import KEY, LanguageServer
from mediatheca.extractors import ExtractContext, Extractor, Item, ItemError, Source
from mediatheca.extractors.web_scraper import Params, web_scraper
from mediatheca.kernel.desk import Desk
from mediatheca.kernel.errors import ValidationError
from mediatheca.providers._catalog import ModelCatalog
from mediatheca.testing.extractors import ExtractorContract, dropped_of, rows_of
from outside_site import Reply, Site, a_site

E5, CODE = "multilingual_e5_large_instruct_v1", "jina_embeddings_v2_base_code"
SIGLIP, DINO = "google_siglip_base_v1", "facebook_dinov2_base_v1"
BODY = (
    "Red foxes hunt at night and sleep in dens by day. They eat mice, berries and beetles. Their tails keep them warm. "
)
HOME = f"""<html lang="en"><head><title>Foxes</title></head><body><article><h1>Foxes</h1><p>{BODY * 3}</p>
<img src="/rocket.jpg" alt="a rocket"><img src="/broken.png" alt="nothing"><a href="/bread">Bread</a>
<a href="/x.pdf">Paper</a><pre><code class="language-python">def fox(speed):
    return speed * 2</code></pre></article></body></html>"""
BREAD = "<html><head><title>Bread</title></head><body><article><p>" + (
    "Sourdough bread needs flour, water, salt and patience. The oven must be hot, and the crust dark. " * 5
)


@pytest.fixture(scope="module")
def pages() -> Iterator[Site]:
    import skimage

    with a_site() as made:
        made.html("/", HOME)
        made.html("/bread", BREAD)
        made.html("/app", "<html><body><div id=root></div><script>render()</script></body></html>")
        data = (Path(skimage.__file__).parent / "data" / "rocket.jpg").read_bytes()
        made.routes["/rocket.jpg"] = Reply(data, headers={"content-type": "image/jpeg"})
        made.routes["/broken.png"] = Reply(b"no picture", headers={"content-type": "image/png"})
        yield made


@pytest.fixture
def desk(tmp_path: Path, pages: Site) -> Iterator[Desk]:
    with a_desk(tmp_path, fetch_allow=pages.host) as made:
        yield made


def scrape(models: ModelCatalog, desk: Desk, folder: Path, *urls: str, **params: Any) -> list[Any]:
    params = {"render_strategy": "static", "retry_base_delay": 0.01, **params}
    extract = web_scraper.open(Params(**params), ExtractContext(models, folder, desk))
    return list(extract(Item("obj_1", {"url": [Source(value=url, key="url") for url in urls]})))


class TestWebScraper(ExtractorContract):
    @pytest.fixture
    def extractor(self) -> Extractor:
        return web_scraper

    @pytest.fixture
    def params(self) -> Params:
        return Params(max_depth=1, chunk_strategy="sentences", chunk_size=4, chunk_overlap=1, render_strategy="static")

    @pytest.fixture
    def item(self, pages: Site) -> Item:
        return Item("obj_1", {"url": [Source(value=f"{pages.url}/", key="url")]})

    @pytest.fixture
    def desk(self, tmp_path: Path, pages: Site) -> Iterator[Desk]:
        with a_desk(tmp_path / "desk", fetch_allow=pages.host) as made:
            yield made


def test_a_site_becomes_documents_of_texts_code_and_pictures(
    models: ModelCatalog, desk: Desk, pages: Site, tmp_path: Path
) -> None:
    made = scrape(models, desk, tmp_path, f"{pages.url}/")
    rows = rows_of(made)
    assert [(row.fields["doc_type"], row.fields["title"]) for row in rows] == [
        ("text", "Foxes"), ("code", "Foxes"), ("image", "Foxes"), ("text", "Bread"),
    ]  # fmt: skip
    text, code, image, bread = rows
    assert text.fields["page_url"] == f"{pages.url}/"
    assert text.fields["asset_links"] == [f"{pages.url}/x.pdf"]
    assert text.fields["code_blocks"][0]["language"] == code.fields["code_language"] == "python"
    assert [entry["alt"] for entry in text.fields["images"]] == ["a rocket", "nothing"]
    assert (bread.fields["crawl_depth"], bread.fields["parent_url"]) == (1, f"{pages.url}/")
    assert [set(row.vectors) for row in rows] == [{E5}, {CODE}, {SIGLIP, DINO}, {E5}]
    assert (image.fields["width"], image.fields["image_url"]) == (640, f"{pages.url}/rocket.jpg")
    assert image.artifacts["thumbnail_url"].data.startswith(b"\xff\xd8")
    assert [entry.what for entry in dropped_of(made)] == [f"{pages.url}/broken.png"]


def test_a_question_finds_the_page_that_answers_it(
    models: ModelCatalog, desk: Desk, pages: Site, tmp_path: Path
) -> None:
    rows = [row for row in rows_of(scrape(models, desk, tmp_path, f"{pages.url}/")) if E5 in row.vectors]
    query = models.text(E5).embed_texts(["how is bread baked?"], query=True)[0]
    best = int(np.argmax([query @ row.vectors[E5] for row in rows]))
    assert rows[best].fields["title"] == "Bread"


@pytest.mark.parametrize("strategy", ["url", "position", "content"])
def test_a_page_visited_again_gives_the_same_documents(
    models: ModelCatalog, desk: Desk, pages: Site, tmp_path: Path, strategy: str
) -> None:
    def places() -> list[tuple[str, int]]:
        cut = {"chunk_strategy": "sentences", "chunk_size": 2, "chunk_overlap": 0, "document_id_strategy": strategy}
        found = rows_of(scrape(models, desk, tmp_path, f"{pages.url}/", f"{pages.url}/bread", **cut))
        return [(row.source_key, row.position) for row in found]

    first = places()
    assert len(set(first)) == len(first)
    assert first == places()


def test_a_page_that_did_not_change_is_not_embedded_again(models: ModelCatalog, pages: Site, tmp_path: Path) -> None:
    steps = Steps()
    with a_desk(tmp_path / "d", steps=steps, fetch_allow=pages.host) as desk:
        first = rows_of(scrape(models, desk, tmp_path, f"{pages.url}/", max_depth=0))
        computed = steps.computed
        again = rows_of(scrape(models, desk, tmp_path, f"{pages.url}/", max_depth=0))
    assert computed == steps.computed == 4  # a text, a block of code, and a picture by two models
    for one, two in zip(first, again, strict=True):
        assert all(np.array_equal(one.vectors[name], two.vectors[name]) for name in one.vectors)


def test_pictures_beyond_the_limit_of_a_page_are_told(
    models: ModelCatalog, desk: Desk, pages: Site, tmp_path: Path
) -> None:
    made = scrape(models, desk, tmp_path, f"{pages.url}/", max_depth=0, max_images_per_page=1)
    assert [(entry.what, entry.kind) for entry in dropped_of(made)] == [(f"from picture 2 of {pages.url}/ on", "url")]
    assert "max_images_per_page" in dropped_of(made)[0].reason
    assert not dropped_of(scrape(models, desk, tmp_path, f"{pages.url}/", max_depth=0, max_images_per_page=0))


def test_only_what_is_wanted_is_fetched_and_described(
    models: ModelCatalog, desk: Desk, pages: Site, tmp_path: Path
) -> None:
    off = dict.fromkeys(
        ("generate_code_embeddings", "generate_image_embeddings", "generate_structure_embeddings"), False
    )
    before = pages.paths().count("/rocket.jpg")
    rows = rows_of(scrape(models, desk, tmp_path, f"{pages.url}/", **off))
    assert {row.fields["doc_type"] for row in rows} == {"text"}
    assert pages.paths().count("/rocket.jpg") == before
    assert [index.model for index in web_scraper.describe(Params(**off), models).vectors] == [E5]


def test_a_page_made_by_scripts_is_told_where_no_browser_reads_it(
    models: ModelCatalog, desk: Desk, pages: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    made = scrape(models, desk, tmp_path, f"{pages.url}/app", render_strategy="auto")
    assert any("install Chromium" in entry.reason for entry in dropped_of(made))


def test_a_model_fills_a_shape_for_every_page(models: ModelCatalog, pages: Site, tmp_path: Path) -> None:
    shape = {"type": "object", "properties": {"topic": {"type": "string"}}, "required": ["topic"]}
    script = [lambda asked: '{"topic": "bread"}' if "Sourdough" in asked.text else '{"topic": 5}']
    with (
        LanguageServer(script) as server,
        a_desk(
            tmp_path / "d", fetch_allow=pages.host, language_url=server.url, language_key=KEY, language_model="m"
        ) as desk,
    ):
        made = scrape(models, desk, tmp_path, f"{pages.url}/", response_shape=shape, max_images_per_page=0)
    texts = [row for row in rows_of(made) if row.fields["doc_type"] == "text"]
    assert [row.fields["topic"] for row in texts] == [None, "bread"]
    (problem,) = [entry for entry in dropped_of(made) if entry.kind == "field"]
    assert "topic" in problem.reason


@pytest.mark.parametrize("url", ["", "not a url", "ftp://a.example/x", "https://", "https://[::1", "a\nb", "x" * 9000])
def test_what_is_no_address_fails_with_the_name_of_the_input(
    models: ModelCatalog, desk: Desk, tmp_path: Path, url: str
) -> None:
    with pytest.raises(ItemError, match=r"'url'|cannot be read"):
        scrape(models, desk, tmp_path, url)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"proxies": ["http://p"]}, "proxies"),
        ({"captcha_service_api_key": "k"}, "pretends"),
        ({"youtube_mode": "force"}, "youtube_mode"),
        ({"crawl_mode": "semantic"}, "crawl_goal"),
        ({"chunk_strategy": "words", "chunk_size": 5, "chunk_overlap": 5}, "chunk_overlap"),
        ({"max_pages": 501}, "max_pages"),
        ({"custom_headers": {"authorization": "Bearer x"}}, "SECRET"),
        ({"llm_api_key": "sk-1"}, "SECRET"),
    ],
)
def test_what_would_silently_not_happen_is_refused(params: dict[str, Any], said: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=said):
        Params(**params)


@pytest.mark.parametrize("params", [{"include_patterns": ["(?=x)"]}, {"custom_headers": {"host": "x"}}])
def test_patterns_and_headers_are_checked_when_they_arrive(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Params(**params)


def test_parameters_as_generated_clients_send_them_are_taken() -> None:
    sent: dict[str, Any] = dict.fromkeys(
        ("crawl_goal", "proxies", "llm_provider", "response_shape", "captcha_service_provider")
    )
    assert Params(**sent, rotate_proxy_on_error=True, detect_captcha=True, youtube_max_videos=50) == Params()


def test_secrets_in_headers_reach_the_site_and_nobody_else(models: ModelCatalog, pages: Site, tmp_path: Path) -> None:
    headers = {"authorization": "{{SECRET.token}}", "x-plain": "seen"}
    parameters = {"custom_headers": headers, "header_hosts": [pages.host]}
    allowed = f"{pages.host},127.0.0.1"
    with a_desk(tmp_path / "d", parameters, fetch_allow=allowed) as desk, a_site() as other:
        other.html("/bread", BREAD)
        scrape(models, desk, tmp_path, f"{pages.url}/bread", **parameters, max_depth=0)
        assert pages.asked[-1].headers["authorization"] == "hush-hush"
        assert pages.asked[-1].headers["x-plain"] == "seen"
        found = scrape(models, desk, tmp_path, f"{other.url}/bread", **parameters, max_depth=0)
        assert all("authorization" not in asked.headers for asked in other.asked)
        assert other.asked[-1].headers["x-plain"] == "seen"
    told = [(each.kind, each.reason) for each in dropped_of(found)]
    assert ("warning", "authorization of custom_headers was not sent: header_hosts does not name this host") in told
    assert [row.fields["page_url"] for row in rows_of(found)] == [f"{other.url}/bread"]


def test_a_secret_without_hosts_is_refused_and_hosts_are_checked() -> None:
    headers = {"x-token": "{{SECRET.token}}", "accept-language": "de"}
    with pytest.raises(pydantic.ValidationError, match=r"header_hosts is needed where custom_headers \('x-token'\)"):
        Params(custom_headers=headers)
    assert Params(custom_headers={"accept-language": "de"}).header_hosts == []
    assert Params(custom_headers=headers, header_hosts=["Shop.Example"]).header_hosts == ["shop.example"]
    for bad in (["https://shop.example"], ["*"], ["shop.example/x"], [""], ["a.example"] * 51):
        with pytest.raises(pydantic.ValidationError, match="header_hosts"):
            Params(custom_headers=headers, header_hosts=bad)


def test_describing_says_what_the_installation_must_have(models: ModelCatalog) -> None:
    assert web_scraper.describe(Params(render_strategy="javascript"), models).needs == {"browser"}
    shaped = Params(response_shape={"properties": {"topic": {"type": "string"}}})
    assert web_scraper.describe(shaped, models).needs == {"language"}
    assert web_scraper.describe(shaped, models).fields["topic"] == {"type": "string"}
    taken = Params(response_shape={"properties": {"title": {"type": "string"}}})
    with pytest.raises(ValidationError, match="already a field"):
        web_scraper.describe(taken, models)
