"""The retrieval engine over a search index of its own, in this process: no server, no document store."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mediatheca.flows.retrieve import ExecutionContext, Plan, RetrieveEngine
from mediatheca.flows.retrieve.cache import CachePolicy
from mediatheca.kernel.documents import Vector, VectorIndex
from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.filters import Filter
from mediatheca.kernel.search import Hit, TextQuery, VectorQuery
from mediatheca.stages import CollectionView
from mediatheca.stores.index.base import SearchIndex


class IndexOnly:
    """A `Searcher` that reads the index and nothing else."""

    def __init__(self, index: SearchIndex) -> None:
        self.index = index
        self.writes = 0

    def version(self, collection_id: str) -> int:
        return self.writes

    async def search(self, collection_id: str, query: VectorQuery | TextQuery) -> tuple[list[Hit], bool]:
        return self.index.query(collection_id, query), False

    async def scroll(self, collection_id: str, filter: Filter | None, limit: int) -> tuple[list[Hit], bool]:
        return self.index.scroll(collection_id, filter, limit), False

    async def count(self, collection_id: str, filter: Filter | None) -> tuple[int, bool]:
        return self.index.count(collection_id, filter), False

    async def facet(
        self, collection_id: str, key: str, limit: int, filter: Filter | None
    ) -> tuple[list[tuple[Any, int]], bool]:
        return self.index.facet(collection_id, key, limit, filter), False

    async def get(
        self, collection_id: str, ids: Sequence[str], with_vectors: Collection[str] = (), *, bare: bool = False
    ) -> tuple[list[Hit], bool]:
        return self.index.get(collection_id, ids, with_vectors, bare=bare), False

    async def catch_up(self, collection_id: str, seq: int) -> int:
        return self.index.watermark(collection_id)

    def words(self, text: str, language: str = "") -> Mapping[int, int]:
        return self.index.words(text, language)

    def exact(self, collection_id: str, query: VectorQuery | TextQuery) -> bool:
        return self.index.exact(collection_id, query)


async def _no_fetch(url: str) -> bytes:
    raise UnavailableError("this benchmark reads no files")


async def _no_decode(data: bytes, index: VectorIndex) -> Vector:
    raise UnavailableError("this benchmark reads no files")


def _same(key: str) -> str:
    return key


class Retriever:
    """One pipeline over one collection."""

    def __init__(
        self,
        index: SearchIndex,
        view: CollectionView,
        models: Any,
        stages: list[dict[str, Any]],
        cache: CachePolicy | None = None,
    ) -> None:
        self.context = ExecutionContext(cache=cache)
        self.engine = RetrieveEngine(
            searcher=IndexOnly(index),
            models=models,
            fetch=_no_fetch,
            decode=_no_decode,
            sign=_same,
            cursor_key=b"of a benchmark",
        )
        self.plan: Plan = self.engine.compile(stages, [view])

    async def ask(self, inputs: dict[str, Any], limit: int = 10, **request: Any) -> dict[str, Any]:
        return await self.engine.execute(self.plan, {"inputs": inputs, "limit": limit, **request}, self.context)

    def ids(self, inputs: dict[str, Any], limit: int = 10) -> list[str]:
        body = asyncio.run(self.ask(inputs, limit))
        return [document["document_id"] for document in body["documents"]]
