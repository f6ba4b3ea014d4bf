"""Stored retrievers ready to run: compiled plans kept in memory, dropped when a retriever or collection changes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mediatheca.flows.indexing import stored_vectors
from mediatheca.flows.outside.reach import Budget
from mediatheca.flows.plugins.realtime import who_answers
from mediatheca.flows.retrieve import Plan, RetrieveEngine
from mediatheca.flows.retrieve.cache import CachePolicy, cache_policy
from mediatheca.kernel.calibration import Calibration, calibration_of
from mediatheca.kernel.errors import NotFoundError, ValidationError
from mediatheca.kernel.scope import Scope
from mediatheca.stages import CollectionView
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.tx import ReadTx, Record

TTL_S = 5.0
"""How long a change made by another process may stay unseen."""
_MAX = 2_000
_TOPICS = frozenset(f"resource:{kind}" for kind in ("retriever", "calibration", "collection", "namespace", "plugin"))
"""Changes that a plan may not outlive."""
MAX_COLLECTIONS = 1_000


@dataclass(frozen=True, slots=True)
class Compiled:
    """A retriever version and its plan."""

    retriever_id: str
    name: str
    version: int
    plan: Plan
    max_time_ms: float | None
    budget: Budget
    cache: CachePolicy | None
    expires: float
    calibration: Calibration | None = None
    """What the scores of this version say about relevance, where that was measured."""


def views(tx: ReadTx, identifiers: Sequence[str] | None) -> list[CollectionView]:
    """Collections as stages see them. None: all of the namespace; an empty list: none, for work on the inputs alone.

    Raises:
        NotFoundError: one is unknown in this namespace.
        ValidationError: the identifiers are no list of texts, or too many.
    """
    if identifiers is None:
        return [_seen(tx, record) for record in tx.resources("collection")]
    if not isinstance(identifiers, list | tuple) or not all(isinstance(ident, str) for ident in identifiers):
        raise ValidationError.at("collection_identifiers", "must be a list of collection ids or names", "list_type")
    named = list(dict.fromkeys(identifiers))
    if len(named) > MAX_COLLECTIONS:
        message = f"names {len(named)} collections; at most {MAX_COLLECTIONS}"
        raise ValidationError.at("collection_identifiers", message, "too_long")
    found = [tx.get("collection", ident) for ident in named]
    return [_seen(tx, record) for record in {record.id: record for record in found}.values()]


def _seen(tx: ReadTx, record: Record) -> CollectionView:
    body = record.body
    fields, languages = dict(body["indexed_fields"]), dict(body.get("languages", {}))
    redirected = dict(body.get("index_map") or {})
    given = json.dumps((body.get("feature_extractor") or {}).get("parameters") or {}, sort_keys=True)
    vectors = tuple(replace(index, parameters=given) for index in stored_vectors(body))
    if asks := who_answers(tx, body):
        vectors = tuple(
            index if index.modalities else replace(index, asks=asks, modalities=("text",)) for index in vectors
        )
    return CollectionView(record.id, record.name, vectors, fields, languages, redirected)


class _Gone(NotFoundError):
    def __init__(self, name: str, gone: Sequence[str]) -> None:
        super().__init__("collection", gone[0])
        self.message = (
            f"the collections of retriever '{name}' were deleted ({', '.join(gone[:3])}); "
            "give it others: PATCH its collection_identifiers"
        )


class RetrieverPlans:
    """Looks up plans by scope and id or name; a hit costs a dict look-up."""

    def __init__(self, database: Database, engine: RetrieveEngine) -> None:
        self._db = database
        self._engine = engine
        self._plans: dict[tuple[Scope, str, int | None], Compiled] = {}
        database.listen(self._forget)

    def _forget(self, topics: set[str]) -> None:
        if topics & _TOPICS:
            self._plans = {}

    async def find(self, scope: Scope, ident: str, version: int | None = None) -> Compiled:
        """`get` for the event loop: a miss is looked up in a thread."""
        cached = self._plans.get((scope, ident, version))
        if cached is None or cached.expires < time.monotonic():
            return await asyncio.to_thread(self.get, scope, ident, version)
        return cached

    def get(self, scope: Scope, ident: str, version: int | None = None) -> Compiled:
        """The compiled retriever.

        Raises:
            NotFoundError: no such retriever, or version of it, in this namespace; or all its collections were deleted.
            ValidationError: it no longer fits its collections.
        """
        cached = self._plans.get((scope, ident, version))
        if cached is None or cached.expires < time.monotonic():
            # Kept in the memory of before the look-up: a change that commits meanwhile replaces it.
            plans = self._plans
            cached = self._load(scope, ident, version)
            if len(plans) >= _MAX:
                plans.clear()
            plans[scope, ident, version] = cached
        return cached

    def _load(self, scope: Scope, ident: str, version: int | None) -> Compiled:
        with self._db.read(scope) as tx:
            record = tx.get("retriever", ident)
            body = record.body if version in (None, record.version) else _old_body(tx, record, version)
            idents = [] if body.get("inference_only") else body["collection_ids"] or None
            gone = tuple(found for found in idents or () if tx.find("collection", found) is None)
            if gone and len(gone) == len(idents or ()):
                raise _Gone(record.name, gone)
            collections = views(tx, idents if idents is None else [found for found in idents if found not in gone])
            fitted = tx.find("calibration", record.id)
        plan = self._engine.compile(body["stages"], collections, body["input_schema"])
        plan = replace(plan, optimize=body.get("optimize") or plan.optimize, gone=gone)
        limits: dict[str, Any] = body.get("budget_limits") or {}
        time_limit = limits.get("max_time_ms", limits.get("max_execution_time_ms"))
        expires = time.monotonic() + TTL_S
        used = version or record.version
        cache = cache_policy(body.get("cache_config"), plan.stages)
        budget = Budget(limits.get("max_llm_tokens"), limits.get("max_credits"), limits.get("max_inference_calls"))
        calibration = calibration_of(fitted.body, used) if fitted is not None else None
        return Compiled(record.id, record.name, used, plan, time_limit, budget, cache, expires, calibration)


def _old_body(tx: ReadTx, record: Record, version: int | None) -> dict[str, Any]:
    row = tx.row("retriever_versions", {"retriever_id": record.id, "version": version})
    if row is None:
        raise NotFoundError("retriever version", f"{record.id}@{version}")
    body: dict[str, Any] = row["body"]
    return body
