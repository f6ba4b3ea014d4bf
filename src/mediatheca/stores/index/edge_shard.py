"""One Qdrant Edge shard as an `Engine`. Every call holds the GIL for its whole length."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import qdrant_edge as qe

from mediatheca.kernel.documents import Document, Vector, VectorIndex
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.spelling import Vocabulary
from mediatheca.stores.index import word_list
from mediatheca.stores.index.base import IndexSpec
from mediatheca.stores.index.patches import NESTED, PointPatch, together
from mediatheca.stores.index.points import (
    OBJECT_ID,
    ODD,
    ROOT_OBJECT_ID,
    SLICE,
    Raw,
    check_same_shape,
    encode,
    engine_vectors,
    index_path,
    is_uuid,
    native_sparse,
    point_id,
    search_ef,
)
from mediatheca.stores.index.word_list import WordList

EXACT_BELOW = 20_000
"""Up to here a scan is as fast as the graph and exact."""
_DISTANCE = {"cosine": qe.Distance.Cosine, "dot": qe.Distance.Dot, "euclid": qe.Distance.Euclid}
_MAX_SIM = qe.MultiVectorConfig(qe.MultiVectorComparator.MaxSim)
_PLACEHOLDER = "_"
"""A shard must have some vector; collections may have none. A sparse one that no point fills costs nothing."""
_IGNORE_INT8 = qe.QuantizationSearchParams(ignore=True)
_RESCORE = qe.QuantizationSearchParams(rescore=True, oversampling=2.0)
_ACORN = qe.AcornSearchParams(enable=True, max_selectivity=0.8)
"""A filter takes links out of the graph: at a tenth of 100,000 points recall was 0.37. ACORN looks two links far."""
_EXACT = qe.SearchParams(exact=True, quantization=_IGNORE_INT8)


def configuration(indexes: Sequence[VectorIndex]) -> qe.EdgeConfig:
    """Above about `EXACT_BELOW` points `optimize` makes a graph and int8 copies; originals stay for rescoring.

    A filter that leaves fewer than `EXACT_BELOW` points is answered by scanning those (about 1 ms for 20,000).
    """
    widest = max((index.dimensions for index in indexes if not index.sparse), default=1)
    threshold = EXACT_BELOW * widest * 4 // 1024
    return qe.EdgeConfig(
        vectors={index.name: _parameters(index) for index in indexes if not index.sparse},
        sparse_vectors={name: qe.EdgeSparseVectorParams() for name in (_PLACEHOLDER, *_sparse_names(indexes))},
        hnsw_config=qe.HnswIndexConfig(m=16, ef_construct=100, full_scan_threshold=threshold, max_indexing_threads=1),
        quantization_config=qe.ScalarQuantizationConfig(qe.ScalarType.Int8, quantile=0.99, always_ram=True),
        optimizers=qe.EdgeOptimizersConfig(indexing_threshold=threshold, default_segment_number=1),
        # Without the log a killed process pairs new vectors with old payloads and brings deletes back.
        wal_enabled=True,
        max_search_threads=1,
    )


def _sparse_names(indexes: Sequence[VectorIndex]) -> list[str]:
    return [index.name for index in indexes if index.sparse]


def _parameters(index: VectorIndex) -> qe.EdgeVectorParams:
    return qe.EdgeVectorParams(
        size=index.dimensions, distance=_DISTANCE[index.metric], multivector_config=_MAX_SIM if index.multi else None
    )


def _field_schema(kind: str, language: str = "") -> Any:
    """Payload indexes make filters fast, never right or wrong; graph links per value would double the build."""
    if kind == "text":
        # Multilingual: words of scripts without spaces are found too.
        known: dict[str, Any] = {}
        if language:
            named = language.capitalize()
            known["stemmer"] = qe.SnowballParams(getattr(qe.SnowballLanguage, named))
            known["stopwords"] = qe.StopwordsSet(languages={getattr(qe.Language, named)})
        return qe.TextIndexParams(
            tokenizer=qe.TokenizerType.Multilingual, lowercase=True, enable_hnsw=False, scoring=True, **known
        )
    if kind == "integer":
        return qe.IntegerIndexParams(lookup=True, range=True, enable_hnsw=False)
    makers = {
        "keyword": qe.KeywordIndexParams,
        "float": qe.FloatIndexParams,
        "bool": qe.BoolIndexParams,
        "datetime": qe.DatetimeIndexParams,
    }
    return makers[kind](enable_hnsw=False)


class EdgeShard:
    """Open shard + what it holds. Not thread-safe for writes: the index serialises them."""

    models: ModuleType = qe
    tokenizer = "multilingual"

    def __init__(self, shard: qe.EdgeShard, spec: IndexSpec, words: WordList) -> None:
        self._shard = shard
        self._words = words
        self.vectors: dict[str, VectorIndex] = {index.name: index for index in spec.vectors}
        self.fields: dict[str, str] = dict(spec.fields)
        self.languages: dict[str, str] = dict(spec.languages)
        self._points = self.count(None)
        self._highest: float = math.inf if self._points else 0
        self._has_odd = ODD in shard.info().payload_schema

    @classmethod
    def create(cls, path: Path, spec: IndexSpec) -> EdgeShard:
        """A fresh shard in an empty directory."""
        words = WordList(path.parent / word_list.NAME)
        words.start()
        made = qe.EdgeShard.create(str(path), configuration(spec.vectors))
        shard = cls(made, IndexSpec(spec.collection_id, spec.vectors), words)
        create = qe.UpdateOperation.create_field_index
        for key in (OBJECT_ID, ROOT_OBJECT_ID):
            shard._shard.update(create(key, _field_schema("keyword")))
        shard.extend(spec)
        return shard

    @classmethod
    def load(cls, path: Path, spec: IndexSpec) -> EdgeShard:
        return cls(qe.EdgeShard.load(str(path)), spec, WordList(path.parent / word_list.NAME))

    def extend(self, spec: IndexSpec) -> bool:
        """Add the vectors and payload indexes that are lacking; True when there were any.

        Raises:
            ConflictError: a vector of this name exists with other dimensions, metric or kind.
        """
        new = [index for index in spec.vectors if self.vectors.get(index.name) != index]
        for index in new:
            self._add_vector(index)
        fields = {
            path: kind
            for path, kind in spec.fields.items()
            if (kind, spec.languages.get(path, "")) != (self.fields.get(path), self.languages.get(path, ""))
        }
        for path, kind in fields.items():
            self._add_field(path, kind, spec.languages.get(path, ""))
        return bool(new or fields)

    def _add_vector(self, index: VectorIndex) -> None:
        held = self.vectors.get(index.name)
        if held is None and index.sparse:
            self._shard.update(qe.UpdateOperation.create_sparse_vector(index.name))
        elif held is None:
            create = qe.UpdateOperation.create_dense_vector
            self._shard.update(
                create(index.name, index.dimensions, _DISTANCE[index.metric], _MAX_SIM if index.multi else None)
            )
        else:
            check_same_shape(held, index)
        self.vectors[index.name] = index

    def _add_field(self, path: str, kind: str, language: str) -> None:
        native = index_path(path)
        if native is not None:
            self._shard.update(qe.UpdateOperation.create_field_index(native, _field_schema(kind, language)))
            if kind == "keyword":
                self._shard.update(qe.UpdateOperation.create_field_index(f"_f.{native}", _field_schema(kind)))
        if kind == "text" and self._points:
            self._words.forget()
        self.fields[path] = kind
        self.languages.pop(path, None)
        if language:
            self.languages[path] = language

    def spec(self, collection_id: str) -> IndexSpec:
        return IndexSpec(collection_id, tuple(self.vectors.values()), dict(self.fields), dict(self.languages))

    def _point(self, document: Document) -> qe.Point:
        vectors = engine_vectors(document, self.vectors, qe.SparseVector)
        try:
            return qe.Point(point_id(document.document_id), vectors, encode(document))
        except (TypeError, ValueError) as error:
            raise ValidationError.at("payload", f"of document '{document.document_id}' is not JSON: {error}") from error

    def write(self, documents: Sequence[Document]) -> None:
        for start in range(0, len(documents), SLICE):
            part = documents[start : start + SLICE]
            points = [self._point(document) for document in part]
            if not self._has_odd and not all(is_uuid(document.document_id) for document in part):
                # Made with the first such id: each payload index makes opening a shard slower.
                self._shard.update(qe.UpdateOperation.create_field_index(ODD, _field_schema("keyword")))
                self._has_odd = True
            self._shard.update(qe.UpdateOperation.upsert_points(points))
            self._words.add((document.payload for document in part), self._text_fields)
            self._points += len(part)
            self._highest = max(self._highest, *(d.write_seq for d in part)) if part else self._highest

    def patch(self, patches: Sequence[PointPatch]) -> None:
        operation = qe.UpdateOperation
        for ids, removed in together((patch.point_id, patch.removed) for patch in patches):
            self._shard.update(operation.delete_payload(ids, list(removed)))
        for ids, values in together((patch.point_id, patch.values) for patch in patches):
            self._shard.update(operation.set_payload(ids, values))
        self._words.add((patch.values for patch in patches), self._text_fields)
        for place, key in enumerate(NESTED):
            for ids, values in together((patch.point_id, patch.nested[place]) for patch in patches):
                self._shard.update(operation.set_payload(ids, values, key=key))
        self._highest = max(self._highest, *(patch.write_seq for patch in patches))

    def has_odd_ids(self) -> bool:
        return self._has_odd

    def may_be_stale(self, write_seq: int) -> bool:
        return write_seq < self._highest

    def remove(self, point_ids: Sequence[str]) -> None:
        for start in range(0, len(point_ids), 1000):
            self._shard.update(qe.UpdateOperation.delete_points(list(point_ids[start : start + 1000])))

    def remove_matching(self, filter: Any) -> None:
        self._shard.update(qe.UpdateOperation.delete_points_by_filter(filter))

    def nearest(
        self, using: str, vector: Vector, limit: int, filter: Any, *, exact: bool, with_vectors: Sequence[str],
        keys: Sequence[str] | None = None,
    ) -> list[Raw]:  # fmt: skip
        sparse = self.vectors[using].sparse
        if sparse:
            params = None  # an inverted index: always exact
        elif exact or self.scans():
            params = _EXACT
        else:
            width, acorn = search_ef(self._points, limit), None if filter is None else _ACORN
            params = qe.SearchParams(hnsw_ef=width, quantization=_RESCORE, acorn=acorn)
        request = qe.QueryRequest(
            limit=limit,
            query=qe.Query.Nearest(native_sparse(vector, qe.SparseVector) if sparse else vector.tolist(), using=using),
            filter=filter,
            params=params,
            with_payload=self._payload(keys),
            with_vector=list(with_vectors) if with_vectors else False,
        )
        return [_raw(point, point.score) for point in self._shard.query(request)]

    def scans(self) -> bool:
        return self._points <= EXACT_BELOW

    def lexical(
        self, field: str, text: str, limit: int, filter: Any, *, keys: Sequence[str] | None = None
    ) -> list[Raw]:
        request = qe.QueryRequest(
            limit=limit, query=qe.TextQuery(field, text), filter=filter, with_payload=self._payload(keys)
        )
        return [_raw(point, point.score) for point in self._shard.query(request)]

    def _payload(self, keys: Sequence[str] | None) -> Any:
        """What is read of the payload. Where points have the names of their documents, a name needs none: reading
        payloads takes most of a query's time."""
        named = keys is not None and list(keys) == ["document_id"] and not self._has_odd
        return not named and _select(keys)

    @property
    def _text_fields(self) -> list[str]:
        return [path for path, kind in self.fields.items() if kind == "text"]

    def vocabulary(self) -> Vocabulary:
        if not self._words.complete:
            self._words.fill(self._payloads(), self._text_fields)
        return self._words.vocabulary()

    def _payloads(self) -> Iterator[dict[str, Any]]:
        start: str | None = None
        while True:
            raws, start = self.page(None, 1000, start, list({path.split(".")[0] for path in self._text_fields}))
            yield from (raw.payload for raw in raws)
            if start is None:
                return

    def page(
        self, filter: Any, limit: int, start: str | None, keys: Sequence[str] | None
    ) -> tuple[list[Raw], str | None]:
        found, following = self._shard.scroll(
            qe.ScrollRequest(limit=limit, offset=start, filter=filter, with_payload=_select(keys), with_vector=False)
        )
        return [_raw(point, 0.0) for point in found], None if following is None else str(following)

    def retrieve(
        self, point_ids: Sequence[str], keys: Sequence[str] | None, with_vectors: Collection[str]
    ) -> list[Raw]:
        vectors = list(with_vectors) if with_vectors else False
        found = self._shard.retrieve(list(point_ids), self._payload(keys), vectors)
        return [_raw(point, 0.0) for point in found]

    def count(self, filter: Any) -> int:
        return self._shard.count(qe.CountRequest(exact=True, filter=filter))

    def facet(self, path: str, limit: int, filter: Any) -> list[tuple[Any, int]]:
        hits = self._shard.facet(qe.FacetRequest(path, limit=limit, exact=True, filter=filter)).hits
        return [(hit.value, hit.count) for hit in hits]

    def has_ids(self, point_ids: Collection[str]) -> Any:
        return qe.HasIdCondition(set(point_ids))

    def span(self, low: int | None = None, high: int | None = None) -> Any:
        return qe.RangeFloat(gte=low, lte=high)

    def flush(self) -> None:
        self._words.flush()
        self._shard.flush()
        self._points = self.count(None)

    def optimize(self) -> None:
        """Build graph, int8 copies and compact segments. Minutes for large shards: only in the build child."""
        self._shard.optimize()

    def stats(self) -> dict[str, int]:
        """`indexed_points`: those whose vectors all lie in a graph; the rest is scanned."""
        info, points = self._shard.info(), self.count(None)
        vectors = sum(self.count(qe.Filter(must=[qe.HasVectorCondition(name)])) for name in self.vectors)
        scanned = min(points, max(0, vectors - info.indexed_vectors_count))
        return {"points": points, "indexed_points": points - scanned, "segments": info.segments_count}

    def close(self) -> None:
        self._shard.close()


def _select(keys: Sequence[str] | None) -> Any:
    return True if keys is None else qe.PayloadSelector.Include(list(keys))


def _raw(point: Any, score: float) -> Raw:
    payload, vector = point.payload, point.vector
    if payload is None:
        payload = {"document_id": str(point.id)}
    return Raw(payload, score, vector if isinstance(vector, dict) else {})
