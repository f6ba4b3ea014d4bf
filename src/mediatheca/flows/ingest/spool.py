"""While a chunk is extracted: files are stored as they come, and the chunk says how far it is."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from mediatheca.extractors import Artifact
from mediatheca.flows.ingest.cache_file import StoredArtifact
from mediatheca.flows.ingest.tiers import OPEN_CHUNK
from mediatheca.flows.services import JobServices
from mediatheca.kernel import clock
from mediatheca.kernel.scope import Scope
from mediatheca.stores.blobs.base import BlobStore
from mediatheca.stores.db.tx import Row

_HELD_BYTES = 16 << 20
_SAY_S = 2.0


class Spool:
    """Stores the files of results under the keys they are given, named by content: what is stored twice is the same.
    Small ones wait for others, so that a durable store syncs once for many."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._held: dict[str, Artifact] = {}
        self._bytes = 0
        self._stored: set[str] = set()

    def add(self, artifacts: Mapping[str, Artifact]) -> None:
        for key, artifact in artifacts.items():
            if key in self._stored:
                continue
            self._stored.add(key)
            if isinstance(artifact, StoredArtifact):
                self._blobs.copy(artifact.key, key)
            elif artifact.path is not None:  # it is there only until the next result
                self._blobs.put_file(key, Path(artifact.path), artifact.mime_type)
            else:
                self._held[key] = artifact
                self._bytes += len(artifact.data)
        if self._bytes >= _HELD_BYTES:
            self.flush()

    def flush(self) -> None:
        held, self._held, self._bytes = self._held, {}, 0
        if held:
            self._blobs.put_many((key, made.data, made.mime_type) for key, made in held.items())

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.flush()


class Advance:
    """Says now and then how much of a chunk is done."""

    def __init__(self, services: JobServices, scope: Scope, chunk: Row, items: int, done: int) -> None:
        self._db, self._scope, self._chunk = services.db, scope, chunk
        self._items, self._done = max(1, items), float(done)
        self._partly: dict[str, float] = {}
        self._said = time.monotonic()

    def partly(self, item_id: str, share: float) -> None:
        self._partly[item_id] = min(1.0, max(0.0, share))
        self._say()

    def done(self, item_id: str) -> None:
        self._partly.pop(item_id, None)
        self._done += 1
        self._say()

    def _say(self) -> None:
        if time.monotonic() - self._said < _SAY_S:
            return
        self._said = time.monotonic()
        share = (self._done + sum(self._partly.values())) / self._items
        values = {"advanced": int(self._chunk["units"] * min(1.0, share)), "updated_at": clock.now()}
        where = {"chunk_id": self._chunk["chunk_id"], "status": OPEN_CHUNK}
        self._db.run(self._scope, lambda tx: tx.update("chunks", where, values))
