"""What a runner gives for an item."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from mediatheca.extractors import Dropped, Row


@dataclass(frozen=True, slots=True)
class ItemRows:
    """An item that was extracted; `rows` may be empty.

    Files that its artifacts name stay until the next result is asked for.
    """

    item_id: str
    rows: list[Row]
    dropped: list[Dropped] = field(default_factory=list)
    """Parts of the item that gave no document."""
    times: dict[str, float] = field(default_factory=dict)
    """Seconds in the child: `item` in all, of these `decode` and `model`. Empty for what was not computed now."""


@dataclass(frozen=True, slots=True)
class ItemFailure:
    """An item that was not. `reason` is for its owner; `trace` is for the log, empty where the reason says it all."""

    item_id: str
    reason: str
    phase: str
    """`fetch` (its files cannot be had), `input` (cannot be sent), `extract`, `result` (rows cannot be stored),
    `timeout`, `memory`, `crash`."""
    permanent: bool
    """Trying again will not help."""
    trace: str = ""


@dataclass(frozen=True, slots=True)
class ItemProgress:
    """An item that takes long is at work; its result comes later."""

    item_id: str
    done: float
    """0 to 1."""


ItemResult: TypeAlias = ItemRows | ItemFailure | ItemProgress
