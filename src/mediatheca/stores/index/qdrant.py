"""The search index on a Qdrant server (extra `qdrant`), for several API nodes.

A collection's id is a Qdrant alias; behind it lies a physical collection per generation. One more collection,
`<prefix>state`, holds the watermark and specification of each physical collection. A rebuild fills a new physical
collection, stores its state, then moves the alias: one step for everyone who queries.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mediatheca.kernel.documents import Document, VectorIndex
from mediatheca.kernel.errors import ConflictError, NotFoundError, UnavailableError
from mediatheca.kernel.filters import Filter
from mediatheca.kernel.search import Hit, TextQuery, VectorQuery
from mediatheca.stores.index import search
from mediatheca.stores.index.base import IndexSpec
from mediatheca.stores.index.points import OBJECT_ID, ODD, ROOT_OBJECT_ID, WRITE_SEQ, index_path, point_id
from mediatheca.stores.index.qdrant_collection import QdrantCollection

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

_STATE_IDS = uuid.UUID("6d656469-6174-6865-6361-000000000003")


class QdrantIndex:
    """`SearchIndex` on a Qdrant server.

    Args:
        url: of the server's HTTP port.
        api_key: when the server asks for one.
        prefix: of every collection and alias name, so that several installations can share a server.
        tokenizer: of text indexes.
        connect: makes the client from URL and key, for a client of your own.

    Raises:
        UnavailableError: the package `qdrant-client` is not installed.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        prefix: str = "mediatheca_",
        tokenizer: str = "multilingual",
        connect: Callable[[str, str | None], QdrantClient] | None = None,
    ) -> None:
        self._client = (connect or _connect)(url, api_key)
        self._models = _models()
        self._url, self._prefix, self._tokenizer = url, prefix, tokenizer
        self._specs: dict[str, tuple[str, IndexSpec]] = {}

    def _alias(self, collection_id: str) -> str:
        return self._prefix + collection_id

    @contextmanager
    def _at_server(self) -> Iterator[None]:
        from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

        try:
            yield
        except (ResponseHandlingException, UnexpectedResponse, ConnectionError) as error:
            raise UnavailableError(
                f"Qdrant at {self._url} failed: {error}. Check that it runs and that the API key is right."
            ) from error

    @contextmanager
    def _collection(self, collection_id: str) -> Iterator[QdrantCollection]:
        with self._at_server():
            held = self._specs.get(collection_id)
            if held is None:
                physical = self._physical(collection_id)
                if physical is None:
                    raise NotFoundError("search index of collection", collection_id)
                held = self._specs[collection_id] = (physical, self._read_state(physical)[0])
            yield self._engine(self._alias(collection_id), held[1])

    def _engine(self, name: str, spec: IndexSpec) -> QdrantCollection:
        return QdrantCollection(self._client, self._models, name, spec)

    def _physical(self, collection_id: str) -> str | None:
        alias = self._alias(collection_id)
        found = (a.collection_name for a in self._client.get_aliases().aliases if a.alias_name == alias)
        return next(found, None)

    def _state_name(self) -> str:
        name = f"{self._prefix}state"
        if not self._client.collection_exists(name):
            self._client.create_collection(name, vectors_config={})
        return name

    def _write_state(self, physical: str, spec: IndexSpec, watermark: int) -> None:
        payload = {"physical": physical, "watermark": watermark, "spec": json.dumps(asdict(spec))}
        point = self._models.PointStruct(id=str(uuid.uuid5(_STATE_IDS, physical)), vector={}, payload=payload)
        self._client.upsert(self._state_name(), [point], wait=True)

    def _read_state(self, physical: str) -> tuple[IndexSpec, int]:
        found = self._client.retrieve(self._state_name(), [str(uuid.uuid5(_STATE_IDS, physical))])
        if not found or not found[0].payload:
            raise NotFoundError("state of search index", physical)
        payload = found[0].payload
        content = json.loads(payload["spec"])
        vectors = tuple(VectorIndex(**{**v, "modalities": tuple(v["modalities"])}) for v in content["vectors"])
        return IndexSpec(content["collection_id"], vectors, content["fields"]), int(payload["watermark"])

    def ensure(self, spec: IndexSpec) -> None:
        with self._at_server():
            physical = self._physical(spec.collection_id)
            if physical is None:
                physical = self._create(spec)
                self._write_state(physical, spec, 0)
                self._switch(spec.collection_id, physical)
                merged = spec
            else:
                merged = self._extend(physical, spec)
            self._specs[spec.collection_id] = (physical, merged)

    def _extend(self, physical: str, spec: IndexSpec) -> IndexSpec:
        held, watermark = self._read_state(physical)
        have = {index.name: index for index in held.vectors}
        for index in spec.vectors:
            old = have.get(index.name)
            if old is None:
                config = self._models.DenseVectorConfig(**self._engine(physical, held).vector_settings(index))
                self._client.create_vector_name(physical, index.name, self._models.DenseVectorNameConfig(dense=config))
            elif (old.dimensions, old.metric, old.multi) != (index.dimensions, index.metric, index.multi):
                raise ConflictError(
                    f"vector index '{index.name}' holds {old.dimensions} dimensions ({old.metric}), "
                    f"not {index.dimensions} ({index.metric}): use a new name or rebuild the index"
                )
            have[index.name] = index
        self._add_fields(physical, {p: kind for p, kind in spec.fields.items() if held.fields.get(p) != kind})
        merged = IndexSpec(spec.collection_id, tuple(have.values()), {**held.fields, **spec.fields})
        if merged != held:
            self._write_state(physical, merged, watermark)
        return merged

    def _create(self, spec: IndexSpec) -> str:
        models = self._models
        physical = f"{self._alias(spec.collection_id)}_{uuid.uuid4().hex[:12]}"
        settings = self._engine(physical, spec).vector_settings
        self._client.create_collection(
            physical,
            vectors_config={index.name: models.VectorParams(**settings(index)) for index in spec.vectors},
            quantization_config=models.ScalarQuantization(
                scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
            ),
        )
        own = {WRITE_SEQ: "integer", OBJECT_ID: "keyword", ROOT_OBJECT_ID: "keyword", ODD: "keyword"}
        for key, kind in own.items():
            self._client.create_payload_index(physical, key, self._field_schema(kind))
        self._add_fields(physical, spec.fields)
        return physical

    def _add_fields(self, physical: str, fields: dict[str, str]) -> None:
        for path, kind in fields.items():
            native = index_path(path)
            if native is not None:
                self._client.create_payload_index(physical, native, self._field_schema(kind))
                if kind == "keyword":
                    self._client.create_payload_index(physical, f"_f.{native}", self._field_schema(kind))

    def _field_schema(self, kind: str) -> Any:
        models = self._models
        if kind == "text":
            return models.TextIndexParams(
                type=models.TextIndexType.TEXT,
                tokenizer=models.TokenizerType(self._tokenizer),
                enable_hnsw=False,
                scoring=True,
            )
        if kind == "integer":
            return models.IntegerIndexParams(type="integer", lookup=True, range=True, enable_hnsw=False)
        makers = {
            "keyword": models.KeywordIndexParams,
            "float": models.FloatIndexParams,
            "bool": models.BoolIndexParams,
            "datetime": models.DatetimeIndexParams,
        }
        return makers[kind](type=kind, enable_hnsw=False)

    def _switch(self, collection_id: str, physical: str) -> None:
        """Move the alias in one step; the collection it named before is removed."""
        models, alias, before = self._models, self._alias(collection_id), self._physical(collection_id)
        operations: list[Any] = []
        if before is not None:
            operations.append(models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias)))
        create = models.CreateAlias(collection_name=physical, alias_name=alias)
        operations.append(models.CreateAliasOperation(create_alias=create))
        self._client.update_collection_aliases(change_aliases_operations=operations)
        if before is not None:
            self._forget(before)

    def _forget(self, physical: str) -> None:
        self._client.delete_collection(physical)
        ids = [str(uuid.uuid5(_STATE_IDS, physical))]
        self._client.delete(self._state_name(), points_selector=self._models.PointIdsList(points=ids), wait=True)

    def drop(self, collection_id: str) -> None:
        with self._at_server():
            physical = self._physical(collection_id)
            self._specs.pop(collection_id, None)
            if physical is not None:
                models = self._models
                delete = models.DeleteAlias(alias_name=self._alias(collection_id))
                self._client.update_collection_aliases([models.DeleteAliasOperation(delete_alias=delete)])
                self._forget(physical)

    def watermark(self, collection_id: str) -> int:
        with self._at_server():
            physical = self._physical(collection_id)
            return 0 if physical is None else self._read_state(physical)[1]

    def upsert(self, collection_id: str, documents: Sequence[Document]) -> None:
        with self._collection(collection_id) as engine:
            search.apply(engine, documents)

    def delete(self, collection_id: str, document_ids: Collection[str]) -> None:
        if document_ids:
            with self._collection(collection_id) as engine:
                engine.remove([point_id(document_id) for document_id in document_ids])

    def delete_objects(self, collection_id: str, object_ids: Collection[str], upto_seq: int) -> None:
        if object_ids:
            with self._collection(collection_id) as engine:
                engine.remove_matching(search.derived_from(engine, object_ids, upto_seq))

    def flush(self, collection_id: str, watermark: int) -> None:
        """Writes waited for the server's own log; only the watermark is left to store."""
        with self._at_server():
            physical = self._physical(collection_id)
            if physical is None:
                raise NotFoundError("search index of collection", collection_id)
            self._write_state(physical, self._read_state(physical)[0], watermark)

    def query(self, collection_id: str, query: VectorQuery | TextQuery) -> list[Hit]:
        with self._collection(collection_id) as engine:
            return search.run(engine, query)

    def get(self, collection_id: str, document_ids: Sequence[str], with_vectors: Collection[str] = ()) -> list[Hit]:
        with self._collection(collection_id) as engine:
            return search.get(engine, document_ids, with_vectors)

    def scroll(self, collection_id: str, filter: Filter | None, limit: int, after: str = "") -> list[Hit]:
        with self._collection(collection_id) as engine:
            return search.scroll(engine, filter, limit, after)

    def count(self, collection_id: str, filter: Filter | None = None) -> int:
        with self._collection(collection_id) as engine:
            return search.count(engine, filter)

    def facet(self, collection_id: str, key: str, limit: int, filter: Filter | None = None) -> list[tuple[Any, int]]:
        with self._collection(collection_id) as engine:
            return search.facet(engine, key, limit, filter)

    def ids(self, collection_id: str) -> Iterator[str]:
        start: str | None = None
        while True:
            with self._collection(collection_id) as engine:
                found, start = search.all_ids(engine, start)
            yield from found
            if start is None:
                return

    def rebuild(
        self,
        spec: IndexSpec,
        pages: Iterator[list[Document]],
        watermark: int,
        before_swap: Callable[[], None] = lambda: None,
    ) -> None:
        with self._at_server():
            physical = self._create(spec)
            try:
                engine = self._engine(physical, spec)
                for page in pages:
                    search.apply(engine, page)
                self._write_state(physical, spec, watermark)
                before_swap()
                self._switch(spec.collection_id, physical)
            except BaseException:
                self._client.delete_collection(physical)
                raise
            self._specs[spec.collection_id] = (physical, spec)

    def stats(self, collection_id: str) -> dict[str, Any]:
        """`bytes` is 0: a server does not tell."""
        with self._collection(collection_id) as engine:
            return engine.stats()

    def check(self) -> None:
        with self._at_server():
            self._client.get_collections()

    def close(self) -> None:
        self._client.close()


def _connect(url: str, api_key: str | None) -> QdrantClient:
    try:
        from qdrant_client import QdrantClient
    except ImportError as error:
        raise UnavailableError(
            "INDEX_URL names a Qdrant server, which needs the package qdrant-client: pip install 'mediatheca[qdrant]'"
        ) from error
    # The check is a request in a thread of the client's own that can only warn; `check` here raises.
    return QdrantClient(url=url, api_key=api_key, check_compatibility=False)


def _models() -> ModuleType:
    from qdrant_client import models

    return models
