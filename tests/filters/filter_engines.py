"""The real engines behind one small face: load documents, ask a filter, get ids and whether they are exact."""

from __future__ import annotations

import shutil
import tempfile
import uuid
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import orjson
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Engine,
    Integer,
    MetaData,
    Table,
    Text,
    create_engine,
    insert,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB

from mediatheca.kernel.documents import Document
from mediatheca.kernel.filters import Filter, document_view
from mediatheca.stores.db.filters import compile_sql
from mediatheca.stores.db.tables import UtcTime
from mediatheca.stores.documents.lance_filters import compile_lance, lance_bounds
from mediatheca.stores.index.points import encode
from mediatheca.stores.index.qdrant_filters import compile_qdrant

COLLECTION = "col_1"
MADE = datetime(2024, 1, 1, tzinfo=UTC)


def document(at: int, payload: dict[str, Any]) -> Document:
    made = MADE.replace(year=2023 + at % 3, microsecond=at)
    return Document(
        f"Doc {at}", COLLECTION, payload, object_id=f"x{at}", root_object_id="red" if at % 2 else "", created_at=made,
        updated_at=made, write_seq=at,
    )  # fmt: skip


def view_of(doc: Document) -> Mapping[str, Any]:
    system = {
        "object_id": doc.object_id, "root_object_id": doc.root_object_id, "created_at": doc.created_at,
        "updated_at": doc.updated_at,
    }  # fmt: skip
    return document_view(doc.payload, doc.document_id, COLLECTION, system)


class FilterEngine(Protocol):
    def load(self, payloads: Sequence[dict[str, Any]]) -> None: ...

    def view(self, at: int) -> Mapping[str, Any]: ...

    def select(self, filter: Filter) -> tuple[set[int], bool]: ...

    def close(self) -> None: ...


class SqlEngine:
    """SQLite or PostgreSQL: one JSON column, a second one, and a plain column of each kind."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        json = JSON().with_variant(JSONB(), "postgresql")
        self._table = Table(
            "filtered", MetaData(), Column("at", Integer, primary_key=True), Column("body", json), Column("o", json),
            Column("s", Text), Column("n", BigInteger), Column("flag", Boolean), Column("updated_at", UtcTime()),
        )  # fmt: skip
        self._table.metadata.drop_all(engine)
        self._table.metadata.create_all(engine)
        self._rows: list[dict[str, Any]] = []

    @classmethod
    def open(cls, url: str) -> SqlEngine:
        def dumps(value: Any) -> str:
            return orjson.dumps(value).decode()

        return cls(create_engine(url, json_serializer=dumps, json_deserializer=orjson.loads))

    def load(self, payloads: Sequence[dict[str, Any]]) -> None:
        self._rows = [self._row(at, dict(payload)) for at, payload in enumerate(payloads)]
        with self._engine.begin() as connection:
            connection.execute(self._table.delete())
            if self._rows:
                connection.execute(insert(self._table), self._rows)

    @staticmethod
    def _row(at: int, payload: dict[str, Any]) -> dict[str, Any]:
        """Values of a column's own type move into the column."""
        row: dict[str, Any] = {"at": at, "body": payload, "o": payload.pop("o", None)}
        row["s"] = payload.pop("s") if isinstance(payload.get("s"), str) else None
        whole = isinstance(payload.get("n"), int) and not isinstance(payload["n"], bool) and abs(payload["n"]) < 2**63
        row["n"] = payload.pop("n") if whole else None
        row["flag"] = payload.pop("flag") if isinstance(payload.get("flag"), bool) else None
        row["updated_at"] = MADE.replace(year=2023 + at % 3) if at % 4 else None
        return row

    def view(self, at: int) -> Mapping[str, Any]:
        row = self._rows[at]
        return {**row["body"], **{name: value for name, value in row.items() if name != "body"}}

    def select(self, filter: Filter) -> tuple[set[int], bool]:
        table = self._table
        columns = {column.name: column for column in table.c}
        native, exact = compile_sql(filter, columns, table.c.body, self._engine.dialect.name)
        statement = select(table.c.at) if native is None else select(table.c.at).where(native)
        with self._engine.connect() as connection:
            return set(connection.execute(statement).scalars()), exact

    def close(self) -> None:
        self._table.metadata.drop_all(self._engine)
        self._engine.dispose()


class _Documents:
    """Engines that hold documents."""

    def __init__(self) -> None:
        self.documents: list[Document] = []

    def view(self, at: int) -> Mapping[str, Any]:
        return view_of(self.documents[at])


