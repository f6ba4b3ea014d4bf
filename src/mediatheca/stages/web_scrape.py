"""The `web_scrape` stage."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from mediatheca.kernel.errors import BadRequestError, MediathecaError, ValidationError
from mediatheca.kernel.hits import write_field
from mediatheca.kernel.ordering import read_field
from mediatheca.kernel.search import Hit
from mediatheca.kernel.templates import is_template
from mediatheca.stages import CollectionView, FilterParam, Need, StageContext, stage
from mediatheca.stages._fields import FieldPath, OutputField, rename
from mediatheca.stages._outside import OnError, ask, attempt, chosen, settle
from mediatheca.stages._robots import Robots
from mediatheca.stages._scraping import Crawl, Scraper, check_patterns
from mediatheca.stages._templates import Templates, per_document

AT_ONCE = 5
SHORT = "they may need JavaScript, which only a browser runs (none is installed, or it made no difference)"


class Patterns(BaseModel):
    """Which links are followed: patterns with `*`."""

    include: list[str] = []
    exclude: list[str] = []


class Params(BaseModel):
    url: str | None = Field(None, description="One page for all documents; as a first stage it becomes a document.")
    url_field: FieldPath = Field("metadata.url", description="The field of each document that holds its address.")
    output_field: OutputField = "web_content"
    strategy: Literal["static", "javascript", "auto"] = Field(
        "auto",
        description="static: as the server sends pages; javascript: after their scripts ran, in Chromium; auto: in "
        "Chromium where a page is short without, if there is one.",
    )
    timeout: float = Field(10, ge=1, le=60, description="Seconds for one page.")
    include_html: bool = False
    min_content_length: int = Field(500, ge=0, le=1_000_000, description="Below it a page is reported as short.")
    when: FilterParam = None
    on_error: OnError = Field(
        "skip", description="skip: the field says what went wrong; remove the document, or raise."
    )
    batch_size: int = Field(AT_ONCE, ge=1, le=20, description="Pages fetched at the same time.")
    max_depth: int = Field(0, ge=0, le=5, description="How many links away from the page.")
    max_pages: int = Field(10, ge=1, le=100, description="Pages of one crawl.")
    same_domain_only: bool = True
    url_patterns: Patterns = Patterns()
    delay_between_requests: float = Field(0.5, ge=0, le=5, description="Seconds between requests to one host.")
    respect_robots: bool = Field(True, description="Read only what robots.txt of the site allows.")
    document_templates: Templates = frozenset()


def _prepare(raw: dict[str, Any], collections: Sequence[CollectionView]) -> dict[str, Any]:
    made = dict(raw)
    for older in ("result_field", "scraped_content"):
        rename(made, "output_field", older)
    milliseconds = made.pop("timeout_ms", None)
    if isinstance(milliseconds, int | float):
        made.setdefault("timeout", min(60.0, max(1.0, milliseconds / 1000)))
    if made.get("url") is not None and made.get("url_field") is not None:
        raise ValidationError.at("url", "give one of url and url_field", "exclusive")
    if made.get("url_patterns") is not None:
        check_patterns(made["url_patterns"])
    if (
        isinstance(made.get("url"), str)
        and not is_template(made["url"])
        and not made["url"].startswith(("http://", "https://"))
    ):
        raise ValidationError.at("url", "must begin with https://", "url")
    return {**made, "document_templates": per_document(made.get("url"), ("url",))}


@stage(
    "web_scrape",
    kind="apply",
    params=Params,
    use_cases=("Read the page a document links to", "Bring fresh page text into a pipeline"),
    icon="globe",
    cost_tier="expensive",
    starts=True,
    aliases=("web_lookup",),
    hard_timeout_ms=60_000,
    needs=(Need("pages"), Need("browser", given="strategy", value="javascript")),
    example={"url_field": "metadata.url", "output_field": "web_content"},
    prepare=_prepare,
)
async def web_scrape(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Read the web page of every document and keep its main text, title and metadata in a field.

    Public addresses only, over https, as far as robots.txt allows. With max_depth links are followed, and `pages` holds
    what they lead to. As a first stage with `url` the page becomes a document. Where a
    page is short without its JavaScript, Chromium runs that, if it is installed.
    """
    if not hits:
        return await _started(params, ctx)
    asked = chosen(hits, params.when, ctx)
    if not asked:
        return hits
    scraper = _scraper(params, ctx)
    requests = [(hit, attempt(lambda each: _url(each, params, ctx), hit)) for hit in asked]
    outcomes = await ask(requests, scraper.scrape, at_once=params.batch_size, on_error=params.on_error)
    _report_short(list(outcomes.values.values()), params, ctx)
    if params.on_error == "skip":
        for hit in asked:
            error = outcomes.errors.get(id(hit))
            if error is not None:
                write_field(hit, params.output_field, _failed(error))
    return settle(hits, asked, outcomes, lambda hit, v: write_field(hit, params.output_field, v), params.on_error, ctx)


def _scraper(params: Params, ctx: StageContext) -> Scraper:
    crawl = Crawl(
        depth=params.max_depth,
        pages=params.max_pages,
        same_domain=params.same_domain_only,
        include=params.url_patterns.include,
        exclude=params.url_patterns.exclude,
        delay_s=params.delay_between_requests,
        timeout_s=params.timeout,
        html=params.include_html,
        strategy=params.strategy,
        short=params.min_content_length,
    )
    return Scraper(ctx.outside, crawl, Robots(ctx.outside.http) if params.respect_robots else None)


def _url(hit: Hit, params: Params, ctx: StageContext) -> str:
    if params.url is None:
        found = read_field(hit, params.url_field)
    else:
        found = ctx.render(params.url, hit) if params.url in params.document_templates else params.url
    if not isinstance(found, str) or not found.strip():
        what = f"has no address in '{params.url_field}'" if params.url is None else "gets no address from url"
        raise BadRequestError(f"the document {what}")
    return found.strip()


async def _started(params: Params, ctx: StageContext) -> list[Hit]:
    """The page as a document, where there are none to begin with."""
    if params.url is None or params.document_templates:
        return []
    try:
        page = await _scraper(params, ctx).scrape(params.url)
    except MediathecaError as error:
        if params.on_error == "raise":
            raise
        ctx.degrade(error.message, "check the address; on_error: raise makes it an error")
        return []
    _report_short([page], params, ctx)
    ident = hashlib.blake2b(params.url.encode("utf-8", "replace"), digest_size=10).hexdigest()
    payload = {"url": page["final_url"], "title": page["title"], "content": page["text"], params.output_field: page}
    hit = Hit(f"web_{ident}", "", 1.0, {}, {})
    for name, value in payload.items():
        write_field(hit, name, value)
    return [hit]


def _report_short(pages: Sequence[dict[str, Any]], params: Params, ctx: StageContext) -> None:
    short = [page for page in pages if len(page["text"]) < params.min_content_length]
    if short and params.strategy == "auto":
        ctx.metadata["short_pages"] = len(short)
        ctx.warn(f"{len(short)} pages have less than {params.min_content_length} characters: {SHORT}")


def _failed(error: MediathecaError) -> dict[str, Any]:
    return {"status": "error", "error": error.message}
