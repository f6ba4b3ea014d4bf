"""What the engine needs from outside, as small protocols, and what one execution is given."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from mediatheca.flows.retrieve.cache import CachePolicy
from mediatheca.kernel.calibration import Calibration
from mediatheca.kernel.documents import Vector, VectorIndex
from mediatheca.kernel.errors import NotFoundError
from mediatheca.kernel.filters import Filter
from mediatheca.kernel.outside import Outside
from mediatheca.kernel.search import Cutting, Hit, QueryPiece, TextQuery, VectorQuery
from mediatheca.kernel.taxonomies import TaxonomyView
from mediatheca.stages import CollectionView

if TYPE_CHECKING:
    from mediatheca.flows.retrieve.plan import Plan


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
        self, collection_id: str, ids: Sequence[str], with_vectors: Collection[str] = (), *, bare: bool = False
    ) -> tuple[list[Hit], bool]:
        """By id, in the order asked, missing ones left out, scores 0. `bare`: as in `VectorQuery`."""

    async def catch_up(self, collection_id: str, seq: int) -> int:
        """Return when everything that was committed can be found, or, for a `seq` above 0, that write; the sequence
        number up to which it can."""

    def words(self, text: str, language: str = "") -> Mapping[int, int]:
        """How the index splits a text: number of a word → how often it stands there."""

    def exact(self, collection_id: str, query: VectorQuery | TextQuery) -> bool:
        """Whether the index answers this query by looking at every document, and not only at the likely ones."""

    def version(self, collection_id: str) -> int | None:
        """A number that moves with every change of what a search finds; None while answers are degraded."""


class Fetch(Protocol):
    """The bytes behind an http(s) or s3 URL, or of a blob of our own (`blob:KEY`), within this installation's limits.

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


class TextAsker(Protocol):
    """The vector of a text of a query for an index that no model fills, but somebody's code (`VectorIndex.asks`).

    Raises:
        BadRequestError: the code fails, or gives no vector of this index.
        UnavailableError: it is not there any more, or cannot run now.
    """

    async def __call__(self, index: VectorIndex, text: str) -> Vector: ...


class ContentCutter(Protocol):
    """The same for the pieces of a long file; one without a place where the file is not cut. Raises as
    `ContentEmbedder` does."""

    async def __call__(self, data: bytes, index: VectorIndex, how: Cutting) -> list[QueryPiece]: ...


class Sign(Protocol):
    """A URL for a blob key that works for a while."""

    def __call__(self, key: str) -> str: ...


class CompileStages(Protocol):
    """Check stages and make them ready to run on collections.

    Raises:
        ValidationError: every offence, with its path.
    """

    def __call__(self, stages: Any, collections: Sequence[CollectionView]) -> Plan: ...


class Materialise(Protocol):
    """Writes hits into a collection, by id or name, and says what was written.

    Raises:
        NotFoundError: there is no such collection.
    """

    async def __call__(self, target: str, hits: Sequence[Hit]) -> dict[str, Any]: ...


class Neighbours(Protocol):
    """What of the tenant's namespace an execution may reach besides its own collections.

    Raises:
        NotFoundError: there is no such thing in this namespace.
    """

    async def collection(self, identifier: str) -> CollectionView: ...

    async def collections(self) -> list[CollectionView]:
        """Every collection of the namespace."""

    async def records(self, idents: Collection[str]) -> Mapping[str, dict[str, Any]]:
        """Objects and collections of the namespace by id, as results show them; unknown ones are left out."""

    async def retriever(self, identifier: str, version: int | None = None) -> tuple[str, Plan]:
        """Id and plan of a stored retriever; of its current version where none is named."""

    async def taxonomy(self, identifier: str, version: int | None = None) -> TaxonomyView:
        """A stored taxonomy, ready to be compared with.

        Raises:
            ConflictError: it is not ready, or something it is made of is gone.
        """

    async def fusion_weights(self, retriever_id: str, feature_uris: Sequence[str]) -> dict[str, float] | None:
        """What was learned for this caller; None when learning is off."""

    async def upload(self, identifier: str) -> str:
        """Where the file of an upload lies in the blob store."""

    async def secrets(self, names: Collection[str]) -> Mapping[str, str]:
        """The values of these secrets of the organization.

        Raises:
            BadRequestError: one does not exist.
        """


class NoNeighbours:
    """For executions that stand alone."""

    async def collection(self, identifier: str) -> CollectionView:
        raise NotFoundError("collection", identifier)

    async def collections(self) -> list[CollectionView]:
        return []

    async def records(self, idents: Collection[str]) -> Mapping[str, dict[str, Any]]:
        return {}

    async def retriever(self, identifier: str, version: int | None = None) -> tuple[str, Plan]:
        raise NotFoundError("retriever", identifier)

    async def taxonomy(self, identifier: str, version: int | None = None) -> TaxonomyView:
        raise NotFoundError("taxonomy", identifier)

    async def fusion_weights(self, retriever_id: str, feature_uris: Sequence[str]) -> dict[str, float] | None:
        return None

    async def upload(self, identifier: str) -> str:
        raise NotFoundError("upload", identifier)

    async def secrets(self, names: Collection[str]) -> Mapping[str, str]:
        raise NotFoundError("secret", min(names))


@dataclass(frozen=True, slots=True)
class Repeat:
    """An earlier execution that is to be done again as it was."""

    position: int
    """Where its page began."""
    limit: int
    depth: int
    """How many documents its ranking was made for."""
    at: datetime | None = None
    """What its templates took for the current time."""


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
    seen: Filter | None = None
    """Leaves out what the caller has seen already; it does not decide whether a cursor still fits."""
    calibration: Calibration | None = None
    """What the scores of this version of the retriever say about relevance, where that was measured."""
    secrets: dict[str, str] = field(default_factory=dict)
    max_time_ms: float | None = None
    max_credits: float | None = None
    cache: CachePolicy | None = None
    materialise: Materialise | None = None
    """Writes results into a collection; None: the caller may not."""
    execution_id: str = ""
    """Empty: one is made."""
    neighbours: Neighbours = field(default_factory=NoNeighbours)
    outside: Outside | None = None
    """Language models, HTTP and the like, bound to the tenant; None: stages that need them say so."""
    seed: int | None = None
    """Of everything random; None: one is drawn, and recorded."""
    base_url: str = ""
    """Makes URLs of the local blob store absolute."""
    principal: str = ""
    """Who asks: later pages by offset continue the ranking that the same principal was shown."""
    max_chunks: int | None = None
    """At most so many pieces of a long query are searched; None: as the stages say."""
    repeat: Repeat | None = None
    """None: the request says which page, and the time is now."""
    record: dict[str, Any] = field(default_factory=dict)
    """Filled by the execution: what its record keeps beside the answer, so that it can be repeated."""
