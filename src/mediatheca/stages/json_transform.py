"""The `json_transform` stage."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson
from pydantic import BaseModel, Field

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.hits import derived
from mediatheca.kernel.search import Hit
from mediatheca.stages import CollectionView, StageContext, stage
from mediatheca.stages._fields import given, require
from mediatheca.stages._templates import Templates, per_document, render_tree

MAX_REPORTED = 10
AT_ONCE = 20
_WHAT = "a template that makes JSON"


class Params(BaseModel):
    template: str | dict[str, Any] | None = Field(
        None, description="A template that makes a JSON object, or an object whose texts may be templates."
    )
    fail_on_error: bool = Field(False, description="A document that cannot be transformed fails the execution.")
    document_templates: Templates = frozenset()


def _prepare(raw: dict[str, Any], collections: Sequence[CollectionView]) -> dict[str, Any]:
    require(raw, "template", what=_WHAT)
    if not isinstance(raw["template"], str | dict):
        message = f"must be a text or an object, got {type(raw['template']).__name__}"
        raise ValidationError.at("template", message, "string_type")
    return {**raw, "document_templates": per_document(raw["template"], ("template",))}


@stage(
    "json_transform",
    kind="apply",
    params=Params,
    use_cases=("Give results the shape a client expects", "Keep only a few computed fields"),
    icon="braces",
    example={"template": '{"id": "{{DOC.document_id}}", "title": {{DOC.title | tojson}}, "score": {{DOC.score}}}'},
    prepare=_prepare,
)
async def json_transform(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Replace every document by what a template makes of it: a JSON object.

    In a text template, write `{{DOC.title | tojson}}` for values. A document whose result is no JSON object is left out
    with a warning, or fails the execution. Id, collection and score of the document stay with the result.
    """
    template = given(params.template, "template", _WHAT)
    made: list[Hit] = []
    failed: list[dict[str, str]] = []
    for number, hit in enumerate(hits, start=1):
        if number % AT_ONCE == 0:
            await asyncio.sleep(0)  # others have their turn
        try:
            made.append(derived(hit, _transform(template, hit, params, ctx)))
        except ValueError as error:
            _refuse(hit, str(error), params)
            failed.append({"document_id": hit.document_id, "error": str(error)})
    if failed:
        ctx.warn(f"{len(failed)} of {len(hits)} documents could not be transformed: {failed[0]['error']}")
    ctx.metadata.update(transformed=len(made), failed=len(failed), errors=failed[:MAX_REPORTED])
    return made


def _refuse(hit: Hit, reason: str, params: Params) -> None:
    if params.fail_on_error:
        raise ValidationError.at("template", f"document '{hit.document_id}': {reason}", "template")


def _transform(template: Any, hit: Hit, params: Params, ctx: StageContext) -> dict[str, Any]:
    """The new payload.

    Raises:
        ValueError: the template fails, or makes no JSON object.
    """
    try:
        made = render_tree(template, params.document_templates, lambda source: ctx.render(source, hit))
    except ValidationError as error:
        raise ValueError(error.message) from error
    if isinstance(made, str):
        try:
            made = orjson.loads(made)
        except orjson.JSONDecodeError as error:
            raise ValueError(f"the result is not JSON: {error}") from error
    if not isinstance(made, dict):
        raise ValueError(f"the result must be a JSON object, got {type(made).__name__}")
    return made
