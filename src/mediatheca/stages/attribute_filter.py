"""The `attribute_filter` stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field, PrivateAttr, model_validator

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.filters import Filter, document_view, parse_filter
from mediatheca.kernel.search import Hit
from mediatheca.stages import CollectionView, Need, StageContext, stage
from mediatheca.stages._search_language import HARD_TIMEOUT_MS, spoken_filter
from mediatheca.stages._templates import Templates, per_document, render_tree

SCROLL_LIMIT = 1000
"""Documents of one collection that the stage takes when it starts a pipeline."""
_OPTIONS = (
    *("batch_size", "case_insensitive", "case_sensitive"),
    *("natural_language", "field_hints", "hard_timeout_ms"),
)


class Params(BaseModel):
    conditions: Any = Field(None, description="A filter tree; or give field, operator and value.")
    batch_size: int = Field(100, ge=1, le=1000)
    case_insensitive: bool = Field(False, description="Compare texts without regard to case.")
    natural_language: str | None = Field(
        None, max_length=2000, description="The condition in words, where no conditions are given."
    )
    field_hints: list[str] = Field([], max_length=50, description="The fields that the condition in words is about.")
    hard_timeout_ms: int | None = Field(None, ge=1, description="Time after which the stage gives up.")
    document_templates: Templates = frozenset()
    _filter: Filter | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _parse(self) -> Params:
        """Conditions that mention `DOC` are parsed for each document."""
        if self.natural_language and self.hard_timeout_ms is None:
            self.hard_timeout_ms = HARD_TIMEOUT_MS
        if not self.document_templates:
            self._filter = self.parse(self.conditions)
        return self

    def parse(self, tree: Any) -> Filter | None:
        return parse_filter(tree, case_sensitive=not self.case_insensitive, path="conditions")


def _prepare(raw: dict[str, Any], collections: Sequence[CollectionView]) -> dict[str, Any]:
    made = _conditions(raw)
    return {**made, "document_templates": per_document(made["conditions"], ("conditions",))}


def _conditions(raw: dict[str, Any]) -> dict[str, Any]:
    """Every spelling becomes `conditions`: field/operator/value, a tree at the top level, `filters`, `filter`.

    A condition in words stands behind conditions, and before a single field.
    """
    options = {key: raw[key] for key in _OPTIONS if raw.get(key) is not None}
    spoken = options.pop("natural_language", None)
    if "case_sensitive" in options:
        options.setdefault("case_insensitive", not options.pop("case_sensitive"))
    for key in ("conditions", "filters", "filter"):
        if raw.get(key) is not None:
            return {**options, "conditions": raw[key]}
    if spoken:
        if per_document(spoken, ("natural_language",)):
            raise ValidationError.at("natural_language", "DOC is not known here; use INPUT", "template")
        return {**options, "natural_language": spoken, "conditions": None}
    tree = {key: value for key, value in raw.items() if key not in _OPTIONS and value is not None}
    if not tree:
        raise ValidationError.at("conditions", "is required: a filter tree, or field, operator and value", "missing")
    if "value" in tree and "field" not in tree:
        tree = {"field": "metadata.status", **tree}
    return {**options, "conditions": tree}


async def _as_filter(params: Params, ctx: StageContext) -> Filter | None:
    return params._filter or await spoken_filter(params.natural_language, ctx, params.field_hints)


@stage(
    "attribute_filter",
    kind="filter",
    params=Params,
    use_cases=("Keep documents of a category, price range or date", "Narrow a search to what a user may choose"),
    icon="filter",
    starts=True,
    aliases=("structured_filter", "filter"),
    example={"field": "category", "operator": "eq", "value": "{{INPUT.category}}"},
    hard_timeout_ms=5000,
    prepare=_prepare,
    as_filter=_as_filter,
    needs=(Need("language", given="natural_language"),),
)
async def attribute_filter(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Keep the documents that match a filter, in their order.

    As the first stage it lists matching documents of every collection, without scores, up to 1,000 a collection;
    before a search it narrows that search. A condition in words (`natural_language`) is made a filter over the declared
    fields by a language model, and shown under `interpretation`.
    """
    if params.conditions is None and params.natural_language is None:
        ctx.warn("there is no condition: every document passes")
    if hits:
        wanted = _wanted(params, ctx)
        return [hit for hit in hits if _keeps(wanted, params, hit, ctx)]
    if params.document_templates:
        raise ValidationError.at(
            "conditions", "DOC is not known before there are documents; use INPUT, or search first"
        )
    return await _scroll(ctx)


def _wanted(params: Params, ctx: StageContext) -> Filter | None:
    """A condition in words has become a filter before the stage runs: the engine asks for it through `as_filter`."""
    spoken = ctx.metadata.get("natural_language")
    return params._filter if spoken is None else parse_filter(spoken["filter"])


def _keeps(wanted: Filter | None, params: Params, hit: Hit, ctx: StageContext) -> bool:
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
