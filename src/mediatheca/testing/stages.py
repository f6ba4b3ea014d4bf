"""For authors of retriever stages: an exact in-memory searcher, a text model of hashed words, and the contract suite.

class TestMyStage(StageSuite):
    stage = my_stage
    parameters = {"field": "price"}
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from mediatheca.flows.retrieve import ExecutionContext, RetrieveEngine
from mediatheca.kernel.discovery import discover
from mediatheca.kernel.documents import Document, Vector, VectorIndex
from mediatheca.kernel.errors import NotFoundError, UnavailableError
from mediatheca.kernel.filters import Filter, document_view
from mediatheca.kernel.lexical import Texts, rank_texts, tell
from mediatheca.kernel.models import ImageEmbedder, ModelInfo, Reranker, SparseEmbedder, TextEmbedder
from mediatheca.kernel.ordering import read_field
from mediatheca.kernel.present import system_fields
from mediatheca.kernel.search import Hit, TextQuery, VectorQuery
from mediatheca.kernel.sparse import dots, is_sparse, sparse_vector
from mediatheca.stages import ENTRY_POINTS, CollectionView, Stage, StageContext, stage

TEXT_URI = "mixpeek://text_extractor@v1/hashed_words_for_tests"
TEXT_INDEX = VectorIndex(
    "text_extractor_v1_hashed_words_for_tests", TEXT_URI, 64, model="hashed_words_for_tests", weights="sha256:words64"
)


def hashed_words(text: str, dimensions: int = 64) -> Vector:
    """A deterministic vector of a text: every word adds one to a dimension picked by its hash. Unit length.

    It knows no meaning; it is for tests and benchmarks, where similar must mean "shares words".
    """
    vector = np.zeros(dimensions, np.float32)
    for word in re.findall(r"\w+", text.lower()) or [text]:
        vector[int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest()) % dimensions] += 1
    return vector / np.linalg.norm(vector)


class HashedWordsForTests:
    """A `TextEmbedder` over `hashed_words`."""

    def __init__(self, info: ModelInfo, inline: bool = True) -> None:
        self.info = info
        self.inline = inline
        self.calls = 0

    def embed_texts(self, texts: Sequence[str], *, query: bool) -> npt.NDArray[np.float32]:
        self.calls += 1
        return np.stack([hashed_words(text, self.info.dimensions) for text in texts])


class HashedTermsForTests:
    """A `SparseEmbedder`: how often each word stands in the text, under the hash of the word."""

    inline = True

    def __init__(self, name: str = "hashed_terms_for_tests") -> None:
        self.info = ModelInfo(name, "hashed terms (for tests)", "sha256:terms", 0, metric="dot", sparse=True)

    def sparse_embed(self, texts: Sequence[str], *, query: bool) -> list[Vector]:
        return [self._terms(text) for text in texts]

    def _terms(self, text: str) -> Vector:
        counted = Counter(zlib.crc32(word.encode()) for word in _split(text))
        return sparse_vector(list(counted), list(counted.values()))


class SharedWordsForTests:
    """A `Reranker`: how many words of the query stand in the text, less the share of it that is something else."""

    def __init__(self) -> None:
        self.info = ModelInfo("shared_words", "shared words (for tests)", "sha256:shared", 1, modalities=("rerank",))
        self.calls: list[int] = []

    def score(self, query: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        self.calls.append(len(texts))
        asked = set(_split(query))
        held = [_split(text) for text in texts]
        return np.array([len(asked & set(h)) - len(set(h) - asked) / (len(h) or 1) for h in held], np.float32)


class ModelsForTests:
    """`Models` that answers to one name, or to any you add to `known`, `known_sparse` and `rerankers`."""

    def __init__(self, index: VectorIndex = TEXT_INDEX, inline: bool = True) -> None:
        info = ModelInfo(index.model, "hashed words (for tests)", index.weights, index.dimensions)
        self.known: dict[str, TextEmbedder] = {index.model: HashedWordsForTests(info, inline)}
        self.known_sparse: dict[str, SparseEmbedder] = {}
        self.rerankers: dict[str, Reranker] = {"shared_words": SharedWordsForTests()}

    def info(self, name: str) -> ModelInfo:
        return self.known_sparse[name].info if name in self.known_sparse else self.text(name).info

    def text(self, name: str) -> TextEmbedder:
        if name not in self.known:
            raise UnavailableError(f"no model answers to '{name}'; known: {', '.join(self.known)}")
        return self.known[name]

    def sparse(self, name: str) -> SparseEmbedder:
        if name not in self.known_sparse:
            raise UnavailableError(f"no sparse model answers to '{name}'; known: {', '.join(self.known_sparse)}")
        return self.known_sparse[name]

    def image(self, name: str) -> ImageEmbedder:
        raise UnavailableError(f"no image model answers to '{name}' in tests")

    def reranker(self, name: str) -> Reranker:
        if name not in self.rerankers:
            raise UnavailableError(f"no reranker answers to '{name}'; known: {', '.join(self.rerankers)}")
        return self.rerankers[name]

    def list(self) -> list[ModelInfo]:
        return [model.info for model in self.known.values()]


class MemorySearcher:
    """A searcher over documents in memory: exact vectors, BM25, and filters by `Filter.matches`."""

    def __init__(self) -> None:
        self.documents: dict[str, dict[str, Document]] = {}
        self.indexes: dict[str, VectorIndex] = {}
        self.degraded = False
        self.calls: Counter[str] = Counter()
        self.writes = 0

    def add(self, view: CollectionView, documents: Iterable[Document]) -> None:
        """Write documents of a collection; one of the same id is replaced."""
        self.writes += 1
        self.indexes.update({index.name: index for index in view.vectors})
        self.documents.setdefault(view.collection_id, {}).update({d.document_id: d for d in documents})

    def delete(self, collection_id: str, document_id: str) -> None:
        self.writes += 1
        del self.documents[collection_id][document_id]

    def _matching(self, collection_id: str, keep: Filter | None) -> list[Document]:
        if collection_id not in self.documents:
            raise NotFoundError("collection", collection_id)
        documents = self.documents[collection_id].values()
        return [
            d
            for d in documents
            if keep is None or keep.matches(document_view(d.payload, d.document_id, d.collection_id, system_fields(d)))
        ]

    async def catch_up(self, collection_id: str, seq: int) -> int:
        self.calls["catch_up"] += 1
        return self.writes

    def words(self, text: str, language: str = "") -> Mapping[int, int]:
        """Words as they are: languages are the index's."""
        return Counter(zlib.crc32(word.encode()) for word in _split(text))

    def exact(self, collection_id: str, query: VectorQuery | TextQuery) -> bool:
        return True

    def version(self, collection_id: str) -> int | None:
        return None if self.degraded else self.writes

    async def search(self, collection_id: str, query: VectorQuery | TextQuery) -> tuple[list[Hit], bool]:
        self.calls["search"] += 1
        found = self._matching(collection_id, query.filter)
        hits = self._lexical(collection_id, query) if isinstance(query, TextQuery) else self._nearest(found, query)
        hits.sort(key=lambda hit: (-hit.score, hit.document_id))
        return [_bare(hit) if query.bare else hit for hit in hits[: query.limit]], self.degraded

    def _nearest(self, documents: Sequence[Document], query: VectorQuery) -> list[Hit]:
        metric = self.indexes[query.using].metric if query.using in self.indexes else "cosine"
        hits = []
        for document in documents:
            vector = document.vectors.get(query.using)
            if vector is None or document.document_id in query.exclude:
                continue
            score = similarity(query.vector, vector, metric)
            if is_sparse(vector) and not score:
                continue
            if query.min_score is None or score >= query.min_score:
                hits.append(_hit(document, score, query.with_vectors))
        return hits

    def _lexical(self, collection_id: str, query: TextQuery) -> list[Hit]:
        held = self.documents.get(collection_id, {})
        kept = {document.document_id for document in self._matching(collection_id, query.filter)}
        every = sorted({name for d in held.values() for name, value in d.payload.items() if isinstance(value, str)})
        fields = list(query.fields) or every

        def read() -> Iterator[tuple[str, Texts, Callable[[], bool]]]:
            for ident, document in held.items():
                values = {name: document.payload.get(name) for name in fields}
                texts = {name: [value] for name, value in values.items() if isinstance(value, str)}
                yield ident, texts, partial(kept.__contains__, ident)

        found, spelling = rank_texts(query, fields, read, lambda text: Counter(_split(text)))
        return [tell(_hit(held[entry.key], entry.score), entry, spelling) for entry in found]

    async def scroll(self, collection_id: str, filter: Filter | None, limit: int) -> tuple[list[Hit], bool]:
        self.calls["scroll"] += 1
        found = sorted(self._matching(collection_id, filter), key=lambda d: d.document_id)
        return [_hit(document, 0.0) for document in found[:limit]], self.degraded

    async def count(self, collection_id: str, filter: Filter | None) -> tuple[int, bool]:
        self.calls["count"] += 1
        return len(self._matching(collection_id, filter)), self.degraded

    async def facet(
        self, collection_id: str, key: str, limit: int, filter: Filter | None
    ) -> tuple[list[tuple[Any, int]], bool]:
        self.calls["facet"] += 1
        counts: Counter[Any] = Counter()
        for document in self._matching(collection_id, filter):
            value = read_field(_hit(document, 0.0), key)
            counts.update(item for item in (value if isinstance(value, list) else [value]) if item is not None)
        return sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))[:limit], self.degraded

    async def get(
        self, collection_id: str, ids: Sequence[str], with_vectors: Collection[str] = (), *, bare: bool = False
    ) -> tuple[list[Hit], bool]:
        self.calls["get"] += 1
        held = self.documents.get(collection_id, {})
        hits = [_hit(held[ident], 0.0, with_vectors) for ident in ids if ident in held]
        return [_bare(hit) if bare else hit for hit in hits], self.degraded


