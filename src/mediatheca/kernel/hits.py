"""Changing hits: writing a field, making a new row of one, and remembering which documents a made row stands for. Pure.

A stage may put rows of its own in the place of documents: a transformed document, one row per array element, a group.
`_ref` in the system part of such a row names the document it stands for, so that interactions and later pages find it;
`_members` names the payload field that lists further documents it shows.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import orjson

from mediatheca.kernel.present import View, result
from mediatheca.kernel.search import Hit

Identity: TypeAlias = tuple[str, str]
"""Collection and document id."""

_CANONICAL = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
_WHOLE = View()


def number(value: Any) -> float | None:
    """A finite number as float; None for everything else, booleans and texts among it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        made = float(value)
    except OverflowError:
        return None
    return made if math.isfinite(made) else None


def value_key(value: Any) -> bytes:
    """Equal for equal JSON values, whatever the order of their keys: to group and compare by."""
    return orjson.dumps(value, default=repr, option=_CANONICAL)


def write_field(hit: Hit, path: str, value: Any) -> None:
    """Set a dotted path of a hit: `score`, `scores.…`, or payload. Objects on the way are copied, never changed."""
    if path in ("score", "_score"):
        hit.score = float(value)
    elif path.startswith("scores.") and "scores" not in hit.payload:
        hit.scores = _with(hit.scores, path.removeprefix("scores.").split("."), value)
    else:
        hit.payload = _with(hit.payload, path.split("."), value)


def _with(fields: Mapping[str, Any], parts: Sequence[str], value: Any) -> dict[str, Any]:
    head, *rest = parts
    if not rest:
        return {**fields, head: value}
    inner = fields.get(head)
    return {**fields, head: _with(inner if isinstance(inner, Mapping) else {}, rest, value)}


def rescore(hit: Hit, name: str, score: float) -> None:
    """Give a hit the score that now decides its order; the one it came with stays readable as `original_score`."""
    hit.scores.setdefault("original_score", hit.score)
    hit.score = hit.scores[name] = score


def as_document(hit: Hit) -> dict[str, Any]:
    """A hit in the form of a result, to be shown inside another one."""
    return result(hit, _WHOLE)


def derived(hit: Hit, payload: dict[str, Any], *, row: str = "", members: str = "") -> Hit:
    """A row with another payload that stands for the document of `hit`.

    Args:
        row: what tells several rows of one document apart; it becomes part of the id.
        members: the payload field that lists the documents the row shows.
    """
    ident = f"{hit.document_id}#{row}" if row else hit.document_id
    system = {**hit.system, "_ref": reference(hit)}
    if members:
        system["_members"] = members
    return replace(hit, document_id=ident, payload=payload, system=system, scores=dict(hit.scores))


def reference(hit: Hit) -> dict[str, Any]:
    """The document that a row stands for."""
    held = hit.system.get("_ref")
    own = {"document_id": hit.document_id, "collection_id": hit.collection_id, "score": hit.score}
    return held if isinstance(held, dict) else own


def identity(hit: Hit) -> Identity:
    """Collection and id of the document that a row stands for."""
    held = reference(hit)
    return held["collection_id"], held["document_id"]


def identities(hit: Hit) -> Iterator[Identity]:
    """Every document whose content a row shows."""
    yield identity(hit)
    for member in _members(hit):
        yield member["collection_id"], member["document_id"]


def surviving(hit: Hit, readable: Collection[Identity], collections: Collection[str]) -> Hit | None:
    """The row without the documents that are no longer readable; None when it stood for one of them.

    Args:
        collections: those that were looked at; rows of no collection stay.
    """

    def gone(ident: Identity) -> bool:
        return ident[0] in collections and ident not in readable

    if gone(identity(hit)):
        return None
    members = _members(hit)
    kept = [member for member in members if not gone((member["collection_id"], member["document_id"]))]
    if len(kept) == len(members):
        return hit
    return replace(hit, payload={**hit.payload, hit.system["_members"]: kept}) if kept else None


def _members(hit: Hit) -> list[dict[str, Any]]:
    name = hit.system.get("_members")
    listed = hit.payload.get(name) if isinstance(name, str) else None
    return [entry for entry in listed if _names_document(entry)] if isinstance(listed, list) else []


def _names_document(entry: Any) -> bool:
    return isinstance(entry, Mapping) and "document_id" in entry and "collection_id" in entry
