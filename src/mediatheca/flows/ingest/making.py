"""What an extractor gave for an object, as documents of its collection: checked, with lineage and files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mediatheca.extractors import Artifact, Extractor, Row
from mediatheca.flows.indexing import stored_vectors
from mediatheca.flows.ingest.items import ItemBuilder, SourceObject
from mediatheca.kernel import clock
from mediatheca.kernel.documents import Document, Vector, VectorIndex
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.ids import document_id
from mediatheca.kernel.sparse import is_sparse
from mediatheca.stores.db.tx import Record
from mediatheca.stores.documents.payloads import encode_json


@dataclass(slots=True)
class Made:
    """Documents by id, and the files that go with them by store key."""

    documents: dict[str, Document] = field(default_factory=dict)
    artifacts: dict[str, Artifact] = field(default_factory=dict)


class DocumentMaker:
    """Makes the documents of one collection."""

    def __init__(self, collection: Record, batch_id: str, extractor: Extractor, builder: ItemBuilder) -> None:
        self._collection, self._batch_id, self._extractor, self._builder = collection, batch_id, extractor, builder
        self._described: dict[str, Any] = collection.body["output_schema"]["properties"]
        self._indexes = {index.feature_uri.rsplit("/", 1)[-1]: index for index in stored_vectors(collection.body)}

    def make(self, source: SourceObject, rows: Iterable[Row]) -> Made:
        """The documents of one object; of two rows with one place the later one counts.

        Raises:
            ValidationError: a row that cannot be stored. One bad row would fail the whole commit, so it is found here.
        """
        made, passed, system = Made(), self._builder.payload(source), self._lineage(source)
        moment = clock.now()
        for row in rows:
            fields, files = dict(row.fields), self._files(row, source, made)
            fields |= {file["field"]: file["key"] for file in files}
            ident = document_id(self._collection.id, source.object_id, row.source_key, row.position)
            document = Document(
                document_id=ident,
                collection_id=self._collection.id,
                payload={**passed, **fields},
                vectors={self._index(name).name: self._vector(name, vector) for name, vector in row.vectors.items()},
                object_id=source.object_id,
                root_object_id=source.object_id,
                system={**system, "document_blobs": files} if files else system,
                created_at=moment,
                updated_at=moment,
            )
            encode_json(document.payload, ident, "payload")
            made.documents[ident] = document
        return made

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
        if "content_url" in self._described and "content_url" not in row.fields and source.file is not None:
            file = source.file
            files.append(
                {"field": "content_url", "role": "source", "type": file["mime_type"], "key": file["store_key"]}
            )
        for name, artifact in row.artifacts.items():
            key = self._artifact_key(source, artifact)
            made.artifacts[key] = artifact
            files.append({"field": name, "role": "thumbnail", "type": artifact.mime_type, "key": key})
        return files

    def _artifact_key(self, source: SourceObject, artifact: Artifact) -> str:
        """Content-addressed: the same thumbnail is stored once per collection."""
        digest = hashlib.sha256(artifact.data).hexdigest()
        scope = f"{source.row['organization_id']}/{source.row['namespace_id']}"
        return f"{scope}/artifacts/{self._collection.id}/{digest}{artifact.suffix}"

    def _lineage(self, source: SourceObject) -> dict[str, Any]:
        """Where a document comes from, as `_internal` shows it."""
        bucket_id = source.row["bucket_id"]
        blobs = [
            {"field": b["property"], "type": b["type"], "key": b["store_key"], "url": b["source_url"]}
            for b in source.blobs
            if b["store_key"] or b["source_url"]
        ]
        return {
            "root_bucket_id": bucket_id,
            "source_type": "bucket",
            "source_object_id": source.object_id,
            "lineage_path": f"{bucket_id}/{self._collection.id}",
            "feature_extractor_id": self._extractor.extractor_id,
            "batch_id": self._batch_id,
            "object_version": source.row["version"],
            "source_blobs": blobs,
        }
