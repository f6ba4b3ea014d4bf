"""One collection of a Qdrant server as an `Engine`."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mediatheca.kernel.documents import Document, Vector, VectorIndex
from mediatheca.kernel.spelling import Vocabulary
from mediatheca.stores.index.base import IndexSpec
from mediatheca.stores.index.patches import NESTED, PointPatch, together
from mediatheca.stores.index.points import ODD, SLICE, Raw, encode, engine_vectors, native_sparse, point_id, search_ef
from mediatheca.stores.index.word_list import words_in

WORDS_FRESH_S = 300.0
"""How long a node goes on with the words it has read: a new word is found at once, only not under a wrong spelling."""

if TYPE_CHECKING:
    from qdrant_client import QdrantClient


@dataclass(slots=True)
class HeldWords:
    """The words of a collection as one node last read them: other nodes write too, so they are read again."""

    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    read_at: float = -WORDS_FRESH_S


class QdrantCollection:
    """`name` is a collection or an alias."""

    def __init__(
        self,
        client: QdrantClient,
        models: ModuleType,
        name: str,
        spec: IndexSpec,
        words: HeldWords | None = None,
        tokenizer: str = "multilingual",
    ) -> None:
        self._client, self._name = client, name
        self._words = words or HeldWords()
        self.models = models
        self.vectors: dict[str, VectorIndex] = {index.name: index for index in spec.vectors}
        self.fields: dict[str, str] = dict(spec.fields)
        self.languages: dict[str, str] = dict(spec.languages)
        self.tokenizer = tokenizer

    def vector_settings(self, index: VectorIndex) -> dict[str, Any]:
        """Size, distance and comparator, as the server's vector parameters name them."""
        models = self.models
        distance = {"cosine": models.Distance.COSINE, "dot": models.Distance.DOT, "euclid": models.Distance.EUCLID}
        comparator = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
        return {
            "size": index.dimensions,
            "distance": distance[index.metric],
            "multivector_config": comparator if index.multi else None,
        }

    def write(self, documents: Sequence[Document]) -> None:
        fields = [path for path, kind in self.fields.items() if kind == "text"]
        self._words.vocabulary.add(words_in((document.payload for document in documents), fields))
        for start in range(0, len(documents), SLICE):
            points = [
                self.models.PointStruct(
                    id=point_id(d.document_id),
                    vector=engine_vectors(d, self.vectors, self.models.SparseVector),
                    payload=encode(d),
                )
                for d in documents[start : start + SLICE]
            ]
            self._client.upsert(self._name, points, wait=True)

    def patch(self, patches: Sequence[PointPatch]) -> None:
        models = self.models
        fields = [path for path, kind in self.fields.items() if kind == "text"]
        self._words.vocabulary.add(words_in((patch.values for patch in patches), fields))
        removed = together((patch.point_id, patch.removed) for patch in patches)
        operations: list[Any] = [
            models.DeletePayloadOperation(delete_payload=models.DeletePayload(keys=list(keys), points=ids))
            for ids, keys in removed
        ]
        steps: list[Any] = [(None, [(patch.point_id, patch.values) for patch in patches])]
        steps += [(key, [(p.point_id, p.nested[place]) for p in patches]) for place, key in enumerate(NESTED)]
        operations += [
            models.SetPayloadOperation(set_payload=models.SetPayload(payload=values, points=ids, key=key))
            for key, changes in steps
            for ids, values in together(changes)
        ]
        self._client.batch_update_points(self._name, operations, wait=True)

    def may_be_stale(self, write_seq: int) -> bool:
        """Other nodes write too: always look."""
        return True

    def has_odd_ids(self) -> bool:
        models = self.models
        odd = models.FieldCondition(key=ODD, match=models.MatchValue(value="1"))
        return self.count(models.Filter(must=[odd])) > 0

    def remove(self, point_ids: Sequence[str]) -> None:
        self._client.delete(self._name, self.models.PointIdsList(points=list(point_ids)), wait=True)

    def remove_matching(self, filter: Any) -> None:
        self._client.delete(self._name, self.models.FilterSelector(filter=filter), wait=True)

    def nearest(
        self, using: str, vector: Vector, limit: int, filter: Any, *, exact: bool, with_vectors: Sequence[str],
        keys: Sequence[str] | None = None,
    ) -> list[Raw]:  # fmt: skip
        models, sparse = self.models, self.vectors[using].sparse
        if sparse:
            params = None  # an inverted index: always exact
        elif exact:
            quantization = models.QuantizationSearchParams(ignore=True)
            params = models.SearchParams(exact=True, quantization=quantization)
        else:
            quantization = models.QuantizationSearchParams(rescore=True, oversampling=2.0)
            params = models.SearchParams(hnsw_ef=search_ef(0, limit), quantization=quantization)
        answer = self._client.query_points(
            self._name,
            query=native_sparse(vector, models.SparseVector) if sparse else vector.tolist(),
            using=using,
            query_filter=filter,
            limit=limit,
            search_params=params,
            with_payload=_select(keys),
            with_vectors=list(with_vectors) if with_vectors else False,
        )
        return [_raw(point, point.score) for point in answer.points]

    def scans(self) -> bool:
        """Never taken for granted: the server decides, and asking it would cost a request for each query."""
        return False

    def lexical(
        self, field: str, text: str, limit: int, filter: Any, *, keys: Sequence[str] | None = None
    ) -> list[Raw]:
        answer = self._client.query_points(
            self._name,
            query=self.models.TextQuery(text=text),
            using=field,
            query_filter=filter,
            limit=limit,
            with_payload=_select(keys),
        )
        return [_raw(point, point.score) for point in answer.points]

    def vocabulary(self) -> Vocabulary:
        held = self._words
        if time.monotonic() - held.read_at >= WORDS_FRESH_S:
            fields = [path for path, kind in self.fields.items() if kind == "text"]
            start: str | None = None
            while True:
                raws, start = self.page(None, 1000, start, list({path.split(".")[0] for path in fields}))
                held.vocabulary.add(words_in((raw.payload for raw in raws), fields))
                if start is None:
                    break
            held.read_at = time.monotonic()
        return held.vocabulary

    def page(
        self, filter: Any, limit: int, start: str | None, keys: Sequence[str] | None
    ) -> tuple[list[Raw], str | None]:
        found, following = self._client.scroll(
            self._name, scroll_filter=filter, limit=limit, offset=start, with_payload=_select(keys), with_vectors=False
        )
        return [_raw(point, 0.0) for point in found], None if following is None else str(following)

    def retrieve(
        self, point_ids: Sequence[str], keys: Sequence[str] | None, with_vectors: Collection[str]
    ) -> list[Raw]:
        found = self._client.retrieve(
            self._name,
            list(point_ids),
            with_payload=_select(keys),
            with_vectors=list(with_vectors) if with_vectors else False,
        )
        return [_raw(point, 0.0) for point in found]

    def count(self, filter: Any) -> int:
        return self._client.count(self._name, count_filter=filter, exact=True).count

    def facet(self, path: str, limit: int, filter: Any) -> list[tuple[Any, int]]:
        answer = self._client.facet(self._name, key=path, facet_filter=filter, limit=limit, exact=True)
        return [(hit.value, hit.count) for hit in answer.hits]

    def has_ids(self, point_ids: Collection[str]) -> Any:
        return self.models.HasIdCondition(has_id=list(point_ids))

    def span(self, low: int | None = None, high: int | None = None) -> Any:
        return self.models.Range(gte=low, lte=high)

    def stats(self) -> dict[str, int]:
        info = self._client.get_collection(self._name)
        points = info.points_count or 0
        vectors = sum(
            self.count(self.models.Filter(must=[self.models.HasVectorCondition(has_vector=name)]))
            for name in self.vectors
        )
        scanned = min(points, max(0, vectors - (info.indexed_vectors_count or 0)))
        return {
            "points": points,
            "indexed_points": points - scanned,
            "segments": info.segments_count,
            "bytes": 0,
        }


def _select(keys: Sequence[str] | None) -> bool | list[str]:
    return True if keys is None else list(keys)


def _raw(point: Any, score: float) -> Raw:
    vector = point.vector
    return Raw(dict(point.payload or {}), score, vector if isinstance(vector, dict) else {})
