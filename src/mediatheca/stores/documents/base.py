"""The contract of a document store: one table per collection, one leased writer per table, immutable readers.

Rules every store keeps (each is a test of `mediatheca.testing.documents`):

* A commit is atomic and durable when the call returns. All rows of one commit carry its `write_seq`, which grows from
  commit to commit: a number that is not above the last one is refused, since the index may have passed it.
* Writes are full-row upserts by `document_id`. `replace_objects` also marks every other live document of the named
  objects as deleted (a dead row with the commit's `write_seq`), so one commit replaces an object's documents and
  `changes` tells the index about the ones that vanished.
* The caller holds the table's lease while it writes; the store refreshes its handle inside every write.
* Readers get an immutable handle that is swapped, never refreshed in place; a read sees every commit acknowledged
  before it began.
* A row counts as dead when `deleted` is set or a tombstone covers it; the caller passes tombstones to reads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.documents import Document, Vector, VectorIndex
from mediatheca.kernel.filters import Filter


@dataclass(frozen=True, slots=True)
class Tombstones:
    """Deletes not yet purged: a row is dead when its `write_seq` is at most the number given for its id or object."""

    documents: Mapping[str, int] = field(default_factory=dict)
    objects: Mapping[str, int] = field(default_factory=dict)

    def cover(self, document: Document) -> bool:
        seq = document.write_seq
        return (
            seq <= self.documents.get(document.document_id, -1)
            or seq <= self.objects.get(document.object_id, -1)
            or seq <= self.objects.get(document.root_object_id, -1)
        )


NO_TOMBSTONES = Tombstones()


@dataclass(frozen=True, slots=True)
class Scan:
    """What to read. `after` is the last `document_id` of the page before (order is by `document_id`)."""

    filter: Filter | None = None
    after: str = ""
    limit: int | None = None
    vectors: bool | Collection[str] = False
    """False: none; True: all; a collection of index names: those."""
    object_ids: Collection[str] | None = None


@dataclass(frozen=True, slots=True)
class VectorPage:
    """Documents with their vectors of one index, without a `Document` each."""

    document_ids: list[str]
    vectors: npt.NDArray[np.float32]
    """Shape (documents, dimensions), maybe read-only; of a multi-vector index (tokens of all, dimensions)."""
    write_seqs: npt.NDArray[np.int64]
    payloads: list[dict[str, Any]]
    """Empty when none were asked for."""
    offsets: npt.NDArray[np.int64]
    """Shape (documents + 1,): rows `offsets[i]` to `offsets[i + 1]` of `vectors` are the tokens of document i."""
    without: int = 0
    """Matching documents seen beside these that have no such vector."""


class DocumentStore(Protocol):
    """All methods are synchronous and thread-safe; callers on the event loop use a thread."""

    def ensure(self, collection_id: str, indexes: Sequence[VectorIndex]) -> None:
        """Create the table, or add vector columns it lacks. Idempotent and cheap. Needs the table's lease.

        Raises:
            ConflictError: an index of that name has another shape.
        """

    def drop_vectors(self, collection_id: str, names: Collection[str]) -> None:
        """Remove the columns of vector indexes by name. Needs the lease. Names the table does not have are no error."""

    def drop(self, collection_id: str) -> None:
        """Remove the table and its files. A missing table is not an error."""

    def upsert(
        self, collection_id: str, documents: Sequence[Document], write_seq: int, replace_objects: Collection[str] = ()
    ) -> int:
        """Write full rows in one commit; the last of several rows with one id wins. Returns the dead rows written.

        Raises:
            ValidationError: a vector of the wrong shape, or a payload that is not JSON.
            ConflictError: `write_seq` is not above `last_seq`.
            UnavailableError: the storage refuses (full disk, no connection).
        """

    def purge(self, collection_id: str, tombstones: Tombstones, dead_before: int) -> int:
        """Delete rows that tombstones cover and dead rows with `write_seq <= dead_before`. Returns rows removed."""

    def get(
        self,
        collection_id: str,
        document_ids: Sequence[str],
        *,
        tombstones: Tombstones = NO_TOMBSTONES,
        vectors: bool | Collection[str] = False,
    ) -> list[Document]:
        """Live documents in the order asked; missing ones are left out."""

    def scan(self, collection_id: str, scan: Scan, *, tombstones: Tombstones = NO_TOMBSTONES) -> Iterator[Document]:
        """Live documents by `document_id` ascending."""

    def count(self, collection_id: str, filter: Filter | None = None, *, tombstones: Tombstones = NO_TOMBSTONES,
              object_ids: Collection[str] | None = None) -> int:  # fmt: skip
        """How many live documents match, of these objects (direct or root) if any are named."""

    def changes(self, collection_id: str, after_seq: int, upto_seq: int | None = None) -> Iterator[list[Document]]:
        """Rows with `after_seq < write_seq <= upto_seq` in ascending `write_seq`, vectors included, dead rows included.

        Yielded in pages of bounded size, so that a rebuild of a large table needs little memory. A page never ends
        inside a commit: the last `write_seq` of a page is a safe watermark. A row written again while the pages are
        read is left out at its old number and comes under its new one.
        """

    def nearest(
        self,
        collection_id: str,
        index: VectorIndex,
        vector: Vector,
        limit: int,
        filter: Filter | None = None,
        *,
        tombstones: Tombstones = NO_TOMBSTONES,
    ) -> list[tuple[float, Document]]:
        """Exact k nearest live documents, best first, scores as the index gives them (higher is better)."""

    def vectors(
        self,
        collection_id: str,
        index: VectorIndex,
        *,
        filter: Filter | None = None,
        tombstones: Tombstones = NO_TOMBSTONES,
        payload: bool | Collection[str] = False,
        batch: int = 8_192,
    ) -> Iterator[VectorPage]:
        """The vectors of all live documents that match, in no promised order, each document once; about `batch` a page.

        `payload`: True brings it whole, a collection its fields of these names; False costs nothing. A document written
        while the pages are read comes as it was or as it is.

        Raises:
            ValidationError: the index is sparse.
        """

    def last_seq(self, collection_id: str) -> int:
        """The highest `write_seq` committed, 0 for an empty table."""

    def tag(self, collection_id: str, name: str) -> None:
        """Name the current version; maintenance keeps tagged versions readable.

        Raises:
            ConflictError: the name is taken.
        """

    def maintain(self, collection_id: str) -> None:
        """Compact, optimise scalar indexes, clean old versions. Needs the lease; call about every 100 commits."""

    def check(self) -> None:
        """Write, read and remove a probe. Raises UnavailableError saying what to do."""

    def close(self) -> None: ...
