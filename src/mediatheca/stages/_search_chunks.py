"""Long queries: cut into chunks, searched one by one, and put together again."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mediatheca.kernel.documents import Vector
from mediatheca.kernel.errors import MediathecaError
from mediatheca.kernel.fusion import fuse
from mediatheca.kernel.hits import value_key
from mediatheca.kernel.ordering import read_field
from mediatheca.kernel.passages import Span
from mediatheca.kernel.query_files import LONG, decode_inline, told_kind
from mediatheca.kernel.search import Hit, QueryPiece, evenly, query_chunk
from mediatheca.stages import StageContext
from mediatheca.stages._search_arms import Arm, is_empty, label_of, run_arm, targets_of, with_query
from mediatheca.stages._search_concurrently import together
from mediatheca.stages._search_params import Params, Preprocessing, Query, Search

MAX_TEXT = 1_000_000
"""Characters of a query that are cut."""
AT_ONCE = 8
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Piece:
    """What is looked for in its place, and where it stands: the arguments of `query_chunk`."""

    value: str | Vector
    place: Mapping[str, Any]


async def run_search(search: Search, depth: int, params: Params, ctx: StageContext) -> Arm:
    """The search, chunk by chunk where its query is cut."""
    if search.lexical or not params.cuts(search):
        return await run_arm(search, depth, params, ctx)
    said = search.query_preprocessing or params.query_preprocessing
    how = said or Preprocessing()
    text = _text_of(search.query)
    if text is None:
        pieces = await _pieces_of_file(search, how, params, ctx, auto=said is None)
    else:
        pieces = [_Piece(text[start:end], {"text": (start, end)}) for start, end in _chunks(text, how, ctx)]
    if len(pieces) > 1:
        arms: list[Arm | Exception] = []
        for start in range(0, len(pieces), AT_ONCE):
            part = pieces[start : start + AT_ONCE]
            arms += await together([_chunk(with_query(search, piece.value), depth, params, ctx) for piece in part])
        return _merged(search, depth, pieces, arms, how, ctx)
    if pieces and text is None:
        return await _only(search, pieces[0], depth, params, ctx)
    return await run_arm(search, depth, params, ctx)


async def _only(search: Search, piece: _Piece, depth: int, params: Params, ctx: StageContext) -> Arm:
    """A file of one piece: it is not embedded again, and scores stay what they are."""
    arm = await run_arm(with_query(search, piece.value), depth, params, ctx)
    arm.search = search
    if piece.place:
        for hit in arm.hits:
            hit.scores["query_chunks"] = [query_chunk(0, hit.score, **piece.place)]
    return arm


async def _pieces_of_file(
    search: Search, how: Preprocessing, params: Params, ctx: StageContext, *, auto: bool
) -> list[_Piece]:
    """Those of a recording or PDF; one without a place, or none, where a file is searched for as a whole. Whoever asked
    for pieces is told; `auto`: nobody did."""
    value = search.query.value
    if search.query.input_mode != "content" or not isinstance(value, str) or is_empty(search.query):
        return []
    indexes = [index for _, index in targets_of(search, params, ctx)[1] if index is not None]
    if not indexes:
        return []
    if len({(index.weights, index.model) for index in indexes}) > 1:
        if not auto or told_kind(value) in LONG:
            ctx.warn("the file was searched for as a whole: the collections have vectors of different models")
        return []
    found = await ctx.pieces(indexes[0], value, how.of_file(auto=auto))
    if not auto and not any(piece.placed for piece in found):
        ctx.warn("only texts, recordings and PDFs are cut into chunks; the file was searched for as a whole")
    if found and found[0].total:
        ctx.limit("query_chunks", found[0].total, len(found))
    return [_Piece(piece.vector, _place(piece)) for piece in found]


def _place(piece: QueryPiece) -> dict[str, Any]:
    place = {"time_ms": piece.time_ms, "page": piece.page}
    return {name: value for name, value in place.items() if value is not None}


def _merged(
    search: Search,
    depth: int,
    pieces: Sequence[_Piece],
    arms: Sequence[Arm | Exception],
    how: Preprocessing,
    ctx: StageContext,
) -> Arm:
    """One arm of what the pieces found; what went wrong with some of them is told."""
    ran = {number: arm for number, arm in enumerate(arms) if isinstance(arm, Arm)}
    failed = [arm for arm in arms if not isinstance(arm, Arm)]
    if not ran:
        raise failed[0]
    notes: dict[str, object] = {"query_chunks": len(pieces)}
    if failed:
        notes["failed_chunks"] = len(failed)
        ctx.side["embeddings"] = "partial"
        reason = f"{len(failed)} of {len(pieces)} pieces of the query could not be searched for: {_reason(failed[0])}"
        ctx.degrade(reason, "the other pieces answered; try again")
    return Arm(search, label_of(search), _joined(ran, pieces, how)[:depth], notes=notes)


async def _chunk(search: Search, depth: int, params: Params, ctx: StageContext) -> Arm | Exception:
    """What one piece found; what went wrong costs its own results, not those of the other pieces."""
    try:
        return await run_arm(search, depth, params, ctx)
    except MediathecaError as error:
        return error
    except Exception as error:
        log.exception("a piece of the query for '%s' failed", search.feature_uri)
        return error


def _reason(error: Exception) -> str:
    return error.message if isinstance(error, MediathecaError) else type(error).__name__


def _text_of(query: Query) -> str | None:
    """The text of a query that may be cut."""
    value = query.value
    if not isinstance(value, str):
        return None
    if query.input_mode == "text":
        return value[:MAX_TEXT]
    if query.input_mode == "content" and value.startswith("data:text/"):
        return decode_inline(value)[1].decode("utf-8-sig", errors="replace")[:MAX_TEXT]
    return None


def _chunks(text: str, how: Preprocessing, ctx: StageContext) -> list[Span]:
    """The pieces; of too many, an even selection over the whole text."""
    found = how.of_text.spans(text)
    if len(found) > how.max_chunks:
        ctx.limit("query_chunks", len(found), how.max_chunks)
    return evenly(found, how.max_chunks)


def _joined(ran: Mapping[int, Arm], pieces: Sequence[_Piece], how: Preprocessing) -> list[Hit]:
    """One ranking out of those of the pieces, by the number of the piece."""
    numbers, arms = list(ran), list(ran.values())
    by_key: dict[tuple[str, str], Hit] = {}
    rankings = []
    for arm in arms:
        for hit in arm.hits:
            by_key.setdefault((hit.document_id, hit.collection_id), hit)
        rankings.append([((hit.document_id, hit.collection_id), hit.score) for hit in arm.hits])
    strategy: Literal["rrf", "max", "weighted"] = "weighted" if how.aggregation == "avg" else how.aggregation
    found = []
    for entry in fuse(strategy, rankings):
        hit = by_key[entry.key]
        hit.score = entry.score / len(arms) if how.aggregation == "avg" else entry.score
        best = sorted(entry.raw.items(), key=lambda pair: (-pair[1], pair[0]))
        hit.scores["query_chunks"] = [
            query_chunk(numbers[place], score, **pieces[numbers[place]].place) for place, score in best[:5]
        ]
        found.append(hit)
    return found if how.dedup_field is None else _first_of_each(found, how.dedup_field)


def _first_of_each(hits: Sequence[Hit], path: str) -> list[Hit]:
    """The best document of each value; those without the field all stay."""
    seen: set[bytes] = set()
    kept = []
    for hit in hits:
        value: Any = read_field(hit, path)
        if value is not None:
            key = value_key(value)
            if key in seen:
                continue
            seen.add(key)
        kept.append(hit)
    return kept
