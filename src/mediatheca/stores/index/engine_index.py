"""What every search index over an `Engine` does alike, once it is inside the engine of a collection."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from mediatheca.kernel.documents import Document
from mediatheca.kernel.filters import Filter
from mediatheca.kernel.search import Hit, TextQuery, VectorQuery
from mediatheca.kernel.sparse import is_sparse
from mediatheca.stores.index import search
from mediatheca.stores.index.engine import Engine
from mediatheca.stores.index.patches import plan_patches
from mediatheca.stores.index.points import SLICE, point_id
from mediatheca.stores.index.words import words


class EngineIndex(ABC):
    """The methods of `SearchIndex` that are a call of one engine."""

    tokenizer: str = "multilingual"
    """Of text indexes."""

    @abstractmethod
    def reading(self, collection_id: str) -> AbstractContextManager[Engine]:
        """The engine of a collection.

        Raises:
            NotFoundError: the collection has no index.
        """

    @abstractmethod
    def writing(self, collection_id: str) -> AbstractContextManager[Engine]:
        """The same for changes, which come one after the other."""

    def upsert(self, collection_id: str, documents: Sequence[Document]) -> None:
        for start in range(0, len(documents), SLICE):
            with self.writing(collection_id) as engine:
                search.apply(engine, documents[start : start + SLICE])

    def patch(self, collection_id: str, documents: Sequence[Document]) -> list[Document]:
        rest: list[Document] = []
        for start in range(0, len(documents), SLICE):
            part = documents[start : start + SLICE]
            with self.writing(collection_id) as engine:
                held = engine.retrieve([point_id(document.document_id) for document in part], None, ())
                patches, others = plan_patches(part, held)
                if patches:
                    engine.patch(patches)
            rest += others
        return rest

    def delete(self, collection_id: str, document_ids: Collection[str]) -> None:
        if document_ids:
            with self.writing(collection_id) as engine:
                engine.remove([point_id(document_id) for document_id in document_ids])

    def delete_objects(self, collection_id: str, object_ids: Collection[str], upto_seq: int) -> None:
        if object_ids:
            with self.writing(collection_id) as engine:
                engine.remove_matching(search.derived_from(engine, object_ids, upto_seq))

    def query(self, collection_id: str, query: VectorQuery | TextQuery) -> list[Hit]:
        with self.reading(collection_id) as engine:
            return search.run(engine, query, collection_id)

    def exact(self, collection_id: str, query: VectorQuery | TextQuery) -> bool:
        if isinstance(query, TextQuery) or query.exact or is_sparse(query.vector):
            return True
        with self.reading(collection_id) as engine:
            return engine.scans()

    def get(
        self, collection_id: str, document_ids: Sequence[str], with_vectors: Collection[str] = (), *, bare: bool = False
    ) -> list[Hit]:
        with self.reading(collection_id) as engine:
            if bare:
                return search.get_bare(engine, document_ids, with_vectors, collection_id)
            return search.get(engine, document_ids, with_vectors)

    def scroll(self, collection_id: str, filter: Filter | None, limit: int, after: str = "") -> list[Hit]:
        with self.reading(collection_id) as engine:
            return search.scroll(engine, filter, limit, after)

    def count(self, collection_id: str, filter: Filter | None = None) -> int:
        with self.reading(collection_id) as engine:
            return search.count(engine, filter)

    def facet(self, collection_id: str, key: str, limit: int, filter: Filter | None = None) -> list[tuple[Any, int]]:
        with self.reading(collection_id) as engine:
            return search.facet(engine, key, limit, filter)

    def ids(self, collection_id: str) -> Iterator[str]:
        start: str | None = None
        while True:
            with self.reading(collection_id) as engine:
                found, start = search.all_ids(engine, start)
            yield from found
            if start is None:
                return

    def words(self, text: str, language: str = "") -> dict[int, int]:
        return words(text, self.tokenizer, language)
