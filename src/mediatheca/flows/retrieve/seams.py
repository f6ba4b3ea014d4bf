"""What the engine needs from outside, as small protocols, and what one execution is given."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mediatheca.kernel.documents import Vector, VectorIndex
from mediatheca.kernel.filters import Filter
from mediatheca.kernel.search import Hit, TextQuery, VectorQuery


class Searcher(Protocol):
    """Reads of one collection. The flag says that the answer is degraded: exact, but not from the index.

    Hits are the caller's: they are changed by stages. They come best first, and by document id from `scroll`.
    """

    async def search(self, collection_id: str, query: VectorQuery | TextQuery) -> tuple[list[Hit], bool]: ...

    async def scroll(self, collection_id: str, filter: Filter | None, limit: int) -> tuple[list[Hit], bool]: ...

    async def count(self, collection_id: str, filter: Filter | None) -> tuple[int, bool]: ...

    async def facet(
        self, collection_id: str, key: str, limit: int, filter: Filter | None
    ) -> tuple[list[tuple[Any, int]], bool]: ...

    async def get(
        self, collection_id: str, ids: Sequence[str], with_vectors: Collection[str] = ()
    ) -> tuple[list[Hit], bool]:
        """By id, in the order asked, missing ones left out, scores 0."""


class Fetch(Protocol):
    """The bytes behind an http(s) or s3 URL, within the limits of this installation.

    Raises:
        MediathecaError: the URL is refused, too large, or does not answer.
    """

    async def __call__(self, url: str) -> bytes: ...


class ContentEmbedder(Protocol):
    """The vector of a file for an index. Decoding happens in a process that can be killed.

    Raises:
        ValidationError: the bytes are not a file this index takes.
        UnavailableError: the model is not there.
    """

    async def __call__(self, data: bytes, index: VectorIndex) -> Vector: ...


class Sign(Protocol):
    """A URL for a blob key that works for a while."""

    def __call__(self, key: str) -> str: ...


@dataclass(frozen=True, slots=True)
class ExecutionContext:
    """Who executes which retriever, and under which constraints."""

    namespace_id: str = ""
    internal_id: str = ""
    retriever_id: str = ""
    retriever_name: str = ""
    version: int = 1
    filter: Filter | None = None
    """Access rules and constraints of a published retriever: AND-ed to every read, never relaxed."""
    secrets: Mapping[str, str] = field(default_factory=dict)
    max_time_ms: float | None = None
    max_credits: float | None = None
    execution_id: str = ""
    """Empty: one is made."""
    base_url: str = ""
    """Makes URLs of the local blob store absolute."""
