"""What a stage sees of an execution, and what it told: the implementation of `StageContext`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from mediatheca.flows.retrieve.embedding import MAX_TEXT, QueryEmbedder
from mediatheca.flows.retrieve.explain import Trace, standing
from mediatheca.flows.retrieve.seams import ExecutionContext, Searcher
from mediatheca.flows.retrieve.views import named
from mediatheca.kernel.documents import Vector, VectorIndex
from mediatheca.kernel.errors import ForbiddenError
from mediatheca.kernel.filters import Filter, all_of, document_view
from mediatheca.kernel.models import EmbeddingTask, Reranker
from mediatheca.kernel.outside import Outside
from mediatheca.kernel.query_files import is_upload
from mediatheca.kernel.relaxation import Absent
from mediatheca.kernel.search import FINDINGS, Cutting, Hit, QueryPiece, TextQuery, VectorQuery, arm_of
from mediatheca.kernel.taxonomies import TaxonomyView
from mediatheca.kernel.templates import compile_string
from mediatheca.stages import CollectionView
from mediatheca.telemetry import span

Children: TypeAlias = Callable[
    [str | Sequence[dict[str, Any]], dict[str, Any], Sequence[Hit], int, Filter | None, int | None],
    Awaitable[list[Hit]],
]
"""Runs a pipeline as a part of the execution: pipeline, inputs, the first stage's hits, how many are wanted, what all
that it finds must pass, and the version of a stored retriever."""


CONFINED = "store the retriever, or execute its stages with a key that has the permission 'write'"
"""What to do where stages that are not stored may reach nothing outside."""


@dataclass(slots=True)
class Notes:
    """What happened in an execution beside its result."""

    warnings: dict[str, None] = field(default_factory=dict)
    """Each once, in order."""
    degraded: dict[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)
    limits: list[dict[str, Any]] = field(default_factory=list)
    trace: Trace | None = None
    """Told of every query, when the execution is to be explained."""
    repeatable: bool = True
    """False: something outside, or something random, had a part in the result."""

    def degrade(self, resource: str, ident: str | None, reason: str, next_step: str, stage: str | None) -> None:
        entry = {"resource": resource, "id": ident, "reason": reason, "next_step": next_step, "stage": stage}
        self.degraded.setdefault((resource, ident or "", reason), entry)


class Context:
    """One per stage and execution. See `mediatheca.stages.StageContext`."""

    __slots__ = (
        *("collections", "filter", "inputs", "metadata", "side", "wanted"),
        *("_caller", "_children", "_embedder", "_mandatory", "_notes", "_scope", "_searcher", "_seed", "_stage"),
        "_told",
    )

    def __init__(
        self,
        *,
        stage: str,
        scope: Mapping[str, Any],
        collections: Sequence[CollectionView],
        keep: Filter | None,
        caller: ExecutionContext,
        seed: int,
        wanted: int,
        side: dict[str, Any],
        notes: Notes,
        searcher: Searcher,
        embedder: QueryEmbedder,
        children: Children,
        told: Callable[[str, Mapping[str, Any]], None] | None = None,
    ) -> None:
        self.inputs: dict[str, Any] = scope["INPUT"]
        self.collections = collections
        self.filter = keep
        self.wanted = wanted
        self.side = side
        self.metadata: dict[str, Any] = {}
        self._seed = seed
        self._stage = stage
        self._scope = scope
        self._caller = caller
        self._children = children
        self._mandatory = caller.filter
        self._notes = notes
        self._searcher = searcher
        self._embedder = embedder
        self._told = told

    def resolve(self, identifiers: Sequence[str]) -> list[CollectionView]:
        return named(self.collections, identifiers, "collection_identifiers")

    @property
    def outside(self) -> Outside:
        if self._caller.outside is None:
            raise ForbiddenError(f"this stage reaches outside: {CONFINED}")
        self._notes.repeatable = False
        return self._caller.outside

    @property
    def seed(self) -> int:
        self._notes.repeatable = self._notes.repeatable and self._caller.seed is not None
        return self._seed

    async def collection(self, identifier: str) -> CollectionView:
        for view in self.collections:
            if identifier in (view.collection_id, view.name):
                return view
        self._notes.repeatable = False  # a cached result does not move with collections that are not the retriever's
        return await self._caller.neighbours.collection(identifier)

    async def taxonomy(self, identifier: str, version: int | None = None) -> TaxonomyView:
        self._notes.repeatable = False  # a cached result does not move with its labels
        return await self._caller.neighbours.taxonomy(identifier, version)

    async def reranker(self, name: str) -> Reranker:
        return await self._embedder.reranker(name)

    async def fusion_weights(self, feature_uris: Sequence[str]) -> dict[str, float] | None:
        self._notes.repeatable = False
        return await self._caller.neighbours.fusion_weights(self._caller.retriever_id, feature_uris)

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
        return await self._children(pipeline, inputs, hits, limit or self.wanted, filter, version)

    def _bound(self, keep: Filter | None) -> Filter | None:
        """A stage passes `ctx.filter` on, which holds the mandatory constraints; whatever else it passes gets them."""
        if self._mandatory is None or keep is self.filter:
            return keep
        return all_of(self._mandatory, keep)

    def _noted(self, collection_id: str, degraded: bool) -> None:
        if degraded:
            reason = "the index is catching up; the documents answered, exactly and slower"
            self._notes.degrade("collection", collection_id, reason, "try again in a few seconds", self._stage)

    async def search(self, collection_id: str, query: VectorQuery | TextQuery) -> list[Hit]:
        if self._mandatory is not None and query.filter is not self.filter:
            query = replace(query, filter=self._bound(query.filter))
        with span("search", arm=arm_of(query), collection=collection_id, limit=query.limit) as traced:
            hits, degraded = await self._searcher.search(collection_id, query)
            exact = degraded or self._searcher.exact(collection_id, query)
            traced.set_attributes({"docs.out": len(hits), "exact": exact, "degraded": degraded})
        if not exact:
            self.side["exact"] = False
        if degraded:
            self._noted(collection_id, degraded)
        if self._notes.trace is not None:
            self._notes.trace.searched(self._stage, collection_id, query, hits)
        return hits

    async def scroll(self, collection_id: str, filter: Filter | None, limit: int) -> list[Hit]:
        hits, degraded = await self._searcher.scroll(collection_id, self._bound(filter), limit)
        self._noted(collection_id, degraded)
        if self._notes.trace is not None:
            self._notes.trace.listed(self._stage, collection_id, filter, limit)
        return hits

    async def count(self, collection_id: str, filter: Filter | None) -> int:
        number, degraded = await self._searcher.count(collection_id, self._bound(filter))
        self._noted(collection_id, degraded)
        return number

    async def facet(self, collection_id: str, key: str, limit: int, filter: Filter | None) -> list[tuple[Any, int]]:
        values, degraded = await self._searcher.facet(collection_id, key, limit, self._bound(filter))
        self._noted(collection_id, degraded)
        return values

    async def documents(
        self, collection_id: str, ids: Sequence[str], vectors: Sequence[str] = (), *, bare: bool = False
    ) -> list[Hit]:
        # A mandatory constraint is checked on the payload.
        bare = bare and self._mandatory is None
        hits, degraded = await self._searcher.get(collection_id, ids, vectors, bare=bare)
        self._noted(collection_id, degraded)
        return visible(hits, self._mandatory)

    async def embed(
        self,
        index: VectorIndex,
        *,
        text: str | None = None,
        content: str | None = None,
        task: EmbeddingTask = "retrieval_query",
    ) -> Vector:
        if (text is None) == (content is None):
            raise ValueError("give one of text and content")
        if content is not None and is_upload(content):
            return await self._embedder.stored(index, await self._caller.neighbours.upload(content))
        if content is not None:
            return await self._embedder.content(index, content)
        text = text or ""
        if len(text) > MAX_TEXT:
            self.limit("query_characters", len(text), MAX_TEXT)
        return await self._embedder.text(index, text, task=task)

    async def pieces(self, index: VectorIndex, content: str, how: Cutting) -> list[QueryPiece]:
        key = await self._caller.neighbours.upload(content) if is_upload(content) else ""
        if self._caller.max_chunks is not None:
            how = replace(how, most=min(how.most, self._caller.max_chunks))
        return await self._embedder.pieces(index, content, how, key)

    def words(self, text: str, language: str = "") -> Mapping[int, int]:
        return self._searcher.words(text, language)

    def render(self, template: str, hit: Hit, names: Mapping[str, Any] | None = None) -> Any:
        scope = {**self._scope, "DOC": document_fields(hit)}
        if names:
            scope |= {**names, "CONTEXT": {**self._scope["CONTEXT"], **names}}
        value = compile_string(template).render(scope)
        return None if isinstance(value, Absent) else value

    @property
    def explaining(self) -> bool:
        return self._notes.trace is not None

    def ranked(self, hits: Sequence[Hit]) -> None:
        if self._notes.trace is not None:
            self._notes.trace.uncut[self._stage] = standing(hits)

    @property
    def listening(self) -> bool:
        return self._told is not None

    def tell(self, event: str, data: Mapping[str, Any]) -> None:
        if self._told is not None:
            self._told(event, data)

    def warn(self, message: str) -> None:
        self._notes.warnings.setdefault(f"{self._stage}: {message}")

    def degrade(self, reason: str, next_step: str) -> None:
        self._notes.degrade("stage", self._stage, reason, next_step, self._stage)

    def limit(self, name: str, requested: int, applied: int) -> None:
        entry = {"name": name, "requested": requested, "applied": applied, "ceiling": applied, "stage": self._stage}
        if entry not in self._notes.limits:  # a search that is tried again, or has several arms, says it once
            self._notes.limits.append(entry)


def visible(hits: list[Hit], constraint: Filter | None) -> list[Hit]:
    """The hits a constraint lets through."""
    if constraint is None:
        return hits
    return [h for h in hits if constraint.matches(document_view(h.payload, h.document_id, h.collection_id, h.system))]


def document_fields(hit: Hit) -> dict[str, Any]:
    """A hit as templates see it: `DOC.title`, `DOC.score`, `DOC.scores.rrf`, `DOC.highlights`, `DOC._internal.…`."""
    return {
        **{name: hit.scores[name] for name in FINDINGS if name in hit.scores},
        **hit.payload,
        "document_id": hit.document_id,
        "collection_id": hit.collection_id,
        "score": hit.score,
        "scores": hit.scores,
        "_internal": hit.system,
    }
