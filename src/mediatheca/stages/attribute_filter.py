"""The `attribute_filter` stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field, PrivateAttr, model_validator

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.filters import Filter, document_view, parse_filter
from mediatheca.kernel.search import Hit
from mediatheca.stages import CollectionView, StageContext, stage
from mediatheca.stages._templates import Templates, per_document, render_tree

SCROLL_LIMIT = 1000
"""Documents of one collection that the stage takes when it starts a pipeline."""
_LEAF = ("field", "operator", "value")
_OPTIONS = ("batch_size", "case_insensitive", "case_sensitive", "natural_language")


class Params(BaseModel):
    conditions: Any = Field(None, description="A filter tree; or give field, operator and value.")
    batch_size: int = Field(100, ge=1, le=1000)
    case_insensitive: bool = Field(False, description="Compare texts without regard to case.")
    document_templates: Templates = frozenset()
    _filter: Filter | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _parse(self) -> Params:
        """Conditions that mention `DOC` are parsed for each document."""
        if not self.document_templates:
            self._filter = self.parse(self.conditions)
        return self

    def parse(self, tree: Any) -> Filter | None:
        return parse_filter(tree, case_sensitive=not self.case_insensitive, path="conditions")


def _prepare(raw: dict[str, Any], collections: Sequence[CollectionView]) -> dict[str, Any]:
    made = _conditions(raw)
    return {**made, "document_templates": per_document(made["conditions"], ("conditions",))}


def _conditions(raw: dict[str, Any]) -> dict[str, Any]:
    """Every spelling becomes `conditions`: field/operator/value, a tree at the top level, `filters`, `filter`."""
    if raw.get("natural_language"):
        message = "needs a language model, and none is configured; give conditions instead"
        raise ValidationError.at("natural_language", message, "not_enabled")
    options = {key: raw[key] for key in _OPTIONS if key in raw and key != "natural_language"}
    if "case_sensitive" in options:
        options.setdefault("case_insensitive", not options.pop("case_sensitive"))
    for key in ("conditions", "filters", "filter"):
        if raw.get(key) is not None:
            return {**options, "conditions": raw[key]}
    tree = {key: value for key, value in raw.items() if key not in _OPTIONS and value is not None}
    if not tree:
        raise ValidationError.at("conditions", "is required: a filter tree, or field, operator and value", "missing")
    if "value" in tree and "field" not in tree:
        tree = {"field": "metadata.status", **tree}
    return {**options, "conditions": tree}


def _as_filter(params: Params) -> Filter | None:
    return params._filter


@stage(
    "attribute_filter",
    kind="filter",
    params=Params,
    icon="filter",
    starts=True,
    aliases=("structured_filter", "filter"),
    example={"field": "category", "operator": "eq", "value": "{{INPUT.category}}"},
    hard_timeout_ms=5000,
    prepare=_prepare,
    as_filter=_as_filter,
)
async def attribute_filter(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Keep the documents that match a filter, in their order.

    As the first stage it lists matching documents of every collection, without scores, up to 1,000 a collection;
    before a search it narrows that search.
    """
    if hits:
        return [hit for hit in hits if _keeps(params, hit, ctx)]
    if params.document_templates:
        raise ValidationError.at(
            "conditions", "DOC is not known before there are documents; use INPUT, or search first"
        )
    return await _scroll(ctx)


def _keeps(params: Params, hit: Hit, ctx: StageContext) -> bool:
    wanted = params._filter
    if params.document_templates:
        tree = render_tree(params.conditions, params.document_templates, lambda source: ctx.render(source, hit))
        wanted = params.parse(tree)
    view = document_view(hit.payload, hit.document_id, hit.collection_id, hit.system, hit.score)
    return wanted is None or wanted.matches(view)


async def _scroll(ctx: StageContext) -> list[Hit]:
    found: list[Hit] = []
    for view in ctx.collections:
        page = await ctx.scroll(view.collection_id, ctx.filter, SCROLL_LIMIT + 1)
        if len(page) > SCROLL_LIMIT:
            total = await ctx.count(view.collection_id, ctx.filter)
            ctx.limit("scroll", total, SCROLL_LIMIT)
        found.extend(page[:SCROLL_LIMIT])
    return found
