"""What one collection of a vector engine must do; everything above it is shared by all engines."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from types import ModuleType
from typing import Any, Protocol

from mediatheca.kernel.documents import Document, Vector, VectorIndex
from mediatheca.kernel.spelling import Vocabulary
from mediatheca.stores.index.patches import PointPatch
from mediatheca.stores.index.points import Raw


class Engine(Protocol):
    """Filters are the engine's own objects (`models`), made by `search.py`."""

    models: ModuleType
    """`qdrant_edge` or `qdrant_client.models`: where filter classes come from."""
    vectors: dict[str, VectorIndex]
    fields: dict[str, str]
    """Payload path → type, of what has a payload index."""
    languages: dict[str, str]
    """Of text fields that have one."""
    tokenizer: str
    """Of text indexes."""

    def write(self, documents: Sequence[Document]) -> None:
        """Upsert full points, whatever is stored."""

    def patch(self, patches: Sequence[PointPatch]) -> None:
        """Change payloads; vectors stay. At most `SLICE` at a time."""

    def may_be_stale(self, write_seq: int) -> bool:
        """False only when no stored point can have a higher `write_seq`."""

    def has_odd_ids(self) -> bool:
        """False only when every document id is a UUID: then points lie in the order of document ids."""

    def remove(self, point_ids: Sequence[str]) -> None: ...

    def remove_matching(self, filter: Any) -> None: ...

    def nearest(
        self, using: str, vector: Vector, limit: int, filter: Any, *, exact: bool, with_vectors: Sequence[str],
        keys: Sequence[str] | None = None,
    ) -> list[Raw]:  # fmt: skip
        """Raw engine scores, best first. `keys` limits the payload that comes back, here and below."""

    def scans(self) -> bool:
        """Whether a dense query that does not ask for it is exact all the same, because there are few points."""

    def lexical(
        self, field: str, text: str, limit: int, filter: Any, *, keys: Sequence[str] | None = None
    ) -> list[Raw]:
        """BM25 on one text field, best first."""

    def vocabulary(self) -> Vocabulary:
        """The words of all text fields; a few may stand nowhere any more."""

    def page(
        self, filter: Any, limit: int, start: str | None, keys: Sequence[str] | None
    ) -> tuple[list[Raw], str | None]:
        """Points by point id ascending from `start` on, and the id where the next page starts."""

    def retrieve(
        self, point_ids: Sequence[str], keys: Sequence[str] | None, with_vectors: Collection[str]
    ) -> list[Raw]: ...

    def count(self, filter: Any) -> int: ...

    def facet(self, path: str, limit: int, filter: Any) -> list[tuple[Any, int]]:
        """Exact counts; the order among equal counts is the engine's."""

    def has_ids(self, point_ids: Collection[str]) -> Any:
        """A condition that holds for these points."""

    def span(self, low: int | None = None, high: int | None = None) -> Any:
        """A numeric range object."""
