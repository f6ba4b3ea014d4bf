"""Retriever stages: one file each, one `Stage` value each. This docstring is the contract.

A stage is an async function from a list of hits to a list of hits, made a `Stage` value by the `stage` decorator; it
registers nothing, discovery finds it (this package, then the entry-point group `mediatheca.stages`).

* `params` is validated after templates are rendered. A string parameter that mentions `DOC` is left as it is, for the
  stage to render per document with `ctx.render`.
* Zero hits in → zero hits out without any outside call, unless the stage can start a pipeline (`starts=True`).
* A count above what there is (`top_k`, `limit`) returns everything and never errors.
* A filter parameter is called `filters`, `pre_filters`, `post_filters`, `conditions` or `when`: under these names a
  condition whose input was not given is dropped and reported. Its type is `FilterParam`, which arrives parsed.
* A key inside an object of the parameters that its model does not read is refused; a plain object whose keys are known
  says so with `KeysOf`.
* What was cut, skipped or degraded is said through `ctx.warn`, `ctx.limit`, `ctx.degrade`; never silently.
* What a stage cannot do without, a language model or an optional package, stands in `needs`.
* `hit.score` is the score that defines the order; a scoring stage also writes its own number into `hit.scores`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol, TypeAlias

from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema

from mediatheca.kernel.documents import Vector, VectorIndex
from mediatheca.kernel.filters import Filter, parse_filter
from mediatheca.kernel.models import EmbeddingTask, Reranker
from mediatheca.kernel.ordering import SortKey
from mediatheca.kernel.outside import Outside
from mediatheca.kernel.search import Cutting, Hit, QueryPiece, TextQuery, VectorQuery
from mediatheca.kernel.taxonomies import TaxonomyView

ENTRY_POINTS = "mediatheca.stages"

Kind: TypeAlias = Literal["filter", "sort", "reduce", "group", "apply", "enrich"]


def _parse(raw: Any) -> Filter | None:
    return raw if isinstance(raw, Filter) else parse_filter(raw)


FilterParam: TypeAlias = Annotated[
    Any, BeforeValidator(_parse), WithJsonSchema({"type": "object", "description": "A filter tree."})
]
"""The type of a filter parameter: a tree on the wire, `Filter | None` in the stage."""


@dataclass(frozen=True, slots=True)
class KeysOf:
    """In the annotation of a parameter that is a plain object: its keys are those of this model, and no others."""

    model: type[BaseModel]


CacheBehavior: TypeAlias = Literal["auto", "disabled", "aggressive"]


class CacheParams(BaseModel):
    """How the result of a stage may be kept. Every stage takes these two; the engine reads them, no stage does."""

    cache_behavior: CacheBehavior = Field(
        "auto",
        description="auto: kept unless chance, the clock or anything outside had a part in it. disabled: never. "
        "aggressive: kept even then, until its time is over.",
    )
    cache_ttl_seconds: int | None = Field(
        None, ge=0, description="Keep for no longer than this, within the retriever's ttl_seconds; 0: never."
    )


@dataclass(frozen=True, slots=True)
class CollectionView:
    """A collection as stages see it."""

    collection_id: str
    name: str
    vectors: tuple[VectorIndex, ...]
    fields: dict[str, str]
    """Dotted payload path → type, as declared."""
    languages: dict[str, str] = field(default_factory=dict)
    """Text field → the language its words are analysed in, of those that have one."""
    index_map: dict[str, str] = field(default_factory=dict)
    """Feature URI → the one that answers in its place: how a collection changes its model under its retrievers."""


class StageContext(Protocol):
    """What a stage may use. One per stage and execution."""

    inputs: dict[str, Any]
    collections: Sequence[CollectionView]
    """The retriever's collections (stage-level `collection_identifiers` are resolved by `resolve`)."""
    filter: Filter | None
    """Request filters, stage pre_filters and mandatory constraints, already AND-ed: pass it with every search."""
    wanted: int
    """How many documents the requested page reaches to: a stage whose own limit was not set may return that many."""
    side: dict[str, Any]
    """Side channels of the execution: `facets`, `aggregations`, `groups`, `tracked_feature_uris`, …"""
    metadata: dict[str, Any]
    """What this stage tells in its statistics."""

    def resolve(self, identifiers: Sequence[str]) -> list[CollectionView]:
        """Collections by id or name, among the retriever's.

        Raises:
            ValidationError: one is unknown or not declared on the retriever.
        """

    @property
    def seed(self) -> int:
        """Of everything random in this execution, so that a replay gives the same."""

    @property
    def outside(self) -> Outside:
        """Language models, HTTP, SQL, code, web search: bound to this execution's tenant and budgets.

        Raises:
            UnavailableError: this execution may reach nothing outside.
        """

    async def collection(self, identifier: str) -> CollectionView:
        """Any collection of the namespace, by id or name: for references and joins.

        Raises:
            NotFoundError: there is none.
        """

    async def taxonomy(self, identifier: str, version: int | None = None) -> TaxonomyView:
        """A stored taxonomy of the namespace, by id or name, ready to be compared with.

        Raises:
            NotFoundError: there is none, or no such version of it.
            ConflictError: it is not ready, or something it is made of is gone.
        """

    async def execute(
        self,
        pipeline: str | Sequence[dict[str, Any]],
        inputs: dict[str, Any],
        *,
        hits: Sequence[Hit] = (),
        limit: int | None = None,
        filter: Filter | None = None,
        version: int | None = None,
    ) -> list[Hit]:
        """Run a stored retriever (id or name, of a version or of the current one), or stages on this retriever's
        collections, as a part of this execution.

        The tenant, the mandatory constraints and what is left of the budgets are the same; `hits` are what the first
        stage gets; `inputs` replace this execution's. What it finds passes `filter`: give `ctx.filter` where that
        becomes a part of this execution's own documents.

        Raises:
            NotFoundError: no such retriever.
            ValidationError: a stage is refused, or retrievers call each other in a circle or more than 3 deep.
        """

    async def reranker(self, name: str) -> Reranker:
        """The model that scores texts against a query.

        Raises:
            UnavailableError: none answers to `name`; the message says how to get one.
        """

    async def fusion_weights(self, feature_uris: Sequence[str]) -> dict[str, float] | None:
        """What was learned for the searches of this retriever; None when learning is off for this caller."""

    async def search(self, collection_id: str, query: VectorQuery | TextQuery) -> list[Hit]:
        """One query against one collection: the index, or the documents while the index catches up."""

    async def scroll(self, collection_id: str, filter: Filter | None, limit: int) -> list[Hit]: ...

    async def count(self, collection_id: str, filter: Filter | None) -> int: ...

    async def facet(self, collection_id: str, key: str, limit: int, filter: Filter | None) -> list[tuple[Any, int]]: ...

    async def documents(
        self, collection_id: str, ids: Sequence[str], vectors: Sequence[str] = (), *, bare: bool = False
    ) -> list[Hit]:
        """Documents by id, those left out that are missing or may not be seen. `bare`: for their vectors alone; payload
        and system fields may be empty."""

    async def embed(
        self,
        index: VectorIndex,
        *,
        text: str | None = None,
        content: str | None = None,
        task: EmbeddingTask = "retrieval_query",
    ) -> Vector:
        """The vector for an index of a text, or of `content`: a data URI, an http(s) URL or base64.

        `task`: what a text is embedded for, for models that tell tasks apart.

        Raises:
            ValidationError: the index cannot be searched with this, or other weights made its vectors.
            UnavailableError: the model or the source of the content is not there.
        """

    async def pieces(self, index: VectorIndex, content: str, how: Cutting) -> list[QueryPiece]:
        """The vectors of a long file piece by piece; of one that is not cut one without a place, or none.

        Raises:
            As `embed` does.
        """

    def words(self, text: str, language: str = "") -> Mapping[int, int]:
        """How text indexes split a text: number of a word → how often it stands there. With a language, words of one
        stem have one number, and stop words have none."""

    def render(self, template: str, hit: Hit, names: Mapping[str, Any] | None = None) -> Any:
        """Render a per-document template (`DOC`, `INPUT`, …). `names`: what the stage adds (`INDEX`, `DOCUMENTS`, …);
        they are also read as `CONTEXT.INDEX`.

        Give it only what the retriever's author wrote: a rendered parameter may hold a caller's text, which must not
        be rendered again (`mediatheca.stages._templates.per_document`).
        """

    def warn(self, message: str) -> None: ...

    def degrade(self, reason: str, next_step: str) -> None:
        """The result is not what it should be; the execution's status becomes `degraded`."""

    def limit(self, name: str, requested: int, applied: int) -> None:
        """A cap reduced a requested number."""

    @property
    def explaining(self) -> bool:
        """Somebody asks why a document is there, or is not: worth ranking what would be cut unseen."""

    def ranked(self, hits: Sequence[Hit]) -> None:
        """What the stage ranked, best first, before it cut: told to whoever asks why a document is not there."""

    @property
    def listening(self) -> bool:
        """Somebody reads along: the execution is streamed."""

    def tell(self, event: str, data: Mapping[str, Any]) -> None:
        """Send an event to whoever reads along; nothing happens where nobody does.

        `token`: `text`, a piece of what a model writes; `field` and `document_id`, where it will stand; `done`, the
        last piece.
        """