def _hit(document: Document, score: float, with_vectors: Collection[str] = ()) -> Hit:
    vectors = {name: document.vectors[name] for name in with_vectors if name in document.vectors}
    payload = dict(document.payload)
    return Hit(document.document_id, document.collection_id, score, payload, system_fields(document), vectors)


def _bare(hit: Hit) -> Hit:
    return replace(hit, payload={}, system={})


def similarity(query: Vector, vector: Vector, metric: str) -> float:
    """Higher is better: cosine and dot raw, euclid as 1 / (1 + distance); MaxSim for matrices, dot for sparse."""
    if is_sparse(query):
        return float(dots(query, vector, [len(vector)])[0])
    if query.ndim == 2 or vector.ndim == 2:
        return float((np.atleast_2d(query) @ np.atleast_2d(vector).T).max(axis=1).sum())
    if metric == "euclid":
        return 1.0 / (1.0 + float(np.linalg.norm(query - vector)))
    scale = float(np.linalg.norm(query) * np.linalg.norm(vector)) if metric == "cosine" else 1.0
    return float(query @ vector) / scale if scale else 0.0


def _split(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


async def _refuse(*_: Any) -> Any:
    raise UnavailableError("nothing outside is reachable in this test")


def engine_for_tests(searcher: MemorySearcher, models: ModelsForTests | None = None, **options: Any) -> RetrieveEngine:
    """A real engine over a `MemorySearcher`; what is not given in `options` refuses to work."""
    parts: dict[str, Any] = {
        "searcher": searcher,
        "models": models or ModelsForTests(),
        "fetch": _refuse,
        "decode": _refuse,
        "sign": lambda key: f"/v1/blobs/{key}?signed",
        "cursor_key": b"a key for tests",
    }
    return RetrieveEngine(**{**parts, **options})


def text_documents(view: CollectionView, rows: Iterable[dict[str, Any]]) -> list[Document]:
    """Documents of rows with `document_id` and `text`; their vector is `hashed_words` of the text."""
    made = []
    for row in rows:
        payload = {key: value for key, value in row.items() if key != "document_id"}
        vectors = {index.name: hashed_words(row["text"], index.dimensions) for index in view.vectors}
        made.append(Document(row["document_id"], view.collection_id, payload, vectors, "obj_1", "obj_1"))
    return made


class _Nothing(BaseModel):
    pass


@stage("listed_for_tests", kind="filter", params=_Nothing, starts=True)
async def _listed(hits: list[Hit], params: _Nothing, ctx: StageContext) -> list[Hit]:
    """Every document, by id."""
    return [hit for view in ctx.collections for hit in await ctx.scroll(view.collection_id, None, 100)]


class StageSuite:
    """What every stage must do. Set `stage` and `parameters`; `parameters` must be valid and free of templates."""

    stage: ClassVar[Stage]
    parameters: ClassVar[dict[str, Any]] = {}
    search: ClassVar[dict[str, Any]] = {
        "stage_id": "feature_search",
        "parameters": {"searches": [{"feature_uri": TEXT_URI, "query": "{{INPUT.query}}"}]},
    }
    rows: ClassVar[list[dict[str, Any]]] = [
        {"document_id": "a", "text": "red fox", "price": 3, "created_at": "2026-01-03T00:00:00Z"},
        {"document_id": "b", "text": "red fox", "price": 1},
        {"document_id": "c", "text": "red 🦊 лиса 狐", "price": None, "tags": ["x"]},
        {"document_id": "d", "text": "blue whale", "nested": {"deep": [1, 2]}},
    ]

    def context(self) -> ExecutionContext:
        """What the execution is given: override it for a stage that reaches outside."""
        return ExecutionContext()

    async def execute(self, rows: Iterable[dict[str, Any]], query: str = "red fox") -> dict[str, Any]:
        """The stage after a search over `rows`, or alone where it starts a pipeline."""
        view = CollectionView("col_1", "first", (TEXT_INDEX,), {"text": "text", "price": "float"})
        searcher = MemorySearcher()
        searcher.add(view, text_documents(view, rows))
        engine = engine_for_tests(searcher)
        own = {"stage_name": "under test", "stage_id": self.stage.stage_id, "parameters": self.parameters}
        plan = engine.compile([own] if self.stage.starts else [self.search, own], [view])
        return await engine.execute(plan, {"inputs": {"query": query}}, self.context())

    async def execute_failing(self, rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
        """The stage after a search, told to skip where it fails, and failing."""

        async def fail(*_: Any) -> Any:
            raise RuntimeError("the stage of this test fails")

        own = self.stage
        told = None if own.as_filter is None else fail
        broken = replace(own, run=fail, as_filter=told, params=_Nothing, prepare=None, rank_scores=None, sort_keys=None)
        view = CollectionView("col_1", "first", (TEXT_INDEX,), {"text": "text", "price": "float"})
        searcher = MemorySearcher()
        searcher.add(view, text_documents(view, rows))
        others = [s for s in discover("mediatheca.stages", Stage, ENTRY_POINTS) if s.stage_id != own.stage_id]
        engine = engine_for_tests(searcher, stages=[*others, _listed, broken])
        tested = {"stage_name": "under test", "stage_id": own.stage_id, "on_error": "skip"}
        plan = engine.compile([{"stage_id": _listed.stage_id}, tested], [view])
        return await engine.execute(plan, {"inputs": {"query": "red fox"}}, self.context())

    def run(self, rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
        import asyncio

        return asyncio.run(self.execute(rows))

    def test_it_is_found_by_discovery_and_documents_itself(self) -> None:
        engine = engine_for_tests(MemorySearcher())
        entry = next(e for e in engine.registry() if e["stage_id"] == self.stage.stage_id)
        assert len(entry["description"]) > 20
        assert json.dumps(entry["parameter_schema"])

    def test_its_example_is_accepted(self) -> None:
        prepared = self.stage.example
        if self.stage.prepare is None:
            self.stage.params.model_validate(prepared)
        assert isinstance(prepared, dict)

    def test_no_documents_in_give_no_documents_out(self) -> None:
        body = self.run([])
        assert body["documents"] == []
        assert body["status"] == "completed"

    def test_one_document_is_enough(self) -> None:
        assert len(self.run(self.rows[:1])["documents"]) <= 1

    def test_the_same_question_gets_the_same_answer(self) -> None:
        answers: list[Callable[[], Any]] = [lambda: self.run(self.rows)["documents"]] * 2
        first, second = (answer() for answer in answers)
        assert first == second

    def test_where_it_fails_it_can_be_skipped_and_the_result_is_degraded(self) -> None:
        import asyncio

        body = asyncio.run(self.execute_failing(self.rows))
        assert body["status"] == "degraded"
        assert [document["document_id"] for document in body["documents"]] == ["a", "b", "c", "d"]
        (entry,) = body["degraded"]
        assert (entry["resource"], entry["stage"]) == ("stage", "under test")
        assert "the stage of this test fails" in body["stage_statistics"]["stages"]["under test"]["error"]

    def test_missing_fields_equal_scores_and_any_script_do_no_harm(self) -> None:
        body = self.run(self.rows)
        assert body["status"] == "completed"
        assert all(isinstance(document["score"], float) for document in body["documents"])
