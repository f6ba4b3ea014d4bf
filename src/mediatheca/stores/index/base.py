"""The contract of a search index: vectors + payload, derived from the documents, always rebuildable.

Rules every index keeps (each is a test of `mediatheca.testing.index`):

* Points carry the document's payload, its system fields and its `write_seq`. An upsert older than the stored point
  (`write_seq` lower) is ignored, so replays are harmless.
* `watermark` is the `write_seq` up to which a durable flush holds everything; it is stored only after the flush.
* Filters mean what `mediatheca.kernel.filters.Filter.matches` means: what the engine cannot express is rechecked.
* Scores: higher is better. cosine and dot raw, euclid as 1 / (1 + distance), lexical as BM25.
* The engine may hold the GIL for a call; calls are short (slices of about 100 points, top-k queries).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from mediatheca.kernel.documents import Document, VectorIndex
from mediatheca.kernel.filters import Filter
from mediatheca.kernel.search import Hit, TextQuery, VectorQuery

Pages: TypeAlias = Iterator[list[Document]]
Hook: TypeAlias = Callable[[], None]


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """What a collection's index holds. `fields` maps payload paths to the schema type they are indexed as."""

    collection_id: str
    vectors: tuple[VectorIndex, ...]
    fields: dict[str, str] = field(default_factory=dict)
    """Dotted payload path → `keyword` | `integer` | `float` | `bool` | `datetime` | `text`."""
    languages: dict[str, str] = field(default_factory=dict)
    """Text field → the language it is analysed in (`mediatheca.kernel.analysis`); multilingual where not given."""


class SearchIndex(Protocol):
    """Synchronous and thread-safe. `query` is fast enough (well under a millisecond) to be called on the event loop."""

    def ensure(self, spec: IndexSpec) -> None:
        """Open or create the index of a collection; add vectors and payload fields it lacks. Idempotent."""

    def drop(self, collection_id: str) -> None: ...

    def watermark(self, collection_id: str) -> int:
        """The durable watermark, 0 for a fresh index."""

    def upsert(self, collection_id: str, documents: Sequence[Document]) -> None:
        """Write points; searchable on return, durable after `flush`."""

    def patch(self, collection_id: str, documents: Sequence[Document]) -> list[Document]:
        """Bring points up to date that hold the vectors of their document already: only payload and system fields are
        changed, as an `upsert` would leave them. Gives back the documents that need one."""

    def delete(self, collection_id: str, document_ids: Collection[str]) -> None: ...

    def delete_objects(self, collection_id: str, object_ids: Collection[str], upto_seq: int) -> None:
        """Remove every point derived from these objects (direct or root) whose `write_seq` is at most `upto_seq`."""

    def flush(self, collection_id: str, watermark: int) -> None:
        """Force everything to disk, then store the watermark."""

    def query(self, collection_id: str, query: VectorQuery | TextQuery) -> list[Hit]: ...

    def exact(self, collection_id: str, query: VectorQuery | TextQuery) -> bool:
        """Whether `query` looks at every document: always by words and by sparse vectors, by dense ones when asked to
        or while the collection is small."""

    def get(
        self, collection_id: str, document_ids: Sequence[str], with_vectors: Collection[str] = (), *, bare: bool = False
    ) -> list[Hit]:
        """Points by id in the order asked; missing ones are left out. Scores are 0. `bare`: without payloads and system
        fields, as `VectorQuery.bare`; reading them takes most of the time."""

    def scroll(self, collection_id: str, filter: Filter | None, limit: int, after: str = "") -> list[Hit]:
        """Matching points by document id ascending, scores 0."""

    def count(self, collection_id: str, filter: Filter | None = None) -> int: ...

    def facet(self, collection_id: str, key: str, limit: int, filter: Filter | None = None) -> list[tuple[Any, int]]:
        """The most frequent values of a field among matching points: count descending, then value ascending."""

    def words(self, text: str, language: str = "") -> dict[int, int]:
        """How text indexes split a text: number of a word → how often it stands there. Equal words, equal numbers;
        with a language, words of one stem are equal, and stop words are left out."""

    def ids(self, collection_id: str) -> Iterator[str]:
        """All document ids: for comparing with the document store."""

    def rebuild(self, spec: IndexSpec, pages: Pages, watermark: int, before_swap: Hook = lambda: None) -> None:
        """Build a fresh, optimised index aside from `pages` and swap it in. The old one answers until the swap.

        After the swap the index holds exactly `pages` at `watermark`; the caller replays what came later, and keeps
        readers away from `before_swap` on, which is called in this thread when only the swap is left to do.
        """

    def stats(self, collection_id: str) -> dict[str, Any]:
        """`points`, `indexed_points`, `segments`, `bytes`."""

    def check(self) -> None:
        """Raises UnavailableError saying what to do."""

    def close(self) -> None: ...
