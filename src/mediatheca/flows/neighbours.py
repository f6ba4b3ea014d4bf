"""What an execution may reach of its namespace besides its own collections: other collections, other retrievers."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mediatheca.flows.learning.settings import static_settings
from mediatheca.flows.outside.reach import NO_LIMITS, Reach
from mediatheca.flows.retrieve import ExecutionContext, Plan
from mediatheca.flows.retrieve.context import CONFINED
from mediatheca.flows.retrievers import Compiled, RetrieverPlans, views
from mediatheca.flows.taxonomies.nodes import read_view
from mediatheca.flows.vault import Vault
from mediatheca.kernel.errors import ForbiddenError, NotFoundError
from mediatheca.kernel.scope import Scope
from mediatheca.kernel.taxonomies import TaxonomyView
from mediatheca.stages import CollectionView
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.tx import Record, Row


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What lies around the executions of a process. One for each event loop that executes: connections belong to it."""

    database: Database
    plans: RetrieverPlans
    vault: Vault
    reach: Reach

    def context(self, scope: Scope, found: Compiled | None = None, **more: Any) -> ExecutionContext:
        """Who executes what: a stored retriever with its budgets and its cache, or stages that are not stored."""
        own: dict[str, Any] = {}
        if found is not None:
            own = {
                "retriever_id": found.retriever_id,
                "retriever_name": found.name,
                "version": found.version,
                "max_time_ms": found.max_time_ms,
                "max_credits": found.budget.max_credits,
                "cache": found.cache,
                "calibration": found.calibration,
            }
        around = {
            "namespace_id": scope.namespace_id,
            "internal_id": scope.organization_id,
            "neighbours": self.neighbours(scope),
            "outside": self.reach.bound(scope, NO_LIMITS if found is None else found.budget),
        }
        return ExecutionContext(**{**around, **own, **more})

    def neighbours(self, scope: Scope) -> NamespaceNeighbours:
        return NamespaceNeighbours(self.database, self.plans, self.vault, scope)


class NamespaceNeighbours:
    """See `mediatheca.flows.retrieve.seams.Neighbours`; one per execution, bound to the tenant's namespace."""

    def __init__(self, database: Database, plans: RetrieverPlans, vault: Vault, scope: Scope) -> None:
        self._db = database
        self._vault = vault
        self._plans = plans
        self._scope = scope

    async def collection(self, identifier: str) -> CollectionView:
        def read() -> CollectionView:
            with self._db.read(self._scope) as tx:
                return views(tx, [identifier])[0]

        return await asyncio.to_thread(read)

    async def collections(self) -> list[CollectionView]:
        def read() -> list[CollectionView]:
            with self._db.read(self._scope) as tx:
                return views(tx, None)

        return await asyncio.to_thread(read)

    async def records(self, idents: Collection[str]) -> Mapping[str, dict[str, Any]]:
        def read() -> dict[str, dict[str, Any]]:
            with self._db.read(self._scope) as tx:
                objects = tx.rows("objects", {"object_id": list(idents)})
                collections = [found for ident in idents if (found := tx.find("collection", ident)) is not None]
            shown = {record.id: _collection(record) for record in collections if record.id in idents}
            return shown | {row["object_id"]: _object(row) for row in objects}

        return await asyncio.to_thread(read)

    async def retriever(self, identifier: str, version: int | None = None) -> tuple[str, Plan]:
        found = await self._plans.find(self._scope, identifier, version)
        return found.retriever_id, found.plan

    async def taxonomy(self, identifier: str, version: int | None = None) -> TaxonomyView:
        return await asyncio.to_thread(read_view, self._db, self._plans, self._scope, identifier, version)

    async def upload(self, identifier: str) -> str:
        def read() -> str:
            with self._db.read(self._scope) as tx:
                row = tx.row("uploads", {"upload_id": identifier})
            if row is None:
                raise NotFoundError("upload", identifier)
            return str(row["store_key"])

        return await asyncio.to_thread(read)

    async def secrets(self, names: Collection[str]) -> Mapping[str, str]:
        return await self._vault.secrets_for(self._scope, names)

    async def fusion_weights(self, retriever_id: str, feature_uris: Sequence[str]) -> dict[str, float] | None:
        """Those of the shipped weight set: nothing is learned or drawn here."""

        def read() -> dict[str, float] | None:
            with self._db.read(self._scope) as tx:
                return dict(static_settings(tx, retriever_id).shipped_weights) or None

        return await asyncio.to_thread(read) if retriever_id else None


def _object(row: Row) -> dict[str, Any]:
    kept = ("object_id", "bucket_id", "key_prefix", "metadata", "status", "created_at", "updated_at")
    return {**row["fields"], **{name: row[name] for name in kept}}


def _collection(record: Record) -> dict[str, Any]:
    named = {"collection_id": record.id, "collection_name": record.name, "description": record.body.get("description")}
    return {**named, "created_at": record.created_at, "updated_at": record.updated_at}


class Confined(NamespaceNeighbours):
    """For stages that are not stored, of a caller who may only read: no secrets."""

    def __init__(self, inner: NamespaceNeighbours) -> None:
        super().__init__(inner._db, inner._plans, inner._vault, inner._scope)

    async def secrets(self, names: Collection[str]) -> Mapping[str, str]:
        raise ForbiddenError(f"SECRET.{min(names)}: {CONFINED}")


class Weighted(NamespaceNeighbours):
    """With these weights for the searches that are fused, to measure them."""

    def __init__(self, inner: NamespaceNeighbours, weights: Mapping[str, float]) -> None:
        super().__init__(inner._db, inner._plans, inner._vault, inner._scope)
        self._weights = dict(weights)

    async def fusion_weights(self, retriever_id: str, feature_uris: Sequence[str]) -> dict[str, float] | None:
        return self._weights or None
