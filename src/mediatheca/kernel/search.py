"""Queries against one collection, and the hits that come back."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar

from mediatheca.kernel.documents import Vector
from mediatheca.kernel.filters import Filter
from mediatheca.kernel.passages import TextCutting
from mediatheca.kernel.sparse import is_sparse

Fuzziness: TypeAlias = Literal["auto", 0, 1, 2]
"""`auto`: a word that stands nowhere is replaced by the nearest ones that do. 1, 2: words that do stand somewhere are
also looked for with so many typos, after everything that is spelled as asked."""

T = TypeVar("T")

Span: TypeAlias = tuple[int, int]

FINDINGS = ("highlights", "query_chunks")
"""What a search notes in `Hit.scores` that is no score: a result shows it beside its fields."""


@dataclass(slots=True)
class Hit:
    """One result of a search. `payload` is the user's; `system` holds lineage, object ids and timestamps."""

    document_id: str
    collection_id: str
    score: float
    payload: dict[str, Any]
    system: dict[str, Any]
    vectors: dict[str, Vector] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    """What each scoring stage gave it: `feature_search`, `rrf`, `per_feature` (feature URI → raw score), …

    `highlights` and `query_chunks` say what of it was found by what; a result shows them at its root.
    """


@dataclass(frozen=True, slots=True)
class VectorQuery:
    """Nearest documents to `vector` on the index `using`."""

    using: str
    vector: Vector
    limit: int
    filter: Filter | None = None
    min_score: float | None = None
    exact: bool = False
    exclude: Collection[str] = ()
    with_vectors: Collection[str] = ()
    bare: bool = False
    """Hits may come without payload and system fields, for whoever reads those of the few that stay. Where the payload
    is needed to answer, and where documents answer in place of the index, they come all the same."""


@dataclass(frozen=True, slots=True)
class Cutting:
    """How the file of a query is cut: at most `most` pieces, evenly over it."""

    most: int
    seconds: float | None = None
    """Of a piece of a recording; None: as long as the segments of the collection."""
    text: TextCutting | None = None
    """The text of a PDF; None: as the collection cuts it."""
    auto: bool = False
    """Nobody asked for it: films, recordings and PDFs are cut, other files are looked for as a whole."""


@dataclass(frozen=True, slots=True)
class QueryPiece:
    """A piece of the file of a query; without a place, the whole of it."""

    vector: Vector
    time_ms: Span | None = None
    page: int | None = None
    total: int = 0
    """How many pieces the file has, where those are more than were to be taken; else 0."""

    @property
    def placed(self) -> bool:
        return self.time_ms is not None or self.page is not None


def evenly(found: Sequence[T], most: int) -> list[T]:
    """At most so many of them, evenly over the whole; the first is always one."""
    count = min(most, len(found))
    return [found[number * len(found) // count] for number in range(count)]


def query_chunk(
    number: int, score: float, *, text: Span | None = None, time_ms: Span | None = None, page: int | None = None
) -> dict[str, Any]:
    """One piece of a query that found a document, as `query_chunks` lists them, the best first.

    Args:
        number: of the piece, from 0.
        text: where it stands in the query, in characters; of a text.
        time_ms: where it lies, in milliseconds; of a recording.
        page: which page it begins on, from 1; of a PDF.
    """
    (start, end), (start_ms, end_ms) = text or (None, None), time_ms or (None, None)
    place = {"start": start, "end": end, "start_ms": start_ms, "end_ms": end_ms, "page": page}
    return {"chunk": number, **place, "score": score}


@dataclass(frozen=True, slots=True)
class TextQuery:
    """BM25 over the indexed text fields (`fields` empty: all of them), summed over the fields.

    A hit that was found by another spelling than asked says so in `scores.lexical`.
    """

    text: str
    limit: int
    fields: Collection[str] = ()
    filter: Filter | None = None
    boosts: tuple[tuple[str, float], ...] = ()
    """(field, factor): what a field's score is multiplied with; 1 where not given."""
    minimum: int = 1
    """How many words of the query a document must hold, in any of its fields; more than there are means all."""
    fuzziness: Fuzziness = 0
    phrase: float = 1.0
    """What the score of a document is multiplied with when it holds the words next to each other, in their order; less
    when only some of them are. Not above the best `phrase_pool` documents."""
    bare: bool = False
    """As in `VectorQuery`."""


def arm_of(query: VectorQuery | TextQuery) -> str:
    """How a query looks: `lexical`, `sparse` or `dense`."""
    if isinstance(query, TextQuery):
        return "lexical"
    return "sparse" if is_sparse(query.vector) else "dense"
