"""The search index on a Qdrant server (extra `qdrant`), for several API nodes.

A collection's id is a Qdrant alias; behind it lies a physical collection per generation. One more collection,
`<prefix>state`, holds the watermark and specification of each physical collection. A rebuild fills a new physical
collection, stores its state, then moves the alias: one step for everyone who queries.
"""

from __future__ import annotations

import json
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mediatheca.kernel.documents import VectorIndex
from mediatheca.kernel.errors import NotFoundError, UnavailableError
from mediatheca.stores.index import search
from mediatheca.stores.index.base import Hook, IndexSpec, Pages
from mediatheca.stores.index.engine_index import EngineIndex
from mediatheca.stores.index.points import OBJECT_ID, ODD, ROOT_OBJECT_ID, WRITE_SEQ, check_same_shape, index_path
from mediatheca.stores.index.qdrant_collection import HeldWords, QdrantCollection

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

_STATE_IDS = uuid.UUID("6d656469-6174-6865-6361-000000000003")


class QdrantIndex(EngineIndex):
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
        self._url, self._prefix, self.tokenizer = url, prefix, tokenizer
        self._specs: dict[str, tuple[str, IndexSpec]] = {}
        self._words: defaultdict[str, HeldWords] = defaultdict(HeldWords)

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
    def reading(self, collection_id: str) -> Iterator[QdrantCollection]:
        with self._at_server():
            held = self._specs.get(collection_id)
            if held is None:
                physical = self._physical(collection_id)
                if physical is None:
                    raise NotFoundError("search index of collection", collection_id)
                held = self._specs[collection_id] = (physical, self._read_state(physical)[0])
            yield self._engine(self._alias(collection_id), held[1])

    writing = reading

    def _engine(self, name: str, spec: IndexSpec) -> QdrantCollection:
        return QdrantCollection(self._client, self._models, name, spec, self._words[spec.collection_id], self.tokenizer)

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
        spec = IndexSpec(content["collection_id"], vectors, content["fields"], content.get("languages", {}))
        return spec, int(payload["watermark"])

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
                self._client.create_vector_name(physical, index.name, self._new_vector(index, physical, held))
            else:
                check_same_shape(old, index)
            have[index.name] = index
        had = {path: (kind, held.languages.get(path, "")) for path, kind in held.fields.items()}
        new = {p: k for p, k in spec.fields.items() if had.get(p) != (k, spec.languages.get(p, ""))}
        self._add_fields(physical, new, spec.languages)
        kept = {path: language for path, language in held.languages.items() if path not in spec.fields}
        merged = IndexSpec(
            spec.collection_id, tuple(have.values()), {**held.fields, **spec.fields}, {**kept, **spec.languages}
        )
        if merged != held:
            self._write_state(physical, merged, watermark)
        return merged

    def _new_vector(self, index: VectorIndex, physical: str, held: IndexSpec) -> Any:
        models = self._models
        if index.sparse:
            return models.SparseVectorNameConfig(sparse=models.SparseVectorConfig())
        config = models.DenseVectorConfig(**self._engine(physical, held).vector_settings(index))
        return models.DenseVectorNameConfig(dense=config)

    def _create(self, spec: IndexSpec) -> str:
        models = self._models
        physical = f"{self._alias(spec.collection_id)}_{uuid.uuid4().hex[:12]}"
        settings = self._engine(physical, spec).vector_settings
        self._client.create_collection(
            physical,
            vectors_config={i.name: models.VectorParams(**settings(i)) for i in spec.vectors if not i.sparse},
            sparse_vectors_config={i.name: models.SparseVectorParams() for i in spec.vectors if i.sparse},
            quantization_config=models.ScalarQuantization(
                scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
            ),
        )
        own = {WRITE_SEQ: "integer", OBJECT_ID: "keyword", ROOT_OBJECT_ID: "keyword", ODD: "keyword"}
        for key, kind in own.items():
            self._client.create_payload_index(physical, key, self._field_schema(kind))
        self._add_fields(physical, spec.fields, spec.languages)
        return physical

    def _add_fields(self, physical: str, fields: dict[str, str], languages: dict[str, str]) -> None:
        for path, kind in fields.items():
            native = index_path(path)
            if native is not None:
                self._client.create_payload_index(physical, native, self._field_schema(kind, languages.get(path, "")))
                if kind == "keyword":
                    self._client.create_payload_index(physical, f"_f.{native}", self._field_schema(kind))

    def _field_schema(self, kind: str, language: str = "") -> Any:
        models = self._models
        if kind == "text":
            known: dict[str, Any] = {}
            if language:
                stemmer = models.SnowballLanguage(language)
                known["stemmer"] = models.SnowballParams(type=models.Snowball.SNOWBALL, language=stemmer)
                known["stopwords"] = models.StopwordsSet(languages=[models.Language(language)])
            return models.TextIndexParams(
                type=models.TextIndexType.TEXT,
                tokenizer=models.TokenizerType(self.tokenizer),
                enable_hnsw=False,
                scoring=True,
                **known,
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
            self._words.pop(collection_id, None)
            if physical is not None:
                models = self._models
                delete = models.DeleteAlias(alias_name=self._alias(collection_id))
                self._client.update_collection_aliases([models.DeleteAliasOperation(delete_alias=delete)])
                self._forget(physical)

    def watermark(self, collection_id: str) -> int:
        with self._at_server():
            physical = self._physical(collection_id)
            return 0 if physical is None else self._read_state(physical)[1]

    def flush(self, collection_id: str, watermark: int) -> None:
        """Writes waited for the server's own log; only the watermark is left to store."""
        with self._at_server():
            physical = self._physical(collection_id)
            if physical is None:
                raise NotFoundError("search index of collection", collection_id)
            self._write_state(physical, self._read_state(physical)[0], watermark)

    def rebuild(self, spec: IndexSpec, pages: Pages, watermark: int, before_swap: Hook = lambda: None) -> None:
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
        with self.reading(collection_id) as engine:
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
