"""The `sql_lookup` stage."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import AliasChoices, BaseModel, Field

from mediatheca.kernel.errors import BadRequestError, MediathecaError, ValidationError
from mediatheca.kernel.hits import write_field
from mediatheca.kernel.search import Hit
from mediatheca.kernel.templates import is_template
from mediatheca.stages import CollectionView, FilterParam, StageContext, stage
from mediatheca.stages._fields import OutputField, given, rename, require
from mediatheca.stages._outside import OnError, Outcomes, attempt, chosen, request_key, settle
from mediatheca.stages._templates import Templates, per_document, render_tree

_CONNECTION = "the id or name of a stored connection"
_QUERY = "one SELECT, with :name or $1 for parameters"


class Params(BaseModel):
    connection_id: str | None = Field(None, description="Id or name of a stored connection.")
    query: str | None = Field(None, description="One SELECT; parameters are :name or $1, never part of the text.")
    parameters: dict[str, Any] = Field({}, description="Values of the parameters; templates per document.")
    output_field: OutputField = "sql_result"
    result_handling: Literal["first", "all", "error_if_empty", "error_if_multiple"] = Field(
        "first", validation_alias=AliasChoices("result_handling", "multiple_rows")
    )
    on_no_results: Literal["skip", "null", "error"] = "null"
    timeout: float = Field(30, ge=1, le=300, description="Seconds for one query.")
    max_rows: int = Field(100, ge=1, le=10_000, description="Rows kept for one document.")
    when: FilterParam = None
    on_error: OnError = Field("skip", description="For a document whose query fails: skip it, remove it, or raise.")
    document_templates: Templates = frozenset()
    degrade_retry: ClassVar[bool] = False


def _prepare(raw: dict[str, Any], collections: Sequence[CollectionView]) -> dict[str, Any]:
    made = dict(raw)
    rename(made, "output_field", "result_field")
    rename(made, "result_handling", "multiple_rows")
    require(made, "connection_id", what=_CONNECTION)
    require(made, "query", what=_QUERY)
    milliseconds = made.pop("timeout_ms", None)
    if isinstance(milliseconds, int | float):
        made.setdefault("timeout", max(1.0, milliseconds / 1000))
    if is_template(made["query"]):
        message = "has a template; a query is fixed, values go into parameters: WHERE id = :id"
        raise ValidationError.at("query", message, "template")
    if isinstance(made.get("parameters"), list):
        made["parameters"] = {str(number): value for number, value in enumerate(made["parameters"], 1)}
    return {**made, "document_templates": per_document(made.get("parameters"), ("parameters",))}


@stage(
    "sql_lookup",
    kind="apply",
    params=Params,
    use_cases=("Join results with rows of a database", "Start from a table and go on with its rows"),
    icon="database",
    cost_tier="moderate",
    starts=True,
    hard_timeout_ms=310_000,
    example={
        "connection_id": "warehouse",
        "query": "SELECT price, stock FROM products WHERE sku = :sku",
        "parameters": {"sku": "{{DOC.sku}}"},
        "output_field": "product",
    },
    prepare=_prepare,
)
async def sql_lookup(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Look every document up in a database with one SELECT; as a first stage, make documents of its rows.

    The connection is stored (organizations/connections) and only read: one statement, a read-only transaction, a time
    limit and a row limit. Values are bound, never part of the text; equal look-ups are asked once.
    """
    if not hits:
        return [] if params.document_templates else await _rows(params, ctx)
    asked = chosen(hits, params.when, ctx)
    if not asked:
        return hits
    requests = [(hit, attempt(lambda each: _values(each, params, ctx), hit)) for hit in asked]
    outcomes = await _looked_up(requests, params, ctx)
    kept = Outcomes()
    for hit in asked:
        if id(hit) in outcomes.values:
            kept.add(hit, attempt(lambda each: _result(outcomes.values[id(each)], params, ctx), hit))
    kept.errors |= outcomes.errors

    def write(hit: Hit, found: tuple[bool, Any]) -> None:
        if found[0]:
            write_field(hit, params.output_field, found[1])

    return settle(hits, asked, kept, write, params.on_error, ctx)


def _values(hit: Hit, params: Params, ctx: StageContext) -> dict[str, Any]:
    made = render_tree(params.parameters, params.document_templates, lambda source: ctx.render(source, hit))
    return dict(made)


async def _looked_up(requests: Sequence[tuple[Hit, Any]], params: Params, ctx: StageContext) -> Outcomes:
    """Rows by document: every different set of values is asked once."""
    outcomes = Outcomes()
    sets: dict[Any, Mapping[str, Any]] = {}
    for _, values in requests:
        if not isinstance(values, MediathecaError):
            sets.setdefault(request_key(values), values)
    rows = dict(zip(sets, await _select(list(sets.values()), params, ctx), strict=True)) if sets else {}
    ctx.metadata["queries"] = len(sets)
    for hit, values in requests:
        outcomes.add(hit, values if isinstance(values, MediathecaError) else rows[request_key(values)])
    return outcomes


async def _select(sets: Sequence[Mapping[str, Any]], params: Params, ctx: StageContext) -> list[Any]:
    connection = given(params.connection_id, "connection_id", _CONNECTION)
    query = given(params.query, "query", _QUERY)
    return await ctx.outside.sql.select(connection, query, sets, timeout_s=params.timeout, max_rows=params.max_rows)


def _result(rows: list[dict[str, Any]], params: Params, ctx: StageContext) -> tuple[bool, Any]:
    """Whether something is written, and what.

    Raises:
        BadRequestError: there are none or several, and that was to be an error.
    """
    if not rows:
        if params.on_no_results == "error" or params.result_handling == "error_if_empty":
            raise BadRequestError("the query found no row")
        return params.on_no_results == "null", [] if params.result_handling == "all" else None
    if params.result_handling == "error_if_multiple" and len(rows) > 1:
        raise BadRequestError("the query found more than one row")
    if params.result_handling == "all":
        return True, _capped(rows, params, ctx)
    return True, rows[0]


def _capped(rows: list[dict[str, Any]], params: Params, ctx: StageContext) -> list[dict[str, Any]]:
    if len(rows) > params.max_rows:
        ctx.warn(f"a query found more than {params.max_rows} rows (max_rows); the rest was left out")
    return rows[: params.max_rows]


async def _rows(params: Params, ctx: StageContext) -> list[Hit]:
    """Documents of the rows; they belong to no collection."""
    found = (await _select([params.parameters], params, ctx))[0]
    if isinstance(found, MediathecaError):
        raise found
    if not found and (params.on_no_results == "error" or params.result_handling == "error_if_empty"):
        raise BadRequestError("the query found no row")
    ctx.metadata["queries"] = 1
    return [
        Hit(f"sql_{_digest(number, row)}", "", 0.0, row, {}) for number, row in enumerate(_capped(found, params, ctx))
    ]


def _digest(number: int, row: dict[str, Any]) -> str:
    return hashlib.blake2b(f"{number}:".encode() + request_key(row), digest_size=10).hexdigest()
