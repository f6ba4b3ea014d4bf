"""The retrieval engine over this installation's index, documents, models, blobs and fetcher."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from mediatheca.extractors import CUTTING, TOTAL, Extractor, Item, Row, Source
from mediatheca.flows.indexing import Indexer
from mediatheca.flows.outside.readiness import Readiness
from mediatheca.flows.plugins.realtime import RealtimeTexts
from mediatheca.flows.recall_guard import RecallGuard
from mediatheca.flows.retrieve import RetrieveEngine
from mediatheca.flows.services import JobServices
from mediatheca.flows.word_search import word_search
from mediatheca.jobs.runner import ItemFailure, ItemRows, Runner
from mediatheca.kernel.documents import Document, Vector, VectorIndex
from mediatheca.kernel.errors import NotFoundError, ValidationError
from mediatheca.kernel.filter_values import at_path
from mediatheca.kernel.filters import Filter, document_view
from mediatheca.kernel.present import as_hit
from mediatheca.kernel.search import Cutting, Hit, QueryPiece, TextQuery, VectorQuery, evenly
from mediatheca.kernel.uris import output_name, parse_feature_uri
from mediatheca.stages import Stage
from mediatheca.stores.blobs.base import BlobStore
from mediatheca.stores.documents.base import Scan, Tombstones
from mediatheca.stores.fetch import Fetcher

T = TypeVar("T")
SIGNED_S = 3600
OWN_BLOBS = "/v1/blobs/"


class IndexSearcher:
    """Reads from the index, on the event loop (a call is short); from the documents while the index catches up."""

    def __init__(self, indexer: Indexer, guard: RecallGuard | None = None) -> None:
        self._indexer = indexer
        self._guard = guard

    async def search(self, collection_id: str, query: VectorQuery | TextQuery) -> tuple[list[Hit], bool]:
        if self._indexer.ready(collection_id):
            found = self._indexer.index.query(collection_id, query)
            if self._guard is not None and isinstance(query, VectorQuery):
                self._guard.sample(collection_id, query, found)
            return found, False
        return await self._exactly(collection_id, [], lambda dead: self._nearest(collection_id, query, dead))

    async def scroll(self, collection_id: str, filter: Filter | None, limit: int) -> tuple[list[Hit], bool]:
        if self._indexer.ready(collection_id):
            return self._indexer.index.scroll(collection_id, filter, limit), False
        scan = Scan(filter=filter, limit=limit)
        return await self._exactly(
            collection_id,
            [],
            lambda dead: [as_hit(d) for d in self._indexer.documents.scan(collection_id, scan, tombstones=dead)],
        )

    async def count(self, collection_id: str, filter: Filter | None) -> tuple[int, bool]:
        if self._indexer.ready(collection_id):
            return self._indexer.index.count(collection_id, filter), False
        documents = self._indexer.documents
        return await self._exactly(
            collection_id, 0, lambda dead: documents.count(collection_id, filter, tombstones=dead)
        )

    async def facet(
        self, collection_id: str, key: str, limit: int, filter: Filter | None
    ) -> tuple[list[tuple[Any, int]], bool]:
        if self._indexer.ready(collection_id):
            return self._indexer.index.facet(collection_id, key, limit, filter), False
        scan = Scan(filter=filter)

        def counted(dead: Tombstones) -> list[tuple[Any, int]]:
            found = self._indexer.documents.scan(collection_id, scan, tombstones=dead)
            counts = Counter(value for document in found for value in set(_facet_values(document, key)))
            return sorted(counts.items(), key=lambda entry: (-entry[1], str(entry[0])))[:limit]

        return await self._exactly(collection_id, [], counted)

    async def get(
        self, collection_id: str, ids: Sequence[str], with_vectors: Collection[str] = (), *, bare: bool = False
    ) -> tuple[list[Hit], bool]:
        if self._indexer.ready(collection_id):
            return self._indexer.index.get(collection_id, ids, with_vectors, bare=bare), False
        documents = self._indexer.documents
        return await self._exactly(
            collection_id,
            [],
            lambda dead: [as_hit(d) for d in documents.get(collection_id, ids, tombstones=dead, vectors=with_vectors)],
        )

    async def catch_up(self, collection_id: str, seq: int) -> int:
        if seq and self._indexer.applied(collection_id) >= seq:
            return self._indexer.applied(collection_id)
        return await asyncio.to_thread(self._indexer.caught_up, collection_id)

    def words(self, text: str, language: str = "") -> Mapping[int, int]:
        return self._indexer.index.words(text, language)

    def exact(self, collection_id: str, query: VectorQuery | TextQuery) -> bool:
        # What is not ready may have no index yet: then the documents answered, exactly.
        return not self._indexer.ready(collection_id) or self._indexer.index.exact(collection_id, query)

    def version(self, collection_id: str) -> int | None:
        return self._indexer.version(collection_id)

    async def _exactly(self, collection_id: str, empty: T, read: Callable[[Tombstones], T]) -> tuple[T, bool]:
        def work() -> tuple[T, bool]:
            if self._indexer.unwritten(collection_id):
                return empty, False
            return read(self._indexer.tombstones_of(collection_id)), True

        return await asyncio.to_thread(work)

    def _nearest(self, collection_id: str, query: VectorQuery | TextQuery, dead: Tombstones) -> list[Hit]:
        if isinstance(query, TextQuery):
            return word_search(
                self._indexer.documents, self._indexer.index, self._indexer.spec(collection_id), query, dead
            )
        index = self._indexer.vector_index(collection_id, query.using)
        wanted = query.limit + len(query.exclude)
        documents = self._indexer.documents
        found = documents.nearest(collection_id, index, query.vector, wanted, query.filter, tombstones=dead)
        hits = [as_hit(document, score) for score, document in found if document.document_id not in query.exclude]
        floor = query.min_score
        return [hit for hit in hits if floor is None or hit.score >= floor][: query.limit]


def _facet_values(document: Document, key: str) -> list[Any]:
    hit = as_hit(document)
    view = document_view(hit.payload, hit.document_id, hit.collection_id, hit.system)
    return [value for value in at_path(view, key) if isinstance(value, str | int | float | bool)]


class QueryFiles:
    """Files in queries: fetched within limits, or read from our own store when the URL is one we signed."""

    def __init__(self, fetcher: Fetcher, blobs: BlobStore, max_bytes: int) -> None:
        self._fetcher = fetcher
        self._blobs = blobs
        self._max_bytes = max_bytes

    async def __call__(self, url: str) -> bytes:
        return await asyncio.to_thread(self._read, url)

    def _blob(self, key: str) -> bytes:
        held = self._blobs.head(key)
        if held is None:
            raise NotFoundError("file of upload", key.rpartition("/")[2])
        if held.size > self._max_bytes:
            what = f"the uploaded file has {held.size:,} bytes; a query takes {self._max_bytes:,}"
            raise ValidationError.at("searches.query.value", what, "too_large")
        return self._blobs.get(key)

    def _read(self, url: str) -> bytes:
        if url.startswith(OWN):
            return self._blob(url.removeprefix(OWN))
        parts = urlsplit(url)
        verify = getattr(self._blobs, "verify", None)
        if verify is not None and parts.path.startswith(OWN_BLOBS) and "sig=" in parts.query:
            key = unquote(parts.path.removeprefix(OWN_BLOBS))
            verify("GET", key, dict(parse_qsl(parts.query)))
            return self._blobs.get(key)
        return self._fetcher.fetch(url, max_bytes=self._max_bytes, timeout_s=30).data


OWN = "blob:"
"""How the engine names a file of our own store; a caller's URL is never one, it has http(s) or s3."""