class LanceEngine(_Documents):
    def __init__(self) -> None:
        super().__init__()
        self._folder = Path(tempfile.mkdtemp(prefix="filters-lance-"))
        self._dataset: Any = None

    def load(self, payloads: Sequence[dict[str, Any]]) -> None:
        import lance
        import pyarrow as pa

        self.documents = [document(at, payload) for at, payload in enumerate(payloads)]
        time = pa.timestamp("us", tz="UTC")
        texts = pa.array([orjson.dumps(doc.payload).decode() for doc in self.documents], pa.utf8())
        table = pa.table(
            {
                "at": pa.array(range(len(self.documents)), pa.int64()),
                "document_id": pa.array([doc.document_id for doc in self.documents], pa.utf8()),
                "object_id": pa.array([doc.object_id for doc in self.documents], pa.utf8()),
                "root_object_id": pa.array([doc.root_object_id for doc in self.documents], pa.utf8()),
                "created_at": pa.array([doc.created_at for doc in self.documents], time),
                "updated_at": pa.array([doc.updated_at for doc in self.documents], time),
                "payload": pa.ExtensionArray.from_storage(pa.json_(pa.utf8()), texts),
            }
        )
        shutil.rmtree(self._folder, ignore_errors=True)
        self._dataset = lance.write_dataset(table, str(self._folder / "t"), data_storage_version="2.2")

    def select(self, filter: Filter) -> tuple[set[int], bool]:
        native, exact = compile_lance(filter, COLLECTION)
        return self._rows(native), exact

    def sure(self, filter: Filter) -> set[int]:
        """The lower bound."""
        lower = lance_bounds(filter, COLLECTION).lower
        return set() if lower is None else self._rows(lower)

    def _rows(self, condition: str | None) -> set[int]:
        return set(self._dataset.to_table(columns=["at"], filter=condition)["at"].to_pylist())

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


class EdgeEngine(_Documents):
    """Qdrant Edge, with payload indexes on some fields as a collection declares them."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        super().__init__()
        self._fields = fields
        self._folder: Path | None = None
        self._shard: Any = None

    def load(self, payloads: Sequence[dict[str, Any]]) -> None:
        import qdrant_edge as qe

        self.close()
        self.documents = [document(at, payload) for at, payload in enumerate(payloads)]
        self._folder = Path(tempfile.mkdtemp(prefix="filters-edge-"))
        vectors = {"v": qe.EdgeVectorParams(size=2, distance=qe.Distance.Dot)}
        shard = qe.EdgeShard.create(
            str(self._folder), qe.EdgeConfig(vectors=vectors, wal_enabled=False, max_search_threads=1)
        )
        makers = {
            "keyword": qe.KeywordIndexParams, "float": qe.FloatIndexParams, "datetime": qe.DatetimeIndexParams,
            "bool": qe.BoolIndexParams, "integer": qe.IntegerIndexParams,
        }  # fmt: skip
        for key, kind in self._fields.items():
            for path in (key, f"_f.{key}") if kind == "keyword" else (key,):
                shard.update(qe.UpdateOperation.create_field_index(path, makers[kind](enable_hnsw=False)))
        points = [qe.Point(at, {}, encode(doc)) for at, doc in enumerate(self.documents)]
        shard.update(qe.UpdateOperation.upsert_points(points))
        self._shard = shard

    def select(self, filter: Filter) -> tuple[set[int], bool]:
        import qdrant_edge as qe

        native, exact = compile_qdrant(filter, qe, self._fields)
        found, _ = self._shard.scroll(qe.ScrollRequest(limit=1000, filter=native, with_payload=False))
        return {record.id for record in found}, exact

    def close(self) -> None:
        if self._shard is not None:
            self._shard.close()
            self._shard = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


class ClientEngine(_Documents):
    """qdrant-client in local mode: the vocabulary of a Qdrant server."""

    def __init__(self) -> None:
        from qdrant_client import QdrantClient

        super().__init__()
        self._client = QdrantClient(":memory:")

    def load(self, payloads: Sequence[dict[str, Any]]) -> None:
        from qdrant_client import models

        self.documents = [document(at, payload) for at, payload in enumerate(payloads)]
        self._client.delete_collection("c")
        self._client.create_collection("c", vectors_config={})
        points = [
            models.PointStruct(id=str(uuid.UUID(int=at)), vector={}, payload=encode(doc))
            for at, doc in enumerate(self.documents)
        ]
        if points:
            self._client.upsert("c", points)

    def select(self, filter: Filter) -> tuple[set[int], bool]:
        from qdrant_client import models

        native, exact = compile_qdrant(filter, models)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found, _ = self._client.scroll("c", scroll_filter=native, limit=1000, with_payload=False)
        return {uuid.UUID(record.id).int for record in found}, exact

    def close(self) -> None:
        self._client.close()
