"""The `api_call` stage."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal

import orjson
from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema

from mediatheca.kernel.errors import BadRequestError, ValidationError
from mediatheca.kernel.hits import write_field
from mediatheca.kernel.outside import HttpAnswer, HttpRequest
from mediatheca.kernel.search import Hit
from mediatheca.kernel.templates import is_template
from mediatheca.stages import CollectionView, FilterParam, StageContext, stage
from mediatheca.stages._call_request import (
    Auth,
    authorized,
    body_bytes,
    check_domains,
    check_fixed_host,
    check_path,
    header_texts,
    with_secret,
)
from mediatheca.stages._fields import OutputField, given, rename, require
from mediatheca.stages._json_path import check_json_path, picked
from mediatheca.stages._outside import OnError, ask, attempt, chosen, settle
from mediatheca.stages._single_braces import doubled, warn_if_doubled
from mediatheca.stages._templates import Templates, per_document, render_tree

AT_ONCE = 10
_WHAT = "the address to call, https://host/…"


class RateLimit(BaseModel):
    """Requests to one host, by all executions of the organization on this server."""

    requests_per_minute: int = Field(0, ge=0, le=100_000, description="0: no limit.")
    requests_per_hour: int = Field(0, ge=0, le=1_000_000, description="0: no limit.")


class Params(BaseModel):
    url: str | None = Field(None, description="Address; scheme and host are fixed, path and query may have templates.")
    allowed_domains: list[str] = Field([], description="Hosts that may be called: api.example.com, *.example.com.")
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    auth: Auth | None = None
    headers: dict[str, Any] = {}
    body: Any = Field(None, description="A JSON value, or a text; sent as it is rendered.")
    output_field: OutputField = "api_response"
    timeout: float = Field(10, ge=1, le=60, description="Seconds for one call.")
    max_response_size: int = Field(10 << 20, ge=1, le=64 << 20, description="Bytes.")
    response_path: str | None = Field(None, description="JSONPath of the part to keep.")
    rate_limit: RateLimit = RateLimit()
    when: FilterParam = None
    on_error: OnError = Field("skip", description="For a document whose call fails: skip it, remove it, or raise.")
    document_templates: Templates = frozenset()
    single_braces: SkipJsonSchema[bool] = False


def _prepare(raw: dict[str, Any], collections: Sequence[CollectionView]) -> dict[str, Any]:
    made: dict[str, Any] = doubled(raw)
    rename(made, "output_field", "result_field")
    require(made, "url", what=_WHAT)
    host = check_fixed_host(made["url"])
    check_domains(made.get("allowed_domains"), host.lower())
    if isinstance(made.get("method"), str):
        made["method"] = made["method"].upper()
    if made.get("response_path") is not None:
        if is_template(made["response_path"]):
            raise ValidationError.at("response_path", "cannot be a template", "template")
        check_json_path(made["response_path"])
    if made.get("auth") is not None:
        made["auth"] = with_secret(made["auth"])
    parts = {name: made.get(name) for name in ("url", "headers", "body")}
    return {**made, "document_templates": per_document(parts, ()), "single_braces": doubled(raw) != raw}


@stage(
    "api_call",
    kind="apply",
    params=Params,
    use_cases=("Look up live prices or stock", "Enrich documents from another service"),
    icon="plug",
    cost_tier="expensive",
    aliases=("external_api_call",),
    hard_timeout_ms=60_000,
    example={
        "url": "https://api.example.com/v1/products/{{DOC.sku | urlencode}}",
        "allowed_domains": ["api.example.com"],
        "auth": {"type": "bearer", "secret_ref": "shop_key"},
        "response_path": "$.price",
        "output_field": "live_price",
    },
    prepare=_prepare,
)
async def api_call(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Call an HTTP API for every document and keep its answer in a field.

    Equal requests are sent once; ten go at the same time. Only the hosts in allowed_domains are called, over https,
    never private addresses; credentials come from secrets. A status of 400 or more is a failure, see on_error.
    """
    warn_if_doubled(params.single_braces, ctx)
    asked = chosen(hits, params.when, ctx)
    if not asked:
        return hits
    requests = [(hit, attempt(lambda each: _request(each, params, ctx), hit)) for hit in asked]

    async def call(request: dict[str, Any]) -> Any:
        answer = await ctx.outside.http.send(_http(request, params))
        return await asyncio.to_thread(_value, answer, params.response_path)

    outcomes = await ask(requests, call, at_once=AT_ONCE, on_error=params.on_error)
    return settle(hits, asked, outcomes, lambda hit, v: write_field(hit, params.output_field, v), params.on_error, ctx)


def _request(hit: Hit, params: Params, ctx: StageContext) -> dict[str, Any]:
    """What is sent for a document."""

    def render(tree: Any) -> Any:
        return render_tree(tree, params.document_templates, lambda source: ctx.render(source, hit))

    url = check_path(str(render(given(params.url, "url", _WHAT))))
    headers = header_texts(params.headers, render)
    url, headers = authorized(params.auth, url, headers)
    body = render(params.body)
    return {"url": url, "headers": headers, "body": body}


def _http(request: dict[str, Any], params: Params) -> HttpRequest:
    headers = {"accept": "application/json, */*;q=0.5", **request["headers"]}
    data = body_bytes(request["body"], headers)
    return HttpRequest(
        url=request["url"],
        method=params.method,
        headers=headers,
        body=data,
        timeout_s=params.timeout,
        max_bytes=params.max_response_size,
        allowed_domains=params.allowed_domains,
        per_minute=params.rate_limit.requests_per_minute,
        per_hour=params.rate_limit.requests_per_hour,
    )


def _value(answer: HttpAnswer, path: str | None) -> Any:
    """What a document keeps of an answer: its JSON, or its text."""
    if answer.status >= 400:
        raise BadRequestError(f"the call was answered with status {answer.status}")
    if not answer.data:
        return None
    try:
        data = orjson.loads(answer.data)
    except orjson.JSONDecodeError:
        if path is not None or "json" in answer.content_type:
            raise BadRequestError("the call was answered with something that is not JSON") from None
        return answer.data.decode("utf-8", "replace")
    return data if path is None else picked(data, path)
