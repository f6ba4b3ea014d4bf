"""Learned weights for the searches of one execution, and what its answer and its record say about them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mediatheca.flows.learning.interactions import credits_of
from mediatheca.flows.learning.service import Asker, LearnedFusion
from mediatheca.flows.retrieve import ExecuteRequest, Plan
from mediatheca.flows.retrieve.seams import Neighbours
from mediatheca.kernel.scope import Scope
from mediatheca.kernel.taxonomies import TaxonomyView
from mediatheca.stages import CollectionView


class LearningNeighbours:
    """The neighbours of an execution, with learned weights. One per execution: it remembers what it told."""

    def __init__(self, inner: Neighbours, learning: LearnedFusion, scope: Scope, asked: ExecuteRequest) -> None:
        self._inner = inner
        self._learning = learning
        self._scope = scope
        self._asked = asked
        self._told: dict[str, Any] | None = None

    async def collection(self, identifier: str) -> CollectionView:
        return await self._inner.collection(identifier)

    async def collections(self) -> list[CollectionView]:
        return await self._inner.collections()

    async def records(self, idents: Collection[str]) -> Mapping[str, dict[str, Any]]:
        return await self._inner.records(idents)

    async def retriever(self, identifier: str, version: int | None = None) -> tuple[str, Plan]:
        return await self._inner.retriever(identifier, version)

    async def taxonomy(self, identifier: str, version: int | None = None) -> TaxonomyView:
        return await self._inner.taxonomy(identifier, version)

    async def upload(self, identifier: str) -> str:
        return await self._inner.upload(identifier)

    async def secrets(self, names: Collection[str]) -> Mapping[str, str]:
        return await self._inner.secrets(names)

    async def fusion_weights(self, retriever_id: str, feature_uris: Sequence[str]) -> dict[str, float] | None:
        if not retriever_id:  # stages that are not stored have no history
            return None
        asked = self._asked
        user = asked.user_id or asked.inputs.get("user_id")
        asker = Asker(self._scope, retriever_id, asked.inputs, str(user or ""), asked.session_id or "")
        sampled = await self._learning.sample(asker, feature_uris)
        self._told = sampled.context
        return sampled.weights

    def report(self, result: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The answer with what was learned in it, and what the record of the execution keeps for later clicks."""
        told = {} if self._told is None else {"learned_fusion_context": self._told}
        if self._told is not None and self._told.get("broken"):
            result = {**result, "warnings": [*result.get("warnings", ()), f"fusion is static: {self._told['reason']}"]}
        named = ("user_id", "session_id")
        person = {name: value for name in named if (value := getattr(self._asked, name))}
        return {**result, **told}, {**credits_of(result), **told, **person}
