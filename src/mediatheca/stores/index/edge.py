"""The embedded search index: one Qdrant Edge shard per collection under one directory, in this process."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mediatheca.kernel.errors import NotFoundError, UnavailableError
from mediatheca.stores.index.base import Hook, IndexSpec, Pages
from mediatheca.stores.index.edge_shard import EdgeShard
from mediatheca.stores.index.engine_index import EngineIndex
from mediatheca.stores.index.rebuild import build_aside
from mediatheca.stores.index.shard_files import (
    allocated_bytes,
    lock_root,
    require_space,
    write_durably,
    write_watermark,
)
from mediatheca.stores.index.shard_pool import ShardPool


class EdgeIndex(EngineIndex):
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

    @contextmanager
    def reading(self, collection_id: str) -> Iterator[EdgeShard]:
        with self._pool.reading(collection_id) as held:
            yield held.shard

    @contextmanager
    def writing(self, collection_id: str) -> Iterator[EdgeShard]:
        with self._pool.writing(collection_id) as held:
            yield held.shard

    def flush(self, collection_id: str, watermark: int) -> None:
        with self._pool.writing(collection_id) as held:
            held.shard.flush()
            held.dirty = False
            if watermark != held.watermark:
                write_watermark(held.generation, watermark)
                held.watermark = watermark

    def rebuild(self, spec: IndexSpec, pages: Pages, watermark: int, before_swap: Hook = lambda: None) -> None:
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
