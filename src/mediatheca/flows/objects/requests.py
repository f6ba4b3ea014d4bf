"""A request to create objects: who asks, how, and what becomes of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mediatheca.kernel.errors import MediathecaError
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.tx import Row

if TYPE_CHECKING:  # services are made of what looks uploads up
    from mediatheca.flows.services import Services


@dataclass(frozen=True, slots=True)
class Author:
    """Who writes, and where."""

    services: Services
    scope: Scope
    actor: str


@dataclass(frozen=True, slots=True)
class Options:
    """How to create: what to do with an existing unique key, whether to fetch references now, and to process at once.

    `uploads`: uploads that are being confirmed, by id.
    """

    policy: str | None = None
    fetch: bool = False
    auto_process: bool = False
    uploads: Mapping[str, Row] = field(default_factory=dict)


@dataclass(slots=True)
class Outcome:
    """What became of one row of a request. Exactly one of `row` and `error` is set."""

    index: int
    row: Row | None = None
    blobs: list[Row] = field(default_factory=list)
    replayed_by: str | None = None
    error: MediathecaError | None = None
