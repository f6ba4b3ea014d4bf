"""How fresh a read is: whether it waits for the index to hold what was written before it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from mediatheca.flows.retrieve.seams import Searcher
from mediatheca.kernel.errors import ValidationError
from mediatheca.stages import CollectionView

MAX_WAIT_MS = 5_000
"""How long a read waits for the index before it answers with what is there."""
_TOKEN = re.compile(r"([A-Za-z0-9_\-]{1,64}):([0-9]{1,18})")
Mode: TypeAlias = Literal["strong", "eventual"]


class Consistency(BaseModel):
    """How fresh a read must be. An age limit is met by waiting, like `strong`: the age of a write is not kept."""

    model_config = ConfigDict(extra="forbid")

    mode: Mode
    max_staleness_ms: int | None = Field(None, ge=0, le=86_400_000, description="Ignored by strong.")


@dataclass(slots=True)
class Freshness:
    """How fresh a read was."""

    mode: Mode = "eventual"
    degraded: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def write_of(token: str) -> tuple[str, int]:
    """Collection and sequence number of the write a token names.

    Raises:
        ValidationError: it is no token.
    """
    found = _TOKEN.fullmatch(token)
    if found is None:
        message = "is no write token; take write_token of the answer of documents/upsert as it is"
        raise ValidationError.at("write_token", message, "write_token")
    return found[1], int(found[2])


async def wait_until_fresh(
    searcher: Searcher,
    views: Sequence[CollectionView],
    asked: Consistency | None,
    token: str | None,
    limit_ms: float | None = None,
) -> Freshness:
    """Wait until the collections hold what the read must see, `limit_ms` at the most.

    A token asks for one write of one collection, `strong` for everything that was committed when the read began.

    Raises:
        ValidationError: the token is none.
    """
    found = Freshness()
    strong = asked is not None and (asked.mode == "strong" or asked.max_staleness_ms is not None)
    wanted: dict[str, int] = dict.fromkeys((view.collection_id for view in views), 0) if strong else {}
    if token is not None:
        collection_id, seq = write_of(token)
        if any(view.collection_id == collection_id for view in views):
            wanted[collection_id] = seq
        else:
            found.warnings.append(f"write_token is of '{collection_id}', which this execution does not search")
    if token is not None or (asked is not None and asked.mode == "strong"):
        found.mode = "strong"
    if wanted:
        await _wait(searcher, wanted, min(limit_ms or MAX_WAIT_MS, MAX_WAIT_MS), found)
    return found


async def _wait(searcher: Searcher, wanted: dict[str, int], limit_ms: float, found: Freshness) -> None:
    reached: dict[str, int] = {}

    async def one(collection_id: str, seq: int) -> None:
        reached[collection_id] = await searcher.catch_up(collection_id, seq)

    try:
        async with asyncio.timeout(limit_ms / 1000) as timer:
            await asyncio.gather(*(one(collection_id, seq) for collection_id, seq in wanted.items()))
    except TimeoutError:
        if not timer.expired():
            raise
    for collection_id, seq in wanted.items():
        if collection_id not in reached:
            reason = f"the index did not hold every write within {limit_ms:g} ms"
            found.degraded.append(_entry(collection_id, reason, "read again, or raise max_time_ms"))
        elif reached[collection_id] < seq:
            reason = f"write {seq} of the token is not among the {reached[collection_id]} of the collection"
            found.degraded.append(_entry(collection_id, reason, "take the token of the latest upsert"))
    if found.degraded:
        found.mode = "eventual"


def _entry(collection_id: str, reason: str, next_step: str) -> dict[str, Any]:
    return {"resource": "collection", "id": collection_id, "reason": reason, "next_step": next_step, "stage": None}