class QueryEmbedder:
    """The vector of a file in a query: the extractor that filled the index makes it, in a child process, with the
    parameters of the collection."""

    def __init__(self, runner: Runner, extractors: Mapping[str, Extractor]) -> None:
        self._runner = runner
        self._extractors = extractors

    async def __call__(self, data: bytes, index: VectorIndex) -> Vector:
        return (await asyncio.to_thread(self._embed, data, index))[0].vector

    async def pieces(self, data: bytes, index: VectorIndex, how: Cutting) -> list[QueryPiece]:
        found = await asyncio.to_thread(self._embed, data, index, how)
        total = max(len(found), *(piece.total for piece in found))
        # An extractor that is run as it is knows nothing of the limit.
        return [replace(piece, total=total if total > how.most else 0) for piece in evenly(found, how.most)]

    def _embed(self, data: bytes, index: VectorIndex, how: Cutting | None = None) -> list[QueryPiece]:
        uri, output = parse_feature_uri(index.feature_uri), output_name(index.feature_uri)
        extractor = self._extractors.get(f"{uri.extractor}_{uri.version}")
        if extractor is None:
            raise ValidationError.at("query", f"no installed extractor makes '{index.feature_uri}' from a file")
        if set(index.modalities) <= {"text"} and not extractor.query_files:
            message = f"'{index.feature_uri}' takes text and no files; use input_mode text"
            raise ValidationError.at("searches.query.input_mode", message, "modality")
        item = Item(
            "query",
            {next(iter(extractor.inputs)): [Source(data=data, key="query")]},
            {} if how is None else {CUTTING: how},
        )
        parameters = json.loads(index.parameters or "{}")
        for outcome in self._runner.map(extractor.extractor_id, parameters, [item], query=output):
            if isinstance(outcome, ItemFailure):
                raise ValidationError.at("query", f"the file cannot be used as a query: {outcome.reason}")
            rows = outcome.rows if isinstance(outcome, ItemRows) else []
            if found := [_piece(row, output) for row in rows if output in row.vectors]:
                return found
        raise ValidationError.at("query", f"the file gave no vector for '{index.feature_uri}'")


def _piece(row: Row, output: str) -> QueryPiece:
    fields = row.fields
    start, end = fields.get("start_time"), fields.get("end_time")
    time_ms = None if start is None or end is None else (round(1000 * start), round(1000 * end))
    return QueryPiece(row.vectors[output], time_ms, fields.get("page_number"), fields.get(TOTAL, 0))


def build_engine(
    services: JobServices,
    indexer: Indexer,
    runner: Runner,
    secret: bytes,
    stages: Sequence[Stage],
    guard: RecallGuard | None = None,
) -> RetrieveEngine:
    """The engine of this process. `runner`: its own, so that a query does not wait behind a batch."""

    def sign(key: str) -> str:
        return services.blobs.sign("GET", key, expires_s=SIGNED_S, content_type=content_type(key))

    settings = services.settings
    files = QueryEmbedder(runner, services.extractors)
    return RetrieveEngine(
        searcher=IndexSearcher(indexer, guard),
        models=services.models,
        fetch=QueryFiles(services.fetcher, services.blobs, settings.fetch_max_mb << 20),
        decode=files,
        cut=files.pieces,
        ask=RealtimeTexts(services.plugins),
        sign=sign,
        cursor_key=secret,
        stages=stages,
        strict=settings.strict,
        lacking=Readiness(settings).lacking,
    )


_TYPES = {
    ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp", ".gif": "image/gif",
    ".mp4": "video/mp4",
}  # fmt: skip


def content_type(key: str) -> str:
    """What a signed URL of an artifact answers with."""
    return _TYPES.get(PurePosixPath(key).suffix.lower(), "application/octet-stream")
