"""A cap of one request on the pieces into which its stages cut long queries."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel

P = TypeVar("P", bound=BaseModel)
HOW = "query_preprocessing"


def fewer_chunks(params: P, most: int) -> P:
    """The parameters with no more than `most` pieces a query, for the whole stage and for each of its searches."""
    changed = _capped(params, most)
    searches: Any = getattr(params, "searches", None)
    if isinstance(searches, list):
        changed["searches"] = [search.model_copy(update=_capped(search, most)) for search in searches]
    return params.model_copy(update=changed) if changed else params


def _capped(model: BaseModel, most: int) -> dict[str, Any]:
    how: Any = getattr(model, HOW, None)
    if how is None or how.max_chunks <= most:
        return {}
    return {HOW: how.model_copy(update={"max_chunks": most})}
