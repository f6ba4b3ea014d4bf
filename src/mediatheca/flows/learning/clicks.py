"""Answers as people saw them, from the records of executions and interactions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

from mediatheca.kernel import clock
from mediatheca.kernel.bandit import Tuning
from mediatheca.kernel.clicks import Page, click_curve, fitted_exponent
from mediatheca.stores.db.tx import Cmp, ReadTx, Row

MAX_EXECUTIONS = 20_000
"""Answers a curve is made of, the newest."""
CLICKS = frozenset({"click"})


def page_of(execution: Row, clicked: Collection[str]) -> Page | None:
    """None for an answer whose record names no documents, or that nobody can say the place of (a later page by
    cursor)."""
    body = execution["body"]
    offset = None if body.get("later_page") else _offset(body.get("request"))
    ranking = [ident for ident, _ in body.get("ranking") or () if ident]
    if offset is None or not ranking:
        return None
    places = {ident: offset + place for place, ident in reversed(list(enumerate(ranking)))}
    return Page(places, frozenset(places).intersection(clicked))


def _offset(request: Mapping[str, Any] | None) -> int | None:
    """How many results were passed over before the page; None where the record does not say."""
    if request is None:
        return None
    paging = request.get("pagination") or {}
    if paging.get("cursor") or paging.get("scroll_id") or paging.get("after"):
        return None
    size = paging.get("page_size") or paging.get("limit") or request.get("page_size") or request.get("limit") or 10
    number = paging.get("page_number") or paging.get("page") or request.get("page") or 1
    offset = paging.get("offset", request.get("offset"))
    return int(offset) if isinstance(offset, int) else (int(number) - 1) * int(size)


def pages_of(tx: ReadTx, execution_ids: Collection[str], kinds: Collection[str] = CLICKS) -> dict[str, Page]:
    """Execution → what was shown and clicked; those whose record is gone are left out."""
    found: dict[str, Page] = {}
    listed = sorted(execution_ids)
    for start in range(0, len(listed), 500):
        some = listed[start : start + 500]
        clicked = _clicked(tx, {"execution_id": some}, kinds)
        for row in tx.rows("executions", {"execution_id": some}):
            page = page_of(row, clicked.get(row["execution_id"], ()))
            if page is not None:
                found[row["execution_id"]] = page
    return found


def _clicked(tx: ReadTx, where: Mapping[str, Any], kinds: Collection[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in tx.rows("interactions", where, columns=("execution_id", "feature_id", "body")):
        if not set(kinds).isdisjoint(row["body"]["interaction_type"]):
            found.setdefault(row["execution_id"], set()).add(row["feature_id"])
    return found


def curve_of(tx: ReadTx, retriever_id: str, days: int, kinds: Sequence[str], configured: Tuning) -> dict[str, Any]:
    """Click-through by position over the newest answers of a retriever, and the exponent that fits it."""
    since = clock.now() - timedelta(days=days)
    where = {"retriever_id": retriever_id, "created_at": Cmp(">=", since)}
    rows = tx.rows("executions", where, order=("-created_at",), limit=MAX_EXECUTIONS)
    clicked = _clicked(tx, {"retriever_id": retriever_id, "occurred_at": Cmp(">=", since)}, kinds)
    made = [page for row in rows if (page := page_of(row, clicked.get(row["execution_id"], ()))) is not None]
    curve = click_curve(made)
    return {
        "retriever_id": retriever_id,
        "days": days,
        "interaction_types": list(kinds),
        "executions": len(made),
        "clicks": sum(place.clicks for place in curve),
        "positions": [place.as_dict() for place in curve],
        "fitted_position_bias": fitted_exponent(curve),
        "configured_position_bias": configured.position_bias,
    }
