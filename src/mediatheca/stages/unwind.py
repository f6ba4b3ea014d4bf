"""The `unwind` stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import AliasChoices, BaseModel, Field

from mediatheca.kernel.hits import derived, write_field
from mediatheca.kernel.ordering import read_field
from mediatheca.kernel.search import Hit
from mediatheca.stages import CollectionView, StageContext, stage
from mediatheca.stages._fields import OutputField, given, require

MAX_ROWS = 10_000
INDEX_FIELD = "_unwind_index"
_WHAT = "the field with the array"


class Params(BaseModel):
    field: OutputField | None = Field(
        None, validation_alias=AliasChoices("field", "path"), description="Dotted path of the array."
    )
    preserve_null_and_empty: bool = Field(
        False,
        validation_alias=AliasChoices("preserve_null_and_empty", "preserve_null_and_empty_arrays"),
        description="Documents without the field, or with an empty array, go on with null.",
    )
    include_array_index: bool | OutputField = Field(
        False, description="Write the place of the element, to _unwind_index or to the field named here."
    )
    output_field: OutputField | None = Field(None, description="Where the element goes; not given: over the array.")


def _prepare(raw: dict[str, Any], collections: Sequence[CollectionView]) -> dict[str, Any]:
    require(raw, "field", "path", what=_WHAT)
    params = dict(raw)
    for name in ("field", "path"):
        if isinstance(params.get(name), str) and params[name].startswith("$"):
            params[name] = params[name].lstrip("$.")
    return params


@stage(
    "unwind",
    kind="apply",
    params=Params,
    use_cases=("One row for each element of a list", "Filter and sort what a list holds"),
    icon="split",
    example={"field": "tags", "include_array_index": True},
    prepare=_prepare,
)
async def unwind(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Make one row of each element of an array, with a copy of the document and its score.

    Rows have ids of their own (`document#0`, …) and still stand for their document. A value that is no array passes
    unchanged; documents without the field are dropped unless preserve_null_and_empty is set.
    """
    field = given(params.field, "field", _WHAT)
    made: list[Hit] = []
    total = 0
    for hit in hits:
        rows = _rows(hit, field, params)
        total += len(rows)
        made.extend(rows[: MAX_ROWS - len(made)])
    if total > MAX_ROWS:
        ctx.limit("rows", total, MAX_ROWS)
    return made


def _rows(hit: Hit, field: str, params: Params) -> list[Hit]:
    value = read_field(hit, field)
    target = params.output_field or field
    if value is None or value == []:
        if not params.preserve_null_and_empty:
            return []
        write_field(hit, target, None)
        _write_index(hit, params, None)
        return [hit]
    if not isinstance(value, list):
        if target != field:
            write_field(hit, target, value)
        return [hit]
    return list(_elements(hit, value[:MAX_ROWS], target, params))


def _elements(hit: Hit, values: list[Any], target: str, params: Params) -> Iterator[Hit]:
    for place, value in enumerate(values):
        row = derived(hit, hit.payload, row=str(place))
        row.system["_unwind_index"] = place
        write_field(row, target, value)
        _write_index(row, params, place)
        yield row


def _write_index(row: Hit, params: Params, place: int | None) -> None:
    if params.include_array_index:
        write_field(row, INDEX_FIELD if params.include_array_index is True else params.include_array_index, place)
