"""Takes things as they are: one document per object, or one per row of a JSONL or Parquet file. No model."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, time
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, Field, model_validator

from mediatheca.extractors import Description, Extract, ExtractContext, Extractor, Item, ItemError, Row, Source
from mediatheca.extractors._outputs import Metric, Positions, cleaned
from mediatheca.kernel.documents import RESERVED_PREFIX, Vector, VectorIndex
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.models import Models
from mediatheca.kernel.sparse import from_wire
from mediatheca.kernel.uris import FeatureUri

_DISTANCES: dict[str, Metric] = {"cosine": "cosine", "dot": "dot", "euclidean": "euclid"}


class VectorField(BaseModel):
    """A field that already holds a vector."""

    field: str = Field(min_length=1, description="Where the numbers are: a field of the object, or of a row.")
    name: str = Field(pattern=r"^[A-Za-z0-9][\w.\-]*$", max_length=100, description="Name of the vector index.")
    type: Literal["dense", "sparse"] = Field(
        "dense", description='dense: a list of numbers. sparse: {"indices": [...], "values": [...]}.'
    )
    dimensions: int = Field(0, ge=0, le=65_536, description="Numbers of a dense vector; a sparse one has none.")
    distance: Literal["cosine", "dot", "euclidean"] = "cosine"

    @model_validator(mode="after")
    def _fits_type(self) -> VectorField:
        if self.type == "sparse":
            if self.dimensions:
                raise ValueError("dimensions: a sparse vector has none; leave them out")
            if "distance" in self.model_fields_set and self.distance != "dot":
                raise ValueError("distance: sparse vectors compare by dot; leave it out")
            self.distance = "dot"
        elif not self.dimensions:
            raise ValueError("dimensions: is required for a dense vector, at least 1")
        return self


class Params(BaseModel):
    """Parameters of `passthrough_extractor`."""

    extractor_type: Literal["passthrough_extractor"] = "passthrough_extractor"
    preserve_metadata: bool = Field(True, description="Copy the object's metadata into `metadata`.")
    vector_fields: list[VectorField] = Field(default_factory=list, description="Fields that already hold vectors.")
    row_format: Literal["jsonl", "parquet"] | None = Field(None, description="Read the file as rows, a document each.")

    _cleaned = model_validator(mode="before")(cleaned)

    @model_validator(mode="after")
    def _names_differ(self) -> Params:
        names = [vector.name for vector in self.vector_fields]
        if len(set(names)) != len(names):
            raise ValueError(f"vector_fields: the names {sorted(names)} must differ")
        return self


def describe(params: Params, models: Models) -> Description:
    """The declared vector fields as indexes; facts of the file."""
    vectors = tuple(_index(field) for field in params.vector_fields)
    fields: dict[str, dict[str, Any]] = {
        "content_url": {"type": "string"},
        "content_type": {"type": "string"},
        "size_bytes": {"type": "integer"},
    }
    if params.preserve_metadata:
        fields["metadata"] = {"type": "object"}
    return Description(vectors, fields)


def _index(field: VectorField) -> VectorIndex:
    uri = FeatureUri("passthrough_extractor", "v1", field.name)
    metric, sparse = _DISTANCES[field.distance], field.type == "sparse"
    return VectorIndex(uri.index_name, str(uri), field.dimensions, metric, modalities=("vector",), sparse=sparse)


def open_extractor(params: Params, context: ExtractContext) -> Extract:
    """Nothing to load."""

    def extract(item: Item) -> Iterable[Row]:
        given = [source for name in item.inputs for source in item.inputs[name]]
        if params.row_format is None:
            return [_whole(item, given, params)]
        if not given:
            raise ItemError(f"the object has no file to read as {params.row_format}")
        return _all_rows(given, params)

    return extract


def _whole(item: Item, given: list[Source], params: Params) -> Row:
    row = Row(fields={}, source_key=given[0].key if given else "")
    if given:
        row.fields |= _facts(given[0])
    metadata = item.fields.get("metadata")
    if params.preserve_metadata and isinstance(metadata, Mapping):
        row.fields["metadata"] = dict(metadata)
    row.vectors = {field.name: vector_of(item.fields, field) for field in params.vector_fields}
    return row


def _facts(source: Source) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if source.mime_type:
        facts["content_type"] = source.mime_type
    if isinstance(source.value, str) and source.value.startswith(("http://", "https://")):
        facts["content_url"] = source.value
    elif source.data is not None or source.path is not None:
        facts["size_bytes"] = len(source.read())
    return facts


def _all_rows(given: list[Source], params: Params) -> Iterator[Row]:
    positions = Positions()
    read = _jsonl if params.row_format == "jsonl" else _parquet
    for source in given:
        for record in read(source):
            vectors = {field.name: vector_of(record, field) for field in params.vector_fields}
            taken = {field.field for field in params.vector_fields}
            fields = {name: value for name, value in record.items() if name not in taken and not _reserved(name)}
            yield Row(fields, vectors, source_key=source.key, position=positions.take(source.key))


def _reserved(name: str) -> bool:
    return name == RESERVED_PREFIX or name.startswith("__")


def _jsonl(source: Source) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(source.text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ItemError(f"'{source.key}' line {number} is not JSON: {error}") from error
        if not isinstance(record, dict):
            raise ItemError(f"'{source.key}' line {number} is a {type(record).__name__}, not an object")
        yield record


def _parquet(source: Source) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        for batch in pq.ParquetFile(io.BytesIO(source.read())).iter_batches(batch_size=1024):
            for record in batch.to_pylist():
                yield {name: _plain(value) for name, value in record.items()}
    except (pa.ArrowException, OSError) as error:
        raise ItemError(f"'{source.key}' is not a readable Parquet file: {error}") from error


def _plain(value: Any) -> Any:
    """A value that JSON knows: dates as ISO 8601, bytes as base64, what is not a number as null."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, date | time):
        return value.isoformat()
    return value if value is None or isinstance(value, str | int | float) else str(value)


def vector_of(record: Mapping[str, Any], field: VectorField) -> Vector:
    """The numbers of a vector field; unit length where the distance is cosine.

    Raises:
        ItemError: absent, not numbers, not finite, all zero under cosine, of another length; or not a sparse vector.
    """
    value: Any = record
    for part in field.field.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if field.type == "sparse":
        try:
            return from_wire(value, field.field)
        except ValidationError as error:
            raise ItemError(error.message) from error
    try:
        vector = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ItemError(f"'{field.field}' is not a list of numbers: {error}") from error
    if value is None or vector.ndim != 1 or len(vector) != field.dimensions:
        raise ItemError(f"'{field.field}' must be a list of {field.dimensions} numbers, it has shape {vector.shape}")
    norm = float(np.linalg.norm(vector))
    if not math.isfinite(norm):
        raise ItemError(f"'{field.field}' holds numbers that are not finite")
    if field.distance != "cosine":
        return vector
    if norm == 0:
        raise ItemError(f"'{field.field}' is all zero: it has no direction, which cosine distance needs")
    return vector / np.float32(norm)


passthrough_extractor = Extractor(
    name="passthrough_extractor",
    version="v1",
    description="Objects as they are, with vectors you already have; or a document per row of a JSONL or Parquet file.",
    params=Params,
    inputs={"content": ("string", "text", "image", "video", "audio", "pdf", "excel", "json", "binary", "document")},
    describe=describe,
    open=open_extractor,
    icon="arrow-right",
    example={"input_mappings": {"content": "file"}, "field_passthrough": [{"source_path": "title"}]},
)
