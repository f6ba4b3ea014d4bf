"""The `code_execution` stage."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pydantic
from pydantic import AliasChoices, BaseModel, Field, PlainSerializer, WithJsonSchema

from mediatheca.kernel.errors import BadRequestError, NotEnabledError, ValidationError
from mediatheca.kernel.hits import derived, write_field
from mediatheca.kernel.search import Hit
from mediatheca.stages import CollectionView, FilterParam, Need, StageContext, stage
from mediatheca.stages._fields import OutputField, given, rename
from mediatheca.stages._outside import chosen

MAX_CODE = 64 * 1024
_FUNCTION = "transform"
_PER_DOCUMENT = f"""
_outcomes = []
for _doc in docs:
    try:
        _outcomes.append([True, {_FUNCTION}(_doc)])
    except Exception as _error:
        _outcomes.append([False, type(_error).__name__ + ": " + str(_error)])
"""
_WHAT = "Python that sets `result`, a list with a value for every entry of `docs`, or defines transform(doc)"


@dataclass(frozen=True, slots=True)
class Verbatim:
    """Code as its author wrote it: braces in it are no templates, and nothing a caller sends becomes part of it."""

    text: str


Code = Annotated[
    Any,
    PlainSerializer(lambda code: code.text if isinstance(code, Verbatim) else code),
    WithJsonSchema({"type": "string", "description": _WHAT}),
]


class Params(BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)

    code: Code = None
    language: Literal["python", "typescript", "javascript"] = Field(
        "python", validation_alias=AliasChoices("language", "runtime")
    )
    output_field: OutputField = "computed"
    result_variable: str = Field("result", pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")
    timeout_ms: int = Field(5000, ge=100, le=30_000)
    max_output_size: int = Field(100_000, ge=1_000, le=1_000_000, description="Bytes of JSON.")
    memory: int = Field(128, ge=16, le=512, description="MB.")
    env: dict[str, Any] = Field({}, description="Values the code reads as `env`; templates with INPUT and SECRET.")
    packages: list[str] = []
    debug: bool = False
    when: FilterParam = None
    on_error: Literal["skip", "raise"] = "skip"


def _prepare(raw: dict[str, Any], collections: Sequence[CollectionView]) -> dict[str, Any]:
    made = dict(raw)
    rename(made, "language", "runtime")
    code = made.get("code")
    if not isinstance(code, str) or not code.strip() or len(code) > MAX_CODE:
        raise ValidationError.at("code", f"is required: {_WHAT}; at most {MAX_CODE:,} characters", "missing")
    if made.get("packages"):
        raise NotEnabledError("packages: the sandbox has no packages; use what Python itself offers")
    language = str(made.get("language", "python")).lower()
    if language.startswith("python"):
        made["language"] = "python"
        _transforms(code)
    elif language in ("typescript", "javascript"):
        raise NotEnabledError(f"language: '{language}' is not run here; write the code in python")
    return {**made, "code": Verbatim(code)}


def _transforms(code: str) -> bool:
    """Whether the code defines `transform(doc)`.

    Raises:
        ValidationError: it is not Python.
    """
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        place = f" (line {error.lineno})" if isinstance(error, SyntaxError) and error.lineno else ""
        reason = error.msg if isinstance(error, SyntaxError) else "it is nested too deeply"
        raise ValidationError.at("code", f"is not Python: {reason}{place}", "syntax") from None
    return any(isinstance(node, ast.FunctionDef) and node.name == _FUNCTION for node in tree.body)


@stage(
    "code_execution",
    kind="apply",
    params=Params,
    use_cases=("Compute what no stage offers", "Apply your own pricing or scoring rule"),
    icon="code",
    cost_tier="moderate",
    hard_timeout_ms=45_000,
    needs=(Need("code"),),
    example={"code": "result = [len(doc.get('title') or '') for doc in docs]", "output_field": "title_length"},
    prepare=_prepare,
)
async def code_execution(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Run Python over the documents in a sandbox: no files, no network, no packages, little time and memory.

    Code that sets `result` from `docs` gives a value for every document, kept in output_field. Code that defines
    `transform(doc)` gives the new document, or None to drop it. The operator must have allowed it.
    """
    asked = chosen(hits, params.when, ctx)
    if not asked:
        return hits
    code = given(params.code, "code", _WHAT)
    source = code.text if isinstance(code, Verbatim) else str(code)
    per_document = _transforms(source)
    try:
        found = await _run(source, per_document, asked, params, ctx)
    except (ValidationError, BadRequestError) as error:
        if params.on_error == "raise":
            raise
        ctx.degrade(error.message, "correct the code; the documents stay as they were")
        ctx.metadata.update(processed=0, failed=len(asked))
        return hits
    return _transformed(hits, asked, found, params, ctx) if per_document else _computed(hits, asked, found, params, ctx)


async def _run(source: str, per_document: bool, asked: Sequence[Hit], params: Params, ctx: StageContext) -> list[Any]:
    """A value for every document."""
    docs = [_seen(hit) for hit in asked]
    name = "_outcomes" if per_document else params.result_variable
    found = await ctx.outside.code.run(
        source + _PER_DOCUMENT if per_document else source,
        language=params.language,
        inputs={"docs": docs, "env": params.env, "inputs": ctx.inputs},
        result=name,
        timeout_ms=params.timeout_ms,
        max_output_bytes=params.max_output_size,
        memory_mb=params.memory,
    )
    if not isinstance(found, list) or len(found) != len(docs):
        got = f"a list of {len(found)}" if isinstance(found, list) else type(found).__name__
        message = f"must set '{name}' to a list with a value for each of the {len(docs)} documents, got {got}"
        raise ValidationError.at("code", message, "result")
    return found


def _seen(hit: Hit) -> dict[str, Any]:
    return {**hit.payload, "document_id": hit.document_id, "collection_id": hit.collection_id, "score": hit.score}


def _computed(
    hits: list[Hit], asked: Sequence[Hit], found: Sequence[Any], params: Params, ctx: StageContext
) -> list[Hit]:
    for hit, value in zip(asked, found, strict=True):
        write_field(hit, params.output_field, value)
    ctx.metadata.update(processed=len(asked), skipped=len(hits) - len(asked), failed=0)
    return hits


def _transformed(
    hits: list[Hit], asked: Sequence[Hit], found: Sequence[Any], params: Params, ctx: StageContext
) -> list[Hit]:
    made: dict[int, Hit | None] = {}
    errors: list[str] = []
    for hit, (good, value) in zip(asked, found, strict=True):
        if good and (value is None or isinstance(value, dict)):
            made[id(hit)] = None if value is None else derived(hit, _payload(value))
        else:
            errors.append(f"'{hit.document_id}': {'transform must give a dict or None' if good else value}")
    if errors and params.on_error == "raise":
        raise ValidationError.at("code", f"failed for document {errors[0]}", "code_failed")
    if errors:
        ctx.warn(f"the code failed for {len(errors)} of {len(asked)} documents, which stay as they are: {errors[0]}")
    ctx.metadata.update(processed=len(asked) - len(errors), skipped=len(hits) - len(asked), failed=len(errors))
    kept = [made.get(id(hit), hit) for hit in hits]
    return [hit for hit in kept if hit is not None]


def _payload(value: dict[str, Any]) -> dict[str, Any]:
    """What the code may not change: which document this is."""
    return {name: item for name, item in value.items() if name not in ("document_id", "collection_id", "score")}