@dataclass(frozen=True, slots=True)
class Need:
    """Something that a stage cannot do without, and that not every installation has."""

    name: str
    """`language`, `web_search`, `image_search`, `code`, `pages`, `browser`, `clustering` or `tokenizer`."""
    given: str = ""
    """Only where this parameter is given."""
    value: str = ""
    """Only where that parameter has this value."""
    unless: str = ""
    """Not where this parameter is given: the caller brings it along."""

    def concerns(self, parameters: Mapping[str, Any]) -> bool:
        if self.given and not parameters.get(self.given):
            return False
        if self.value and parameters.get(self.given) != self.value:
            return False
        return not (self.unless and parameters.get(self.unless))


LANGUAGE = Need("language", unless="api_key")
"""Of the stages that ask a language model; a key of the caller's own does too."""

Prepare: TypeAlias = Callable[[dict[str, Any], Sequence[CollectionView]], dict[str, Any]]
AsFilter: TypeAlias = Callable[[Any, StageContext], Awaitable[Filter | None]]
Run: TypeAlias = Callable[[list[Hit], Any, StageContext], Awaitable[list[Hit]]]


@dataclass(frozen=True)
class Stage:
    """A retriever stage: a value, found by discovery."""

    stage_id: str
    kind: Kind
    params: type[BaseModel]
    run: Run
    description: str
    starts: bool = False
    """It may be the first stage: it makes documents."""
    aliases: tuple[str, ...] = ()
    """Older stage ids that mean this one."""
    neutral: bool = False
    """It has something to tell about no documents too (a count of 0, an empty context) and is run on none. Reduce and
    group stages always are."""
    writes: bool = False
    """It writes into documents, although it is a filter or sort stage: later pages show them as they were left."""
    icon: str = "circle"
    cost_tier: Literal["cheap", "moderate", "expensive"] = "cheap"
    example: dict[str, Any] = field(default_factory=dict)
    use_cases: tuple[str, ...] = ()
    """What it is good for, a few words each."""
    hard_timeout_ms: int = 10_000
    prepare: Prepare | None = None
    """Called once, when a retriever is made: maps older spellings of the parameters (templates are still in them) and
    refuses, with ValidationError, what cannot work on these collections."""
    as_filter: AsFilter | None = None
    """For a stage that only filters: the filter its params mean. At the start of a pipeline it is then applied inside
    the search that follows instead of on a list of documents."""
    needs: tuple[Need, ...] = ()
    """What of the installation it cannot do without: said when a retriever is made, and in the catalogue."""
    per_document: bool = True
    """Its parameters may hold templates of `DOC`. False: it looks at all documents at once, and they are refused."""
    searches: bool = False
    """It replaces what came before by documents that pass the context's filter, best first, at most `final_top_k`: a
    filter that follows it may be applied inside it."""
    rank_scores: Callable[[Mapping[str, Any]], bool] | None = None
    """For a stage that scores by fusion: whether, with these parameters (templates in them), it goes by rank alone."""
    sort_keys: Callable[[Any], list[SortKey]] | None = None
    """For a stage that only sorts, stably: the keys that its params mean."""


def stage(stage_id: str, *, kind: Kind, params: type[BaseModel], **options: Any) -> Callable[[Run], Stage]:
    """Make a `Stage` of an async function; its docstring becomes the description."""

    def make(run: Run) -> Stage:
        return Stage(stage_id, kind, params, run, (run.__doc__ or stage_id).strip(), **options)

    return make
