"""The embedded search index: one Qdrant Edge shard per collection under one directory, in this process."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from mediatheca.kernel.documents import Document
from mediatheca.kernel.errors import NotFoundError, UnavailableError
from mediatheca.kernel.filters import Filter
from mediatheca.kernel.search import Hit, TextQuery, VectorQuery
from mediatheca.stores.index import search
from mediatheca.stores.index.base import IndexSpec
from mediatheca.stores.index.points import SLICE, point_id
from mediatheca.stores.index.rebuild import build_aside
from mediatheca.stores.index.shard_files import (
    allocated_bytes,
    lock_root,
    require_space,
    write_durably,
    write_watermark,
)
from mediatheca.stores.index.shard_pool import ShardPool


class EdgeIndex:
    """`SearchIndex` on Qdrant Edge. Owns `root`: a second process is refused.

    Args:
        root: directory, made when missing.
        max_open: shards kept open; one costs about 0.3 MB and a thread, opening it again 50 ms and more (5 a field).

    Raises:
        UnavailableError: the directory is in use or cannot be written.
    """

    def __init__(self, root: Path, *, max_open: int = 64) -> None:
        self._root = Path(root)
        self._lock: int | None = lock_root(self._root)
        self._pool = ShardPool(self._root, max_open)

    def ensure(self, spec: IndexSpec) -> None:
        self._pool.ensure(spec)

    def drop(self, collection_id: str) -> None:
        self._pool.drop(collection_id)

    def watermark(self, collection_id: str) -> int:
        try:
            with self._pool.reading(collection_id) as held:
                return held.watermark
        except NotFoundError:
            return 0

    def upsert(self, collection_id: str, documents: Sequence[Document]) -> None:
        for start in range(0, len(documents), SLICE):
            with self._pool.writing(collection_id) as held:
                search.apply(held.shard, documents[start : start + SLICE])

    def delete(self, collection_id: str, document_ids: Collection[str]) -> None:
        if document_ids:
            with self._pool.writing(collection_id) as held:
                held.shard.remove([point_id(document_id) for document_id in document_ids])

    def delete_objects(self, collection_id: str, object_ids: Collection[str], upto_seq: int) -> None:
        if object_ids:
            with self._pool.writing(collection_id) as held:
                held.shard.remove_matching(search.derived_from(held.shard, object_ids, upto_seq))

    def flush(self, collection_id: str, watermark: int) -> None:
        with self._pool.writing(collection_id) as held:
            held.shard.flush()
            held.dirty = False
            if watermark != held.watermark:
                write_watermark(held.generation, watermark)
                held.watermark = watermark

    def query(self, collection_id: str, query: VectorQuery | TextQuery) -> list[Hit]:
        with self._pool.reading(collection_id) as held:
            return search.run(held.shard, query)

    def get(self, collection_id: str, document_ids: Sequence[str], with_vectors: Collection[str] = ()) -> list[Hit]:
        with self._pool.reading(collection_id) as held:
            return search.get(held.shard, document_ids, with_vectors)

    def scroll(self, collection_id: str, filter: Filter | None, limit: int, after: str = "") -> list[Hit]:
        with self._pool.reading(collection_id) as held:
            return search.scroll(held.shard, filter, limit, after)

    def count(self, collection_id: str, filter: Filter | None = None) -> int:
        with self._pool.reading(collection_id) as held:
            return search.count(held.shard, filter)

    def facet(self, collection_id: str, key: str, limit: int, filter: Filter | None = None) -> list[tuple[Any, int]]:
        with self._pool.reading(collection_id) as held:
            return search.facet(held.shard, key, limit, filter)

    def ids(self, collection_id: str) -> Iterator[str]:
        start: str | None = None
        while True:
            with self._pool.reading(collection_id) as held:
                found, start = search.all_ids(held.shard, start)
            yield from found
            if start is None:
                return

    def rebuild(
        self,
        spec: IndexSpec,
        pages: Iterator[list[Document]],
        watermark: int,
        before_swap: Callable[[], None] = lambda: None,
    ) -> None:
        require_space(self._root)
        self._pool.clean(spec.collection_id)
        generation = self._pool.files(spec.collection_id).new_generation()
        try:
            build_aside(generation, spec, pages, watermark)
            before_swap()
            self._pool.swap(spec, generation, watermark)
        except BaseException:
            shutil.rmtree(generation, ignore_errors=True)
            raise

    def stats(self, collection_id: str) -> dict[str, Any]:
        with self._pool.reading(collection_id) as held:
            return {**held.shard.stats(), "bytes": allocated_bytes(held.generation)}

    def check(self) -> None:
        if self._lock is None:
            raise UnavailableError("the search index is closed: start the server again")
        require_space(self._root)
        probe = self._root / ".probe"
        try:
            write_durably(probe, "probe")
            probe.unlink()
        except OSError as error:
            raise UnavailableError(
                f"index directory '{self._root}' cannot be written: {error.strerror}. Check free space and its owner."
            ) from error

    def close(self) -> None:
        self._pool.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
