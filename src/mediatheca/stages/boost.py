"""The `boost` stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.filters import Filter, all_of, document_view, parse_filter
from mediatheca.kernel.hits import number, rescore
from mediatheca.kernel.search import Hit
from mediatheca.kernel.templates import is_template
from mediatheca.stages import CollectionView, FilterParam, StageContext, stage
from mediatheca.stages._templates import Templates, per_document

MAX_IDS = 500
_NEEDS = "one of expression, pin and bury"


class Chosen(BaseModel):
    """Documents chosen by id or by a filter."""

    ids: list[str] = Field([], max_length=MAX_IDS)
    when: FilterParam = None

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        """A list is a list of ids."""
        return {"ids": value} if isinstance(value, list) else value

    def holds(self, hit: Hit) -> bool:
        return hit.document_id in self.ids or (self.when is not None and _matches(self.when, hit))


class Pinned(Chosen):
    add: bool = Field(False, description="Pinned ids that were not found are read and added, where the filters allow.")


class Params(BaseModel):
    expression: str | float | None = Field(
        None, description="A number made of the document: DOC.score * (1 + log(1 + DOC.likes))."
    )
    mode: Literal["replace", "multiply", "add"] = Field(
        "replace", description="What the number does to the score: take its place, multiply it, or be added."
    )
    when: FilterParam = Field(None, description="Only documents that match are boosted.")
    pin: Pinned | None = Field(None, description="These come first: ids in the order given, then what matches.")
    bury: Chosen | None = Field(None, description="These come last.")
    document_templates: Templates = frozenset()


def _prepare(raw: dict[str, Any], collections: Sequence[CollectionView]) -> dict[str, Any]:
    """An expression may be written with or without its braces."""
    if all(raw.get(name) is None for name in ("expression", "pin", "bury")):
        raise ValidationError.at("expression", f"is required: {_NEEDS}", "missing")
    params = dict(raw)
    expression = params.get("expression")
    if isinstance(expression, str):
        if not expression.strip():
            raise ValidationError.at("expression", "is empty; give a number made of DOC", "empty")
        if not is_template(expression):
            params["expression"] = expression = "{{ " + expression + " }}"
        params["document_templates"] = per_document(expression, ("expression",))
    return params


@stage(
    "boost",
    kind="sort",
    params=Params,
    use_cases=("Prefer recent or popular documents", "Pin and bury results by rule"),
    icon="rocket",
    example={"expression": "DOC.score * exp(-days_since(DOC.created_at) / 365)", "bury": {"when": {"in_stock": False}}},
    prepare=_prepare,
)
async def boost(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Change scores by an expression over the document (popularity, recency), pin documents to the top, bury others.

    Expressions have arithmetic, comparisons, `a if b else c`, filters such as `| default(0)`, and abs, ceil, exp,
    floor, log, max, min, round, sqrt, days_since. A document for which the expression gives no number keeps its score.
    """
    if params.expression is not None:
        _apply(hits, params, ctx)
    ranked = sorted(hits, key=lambda hit: -hit.score)
    if params.pin is not None and params.pin.add:
        ranked += await _absent(ranked, params.pin, ctx)
    return _placed(ranked, params)


def _apply(hits: list[Hit], params: Params, ctx: StageContext) -> None:
    without: list[str] = []
    boosted = 0
    for hit in hits:
        if params.when is not None and not _matches(params.when, hit):
            continue
        value, reason = _evaluate(hit, params, ctx)
        if value is None:
            without.append(reason)
            continue
        old = hit.score
        new = value if params.mode == "replace" else old * value if params.mode == "multiply" else old + value
        if number(new) is None:
            without.append("the score would not be a finite number")
            continue
        rescore(hit, "boost", new)
        boosted += 1
    if without:
        ctx.warn(f"{len(without)} documents keep their score: {without[0]}")
    ctx.metadata.update(boosted=boosted, without_number=len(without))


def _evaluate(hit: Hit, params: Params, ctx: StageContext) -> tuple[float | None, str]:
    """The number of one document, or why there is none."""
    expression: Any = params.expression
    if isinstance(expression, str) and expression in params.document_templates:
        try:
            expression = ctx.render(expression, hit)
        except ValidationError as error:
            return None, error.message
    value = float(expression) if isinstance(expression, bool) else number(expression)
    return value, "" if value is not None else f"the expression gave {str(expression)[:50]!r}, which is no number"


def _matches(wanted: Filter, hit: Hit) -> bool:
    return wanted.matches(document_view(hit.payload, hit.document_id, hit.collection_id, hit.system, hit.score))


async def _absent(hits: Sequence[Hit], pin: Pinned, ctx: StageContext) -> list[Hit]:
    """Pinned documents that were not found, within the filters of the request."""
    missing = [ident for ident in pin.ids if ident not in {hit.document_id for hit in hits}]
    if not missing:
        return []
    wanted = parse_filter({"field": "document_id", "operator": "in", "value": missing})
    found: list[Hit] = []
    for view in ctx.collections:
        found += await ctx.scroll(view.collection_id, all_of(ctx.filter, wanted), len(missing))
    return found


def _placed(ranked: list[Hit], params: Params) -> list[Hit]:
    """Pinned first, buried last, scores moved so that they still tell the order."""
    pin, bury = params.pin or Pinned(), params.bury or Chosen()
    wanted = {ident: place for place, ident in enumerate(pin.ids)}
    pinned = [hit for hit in ranked if pin.holds(hit)]
    pinned.sort(key=lambda hit: wanted.get(hit.document_id, len(wanted)))
    held = {id(hit) for hit in pinned}
    buried = [hit for hit in ranked if id(hit) not in held and bury.holds(hit)]
    held |= {id(hit) for hit in buried}
    middle = [hit for hit in ranked if id(hit) not in held]
    top = max((hit.score for hit in middle), default=0.0)
    bottom = min((hit.score for hit in middle), default=0.0)
    for place, hit in enumerate(pinned):
        rescore(hit, "pinned", top + len(pinned) - place)
    for place, hit in enumerate(buried):
        rescore(hit, "buried", bottom - 1 - place)
    return [*pinned, *middle, *buried]
