"""What an extractor gave for an object, as documents of its collection: checked, with lineage and files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mediatheca.extractors import Artifact, Dropped, Extractor, Row
from mediatheca.flows.indexing import stored_vectors
from mediatheca.flows.ingest.items import ItemBuilder, SourceObject
from mediatheca.flows.ingest.origin import Origins
from mediatheca.kernel import clock
from mediatheca.kernel.documents import Document, Vector, VectorIndex
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.ids import document_id
from mediatheca.kernel.json_schema import problems
from mediatheca.kernel.sparse import is_sparse
from mediatheca.kernel.uris import output_name
from mediatheca.stores.db.tx import Record
from mediatheca.stores.documents.payloads import encode_json

_SOURCE_FILES = ("content_url", "source_video_url", "source_audio_url")
"""Fields that hold the address of the file that a document was made from."""


@dataclass(slots=True)
class Made:
    """Documents by id, the files that go with them by store key, and what is wrong with them although they are kept."""

    documents: dict[str, Document] = field(default_factory=dict)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    dropped: list[Dropped] = field(default_factory=list)


class DocumentMaker:
    """Makes the documents of one collection."""

    def __init__(self, collection: Record, batch_id: str, extractor: Extractor, builder: ItemBuilder) -> None:
        self._collection, self._batch_id, self._extractor, self._builder = collection, batch_id, extractor, builder
        self._described: dict[str, Any] = collection.body["output_schema"]["properties"]
        self._indexes = {output_name(index.feature_uri): index for index in stored_vectors(collection.body)}
        inputs: dict[str, list[str]] = collection.body["feature_extractor"]["inputs"]
        self._paths = [path for paths in inputs.values() for path in paths]

    def make(self, source: SourceObject, rows: Iterable[Row]) -> Made:
        """The documents of one item; of two rows with one place the later one counts.

        Raises:
            ValidationError: a row that cannot be stored. One bad row would fail the whole commit, so it is found here.
        """
        made, passed, common = Made(), self._builder.payload(source), self._lineage(source)
        moment, origins = clock.now(), Origins(source, self._paths)
        for row in rows:
            system = {**common, **origins.of(row.source_key)}
            fields, files = dict(row.fields), self._files(row, source, made)
            fields |= {file["field"]: file["key"] for file in files}
            ident = document_id(self._collection.id, source.object_id, _place(source, row), row.position)
            document = Document(
                document_id=ident,
                collection_id=self._collection.id,
                payload={**passed, **fields},
                vectors={self._index(name).name: self._vector(name, vector) for name, vector in row.vectors.items()},
                object_id=source.object_id,
                root_object_id=_root(source),
                system={**system, "document_blobs": files} if files else system,
                created_at=moment,
                updated_at=moment,
            )
            encode_json(document.payload, ident, "payload")
            self._check(document, row, made)
            made.documents[ident] = document
        return made

    def _check(self, document: Document, row: Row, made: Made) -> None:
        """Against the schema that the collection declares: refused where it is strict, else noted."""
        mode = self._collection.body.get("schema_validation") or "off"
        schema = self._collection.body.get("document_schema")
        found = problems(schema, document.payload) if schema and mode != "off" else []
        if found and mode == "strict":
            raise ValidationError.at("document_schema", f"the document does not fit it: {'; '.join(found)}")
        if found:
            what = f"document {document.document_id}"
            made.dropped.append(Dropped(what, f"document_schema: {'; '.join(found)}", row.source_key, kind="warning"))

    def _index(self, name: str) -> VectorIndex:
        if name not in self._indexes:
            known = ", ".join(sorted(self._indexes)) or "none"
            raise ValidationError.at("vectors", f"the extractor made a vector '{name}' it does not describe ({known})")
        return self._indexes[name]

    def _vector(self, name: str, vector: Vector) -> Vector:
        index = self._index(name)
        if index.sparse or is_sparse(vector):
            if index.sparse != is_sparse(vector):
                wanted = "a sparse vector" if index.sparse else "numbers"
                raise ValidationError.at("vectors", f"the extractor made '{name}' of another kind than {wanted}")
            return vector
        if vector.ndim != 1 + index.multi or vector.shape[-1] != index.dimensions:
            wanted = f"({'any number, ' if index.multi else ''}{index.dimensions})"
            raise ValidationError.at("vectors", f"the extractor made '{name}' of shape {vector.shape}, not {wanted}")
        return vector

    def _files(self, row: Row, source: SourceObject, made: Made) -> list[dict[str, Any]]:
        """The files of a document as its lineage names them."""
        files = []
        file = self._builder.file_of(source, row.source_key)
        for name in _SOURCE_FILES:
            if file is not None and name in self._described and name not in row.fields:
                files.append({"field": name, "role": "source", "type": file["mime_type"], "key": file["store_key"]})
        for name, artifact in row.artifacts.items():
            key = self._artifact_key(source, artifact)
            made.artifacts[key] = artifact
            files.append({"field": name, "role": artifact.role, "type": artifact.mime_type, "key": key})
        return files

    def _artifact_key(self, source: SourceObject, artifact: Artifact) -> str:
        """Content-addressed: the same thumbnail is stored once per collection."""
        scope = f"{source.row['organization_id']}/{source.row['namespace_id']}"
        return f"{scope}/artifacts/{self._collection.id}/{artifact.digest()}{artifact.suffix}"

    def _lineage(self, source: SourceObject) -> dict[str, Any]:
        """Where a document comes from, as `_internal` shows it."""
        bucket_id = source.row["bucket_id"]
        blobs = [
            {"field": b["property"], "type": b["type"], "key": b["store_key"], "url": b["source_url"]}
            for b in source.blobs
            if b["store_key"] or b["source_url"]
        ]
        common = {
            "root_bucket_id": bucket_id,
            "feature_extractor_id": self._extractor.extractor_id,
            "batch_id": self._batch_id,
            "object_version": source.row["version"],
            "source_blobs": blobs,
        }
        if source.document is not None:
            return {**common, **self._from_document(source.document)}
        path = f"{bucket_id}/{self._collection.id}"
        return {**common, "source_type": "bucket", "source_object_id": source.object_id, "lineage_path": path}

    def _from_document(self, upstream: Document) -> dict[str, Any]:
        """What lies before a document that was made from a document."""
        system = upstream.system
        step = {"collection_id": upstream.collection_id, "document_id": upstream.document_id}
        step["feature_extractor_id"] = system.get("feature_extractor_id") or "direct_upsert"
        step["timestamp"] = clock.wire_time(upstream.created_at) if upstream.created_at is not None else ""
        path = system.get("lineage_path") or upstream.collection_id
        return {
            "source_type": "collection",
            "source_object_id": upstream.root_object_id or upstream.object_id,
            "source_document_id": upstream.document_id,
            "source_collection_id": upstream.collection_id,
            "lineage_path": f"{path}/{self._collection.id}",
            "lineage_chain": [*(system.get("lineage_chain") or ()), step],
        }


def _place(source: SourceObject, row: Row) -> str:
    """Where in its object a document comes from: part of its id."""
    return row.source_key if source.document is None else f"{source.item_id}/{row.source_key}"


def _root(source: SourceObject) -> str:
    """The object that everything came from; none where a document was written directly."""
    if source.document is None:
        return source.object_id
    return source.document.root_object_id or source.document.object_id
