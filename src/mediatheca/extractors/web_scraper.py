"""Web sites: the pages behind an address, visited politely, as texts, code and pictures that can be searched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import numpy as np
from pydantic import AfterValidator, Field, field_validator, model_validator

from mediatheca.extractors import Description, Dropped, Extract, ExtractContext, Extractor, Item, ItemError, Row, Source
from mediatheca.extractors._crawl import Crawl, Rank, Render, Rules, Visited
from mediatheca.extractors._crawl_fetch import Retries
from mediatheca.extractors._crawl_urls import is_address, spelled_out
from mediatheca.extractors._html import need_page_reader, warm_up
from mediatheca.extractors._llm import answer, needs, shape_fields
from mediatheca.extractors._outputs import MODEL_NAME, Positions, sources, vector_index, without_nulls
from mediatheca.extractors._splitting import SplitBy
from mediatheca.extractors._web_documents import Cutting, Embedders, IdStrategy, PageDocuments, Places
from mediatheca.extractors._web_wire import WireParams
from mediatheca.kernel.documents import VectorIndex
from mediatheca.kernel.filter_checks import compile_regex
from mediatheca.kernel.header_hosts import MAX_HOST, MAX_HOSTS, checked_host
from mediatheca.kernel.http_headers import check_headers
from mediatheca.kernel.models import Models, TextEmbedder
from mediatheca.kernel.secret_reference import secret_name
from mediatheca.kernel.web_page import Link

_CODE = "jina_embeddings_v2_base_code"
_STRUCTURE = "facebook_dinov2_base_v1"
_PATTERN_PLACE = "feature_extractor.parameters"


def _patterns(given: list[str]) -> list[str]:
    for pattern in given:
        compile_regex(pattern, f"{_PATTERN_PLACE}.include_patterns", case_sensitive=True)
    return given


def _plain_headers(given: dict[str, str]) -> dict[str, str]:
    check_headers({name: "secret" if secret_name(value) else value for name, value in given.items()})
    for name in given:
        if name.lower() in ("authorization", "cookie") and secret_name(given[name]) is None:
            raise ValueError(f"'{name}' must refer to a stored secret, '{{{{SECRET.name}}}}': parameters are shown")
    return given


Patterns = Annotated[list[Annotated[str, Field(max_length=1000)]], Field(max_length=50), AfterValidator(_patterns)]


class Params(WireParams):
    """Parameters of `web_scraper`."""

    extractor_type: Literal["web_scraper"] = "web_scraper"
    max_depth: int = Field(2, ge=0, le=10, description="How many links away from the first page.")
    max_pages: int = Field(50, ge=1, le=500, description="Pages of one crawl.")
    crawl_timeout: int = Field(
        300, ge=10, le=3600, description="Seconds for all of it; what was read until then stays."
    )
    crawl_mode: Literal["deterministic", "semantic"] = Field(
        "deterministic", description="deterministic: level by level; semantic: links that fit crawl_goal first."
    )
    crawl_goal: str | None = Field(None, max_length=2000, description="What is looked for, with crawl_mode semantic.")
    render_strategy: Render = Field(
        "auto",
        description="static: as the server sends pages; javascript: after their scripts ran, in Chromium; auto: in "
        "Chromium where a page is empty without, if there is one.",
    )
    include_patterns: Patterns = Field([], description="Follow only addresses in which one of these is found (RE2).")
    exclude_patterns: Patterns = Field([], description="Follow no address in which one of these is found (RE2).")
    same_domain_only: bool = Field(True, description="Stay on the site of the first page.")
    use_sitemap: bool = Field(False, description="Visit what the sitemaps list that robots.txt names, too.")
    respect_robots: bool = Field(True, description="Keep to robots.txt, its crawl-delay, and to noindex and nofollow.")
    chunk_strategy: Literal["none", "sentences", "paragraphs", "words", "characters"] = "none"
    chunk_size: int = Field(500, ge=1, le=10_000, description="In units of chunk_strategy.")
    chunk_overlap: int = Field(50, ge=0, le=5_000, description="Units repeated from the chunk before.")
    document_id_strategy: IdStrategy = Field(
        "url",
        description="What makes a document the same one next time: its page, its place in the crawl, its content.",
    )
    generate_text_embeddings: bool = True
    generate_code_embeddings: bool = Field(True, description="A document for every code block.")
    generate_image_embeddings: bool = Field(True, description="A document for each of a page's first pictures.")
    generate_structure_embeddings: bool = Field(True, description="Pictures also by what they look like alone.")
    max_images_per_page: int = Field(10, ge=0, le=100)
    embedding_model: str = Field("multilingual_e5_large_instruct_v1", pattern=MODEL_NAME, max_length=200)
    image_model: str = Field("google_siglip_base_v1", pattern=MODEL_NAME, max_length=200)
    max_retries: int = Field(3, ge=0, le=10)
    retry_base_delay: float = Field(1.0, ge=0.0, le=30.0, description="Seconds; twice as long after each attempt.")
    retry_max_delay: float = Field(30.0, ge=0.0, le=300.0, description="Longer than this no page is waited for.")
    respect_retry_after: bool = True
    delay_between_requests: float = Field(
        0.0,
        ge=0.0,
        le=60.0,
        description="Seconds between requests to one host; a crawl-delay of robots.txt counts too.",
    )
    custom_headers: Annotated[dict[str, str], AfterValidator(_plain_headers)] = Field(
        {}, description="To the site of the given address only. Values may be '{{SECRET.name}}', with header_hosts."
    )
    header_hosts: Annotated[
        list[Annotated[str, Field(max_length=MAX_HOST), AfterValidator(checked_host)]], Field(max_length=MAX_HOSTS)
    ] = Field(
        [],
        description="Hosts (shop.example, shop.example:8443) that headers with secrets are sent to, and no other: "
        "an object may hold any address.",
    )

    _cleaned = model_validator(mode="before")(without_nulls)

    @field_validator("crawl_goal")
    @classmethod
    def _goal_says_something(cls, goal: str | None) -> str | None:
        return goal.strip() or None if goal else None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.crawl_mode == "semantic" and not self.crawl_goal:
            raise ValueError("crawl_goal is needed for crawl_mode 'semantic': say what is looked for")
        if self.chunk_strategy != "none" and self.chunk_overlap >= self.chunk_size:
            raise ValueError(
                f"chunk_overlap ({self.chunk_overlap}) must be smaller than chunk_size ({self.chunk_size})"
            )
        secret = next((name for name, value in self.custom_headers.items() if secret_name(value)), None)
        if secret is not None and not self.header_hosts:
            raise ValueError(
                f"header_hosts is needed where custom_headers ('{secret[:60]}') name a secret: list the hosts that may "
                "get it, such as shop.example; objects may hold addresses of other sites"
            )
        return self


def describe(params: Params, models: Models) -> Description:
    """A vector index for each kind of document that is embedded; what a page says as fields."""
    need_page_reader("web_scraper")
    indexes = tuple(_indexes(params, models))
    fields: dict[str, dict[str, Any]] = {
        "content": {"type": "text", "description": "Of a page or a chunk of it, a code block, or a picture's caption."},
        "doc_type": {"type": "string", "enum": ["text", "code", "image"]},
        "title": {"type": "string"},
        "description": {"type": "string"},
        "language": {"type": "string", "description": "As the page says."},
        "page_url": {"type": "string", "description": "Where the page really is."},
        "parent_url": {"type": "string", "description": "The page that links to it."},
        "crawl_depth": {"type": "integer", "description": "Links away from the first page."},
        "rendered": {"type": "boolean", "description": "Read after its JavaScript ran."},
        "chunk_index": {"type": "integer", "description": "From 0."},
        "total_chunks": {"type": "integer"},
        "code_blocks": {"type": "array", "description": "language, code, lines; of the first chunk."},
        "images": {"type": "array", "description": "src, alt; of the first chunk."},
        "asset_links": {"type": "array", "description": "Links to files that are no pages; of the first chunk."},
        "code_language": {"type": "string"},
        "image_url": {"type": "string"},
        "width": {"type": "integer"},
        "height": {"type": "integer"},
        "thumbnail_url": {"type": "string"},
    }
    fields |= shape_fields(params, taken=fields)
    wanted = needs(params, params.response_shape is not None)
    return Description(
        indexes,
        fields,
        optional=frozenset(index.model for index in indexes),
        texts={params.embedding_model: "content"} if params.generate_text_embeddings else {},
        needs=wanted | ({"browser"} if params.render_strategy == "javascript" else frozenset()),
    )


def _indexes(params: Params, models: Models) -> Iterator[VectorIndex]:
    for wanted, name, modality in (
        (params.generate_text_embeddings, params.embedding_model, "text"),
        (params.generate_code_embeddings, _CODE, "text"),
        (params.generate_image_embeddings, params.image_model, "image"),
        (params.generate_structure_embeddings, _STRUCTURE, "image"),
    ):
        if wanted:
            yield vector_index("web_scraper", "v1", models.info(name), modality)


def open_extractor(params: Params, context: ExtractContext) -> Extract:
    """Loads the models and what reads pages; the returned function crawls."""
    warm_up()
    models = context.models
    embedders = Embedders(
        text=models.text(params.embedding_model) if params.generate_text_embeddings else None,
        code=models.text(_CODE) if params.generate_code_embeddings else None,
        image=models.image(params.image_model) if params.generate_image_embeddings else None,
        structure=models.image(_STRUCTURE) if params.generate_structure_embeddings else None,
    )
    rank = _ranked(models.text(params.embedding_model), params.crawl_goal or "") if _semantic(params) else None
    rules = _rules(params)
    split_by: SplitBy = params.chunk_strategy
    cutting = Cutting(split_by, params.chunk_size, params.chunk_overlap)

    def extract(item: Item) -> Iterable[Row | Dropped]:
        positions = Positions()
        for source in sources(item.inputs.get("url"), "url"):
            crawl = Crawl(context.desk, rules, context.beat, rank)
            pages = PageDocuments(embedders, cutting, context, crawl.file)
            places = Places(params.document_id_strategy, source.key, positions)
            for found in crawl.visit(_address(source)):
                if isinstance(found, Dropped):
                    yield found
                else:
                    yield from _documents(found, places, pages, params, context)

    return extract


def _documents(
    visited: Visited, places: Places, pages: PageDocuments, params: Params, context: ExtractContext
) -> Iterator[Row | Dropped]:
    more: dict[str, Any] = {}
    if params.response_shape is not None:
        more, problem = answer(context.desk, params, [visited.page.title, visited.page.text])
        if problem:
            yield Dropped("response_shape", f"{visited.url}: {problem}", places.key, kind="field")
    if not visited.page.text.strip() and not visited.page.images and not visited.page.code_blocks:
        yield Dropped(visited.url, "the page has no text, no code and no pictures", places.key, kind="url")
        return
    yield from pages.texts(visited, places, more)
    yield from pages.code(visited, places)
    yield from pages.pictures(visited, places, params.max_images_per_page)


def _address(source: Source) -> str:
    """The address that an input holds.

    Raises:
        ItemError: it is none.
    """
    url = spelled_out(source.text())
    if not is_address(url) or len(url) > 8000 or "\n" in url:
        raise ItemError(f"'{source.key}' must be an address that begins with https://, got '{url[:100]}'")
    return url


def _rules(params: Params) -> Rules:
    def compiled(patterns: Sequence[str], name: str) -> list[Any]:
        return [compile_regex(each, f"{_PATTERN_PLACE}.{name}", case_sensitive=True) for each in patterns]

    return Rules(
        depth=params.max_depth,
        pages=params.max_pages,
        seconds=float(params.crawl_timeout),
        include=compiled(params.include_patterns, "include_patterns"),
        exclude=compiled(params.exclude_patterns, "exclude_patterns"),
        same_site=params.same_domain_only,
        delay_s=params.delay_between_requests,
        robots=params.respect_robots,
        sitemap=params.use_sitemap,
        render=params.render_strategy,
        headers=params.custom_headers,
        header_hosts=params.header_hosts,
        retries=Retries(
            params.max_retries, params.retry_base_delay, params.retry_max_delay, params.respect_retry_after
        ),
    )


def _semantic(params: Params) -> bool:
    return params.crawl_mode == "semantic"


def _ranked(model: TextEmbedder, goal: str) -> Rank:
    """Links by how near what they are called, and their path, is to the goal."""
    wanted = model.embed_texts([goal], query=True)[0]

    def rank(links: Sequence[Link]) -> Sequence[float]:
        if not links:
            return []
        words = [f"{link.text} {_words(link.url)}".strip() or "page" for link in links]
        scores: list[float] = (np.asarray(model.embed_texts(words, query=False)) @ wanted).tolist()
        return scores

    return rank


def _words(url: str) -> str:
    path = urlsplit(url).path
    return " ".join("".join(char if char.isalnum() else " " for char in path).split())[:300]


web_scraper: Extractor = Extractor(
    name="web_scraper",
    version="v1",
    description="Visits the pages behind an address: a document for every page or chunk, code block and picture.",
    params=Params,
    inputs={"url": ("string", "text")},
    describe=describe,
    open=open_extractor,
    required=frozenset({"url"}),
    reads=frozenset(),
    weight=50,
    category="web",
    position_fields=("page_url", "chunk_index"),
    icon="globe",
    example={
        "input_mappings": {"url": "website"},
        "parameters": {
            "max_depth": 1,
            "max_pages": 20,
            "chunk_strategy": "sentences",
            "chunk_size": 10,
            "chunk_overlap": 1,
        },
    },
)
