"""The `external_reverse_image` stage."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from mediatheca.kernel.errors import BadRequestError, NotEnabledError, ValidationError
from mediatheca.kernel.outside import WebResult
from mediatheca.kernel.search import Hit
from mediatheca.kernel.templates import is_template
from mediatheca.stages import CollectionView, Need, StageContext, stage

_DEFAULT = "{{INPUT.image_url}}"


class Params(BaseModel):
    image_url: str | None = Field(None, description="Public address of the picture; default: {{INPUT.image_url}}.")
    provider: Literal["serpapi"] = "serpapi"
    engine: Literal["google_lens", "google_reverse_image"] = "google_lens"
    top_k: int = Field(20, ge=1, le=100)


def _prepare(raw: dict[str, Any], collections: Sequence[CollectionView]) -> dict[str, Any]:
    made = {"image_url": _DEFAULT, **raw}
    provider = made.get("provider", "serpapi")
    if isinstance(provider, str) and not is_template(provider) and provider != "serpapi":
        raise NotEnabledError(f"provider: '{provider[:40]}' is not available; serpapi is")
    return made


@stage(
    "external_reverse_image",
    kind="apply",
    params=Params,
    use_cases=("Find where a picture appears on the web", "Check the origin of a picture"),
    icon="image",
    cost_tier="expensive",
    starts=True,
    hard_timeout_ms=30_000,
    needs=(Need("image_search"),),
    example={"image_url": "{{INPUT.image_url}}", "top_k": 10},
    prepare=_prepare,
)
async def external_reverse_image(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Find where a picture stands on the web, and append the pages as documents.

    One call to the service that the operator configured. The address must be one that the service can read: it is
    sent to it. No match is no failure.
    """
    url = (params.image_url or "").strip()
    if not url:
        ctx.warn("no image_url was given; nothing was searched for")
        return hits
    if not url.startswith(("http://", "https://")) or len(url) > 4096:
        message = "must be a public http(s) address: the search service reads the picture from there"
        raise ValidationError.at("image_url", message, "url")
    try:
        found = await ctx.outside.web.similar_images(url, limit=params.top_k, engine=params.engine)
    except BadRequestError as error:
        ctx.degrade(error.message, "try again later; the documents are complete without web results")
        return hits
    ctx.metadata["web_results"] = len(found)
    return [*hits, *(_document(rank, page, params) for rank, page in enumerate(found, 1))]


def _document(rank: int, page: WebResult, params: Params) -> Hit:
    ident = hashlib.blake2b(page.url.encode("utf-8", "replace"), digest_size=10).hexdigest()
    payload = {
        "url": page.url,
        "title": page.title,
        "content": page.text,
        "metadata": {
            "source": "web",
            "provider": params.provider,
            "engine": params.engine,
            "title": page.title,
            "link": page.url,
            "source_name": page.source,
            "thumbnail": page.thumbnail,
            "rank": rank,
        },
    }
    return Hit(f"web_{ident}", "", 1.0 / rank, payload, {})
