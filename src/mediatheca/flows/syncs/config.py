"""What a caller may ask of a sync. What is not built is refused, and the message says what to do instead."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mediatheca.flows.syncs.globs import glob, regex

Pattern = Annotated[str, Field(min_length=1, max_length=1024)]
Mode: TypeAlias = Literal["continuous", "initial_only"]
MODES: dict[str, Mode] = {
    "continuous": "continuous", "incremental": "continuous", "full": "continuous", "scheduled": "continuous",
    "initial_only": "initial_only", "one_shot": "initial_only",
}  # fmt: skip
MAX_PATTERNS = 100
MAX_MAPPINGS = 200
NOT_HERE = {
    "ingest_filter": "objects are not judged before they are stored; filter by file_filters, or in the collection",
    "source_adapter": "events of stores are not listened to; use polling_interval_seconds",
}
"""Fields of the wire that are refused → what to do instead."""


class Part(BaseModel):
    """Base of nested parts. An unknown key is a filter or a rule that would silently not hold: it is refused."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data


class FileFilters(Part):
    """Which files are taken: those that pass every filter.

    A pattern without `/` is held against the file's name, one with `/` against its path from the folder on.
    """

    include_patterns: list[Pattern] = Field(default_factory=list, max_length=MAX_PATTERNS)
    exclude_patterns: list[Pattern] = Field(default_factory=list, max_length=MAX_PATTERNS)
    extensions: list[Pattern] = Field(default_factory=list, max_length=MAX_PATTERNS)
    min_size_bytes: int | None = Field(None, ge=0)
    max_size_bytes: int | None = Field(None, ge=0)
    modified_after: datetime | None = None
    modified_before: datetime | None = None
    mime_types: list[Pattern] = Field(default_factory=list, max_length=MAX_PATTERNS)
    metadata_filters: list[dict[str, Any]] = Field(default_factory=list, max_length=MAX_PATTERNS)

    @field_validator("include_patterns", "exclude_patterns")
    @classmethod
    def _globs(cls, value: list[str]) -> list[str]:
        for pattern in value:
            glob(pattern)
        return value

    @field_validator("metadata_filters")
    @classmethod
    def _no_metadata(cls, value: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if value:
            raise ValueError("listings of object stores hold no metadata; use patterns, or map it to a field")
        return value

    @field_validator("modified_after", "modified_before")
    @classmethod
    def _zoned(cls, value: datetime | None) -> datetime | None:
        return zoned(value)


def zoned(value: datetime | None) -> datetime | None:
    """A time without zone is UTC."""
    return value if value is None or value.tzinfo else value.replace(tzinfo=UTC)


class TagSource(Part):
    type: Literal["tag"]
    key: str = Field(min_length=1, max_length=128)


class MetadataSource(Part):
    type: Literal["metadata"]
    key: str = Field(min_length=1, max_length=1024)


class RegexSource(Part):
    """RE2, found anywhere in the file's name, with one group."""

    type: Literal["filename_regex"]
    pattern: str = Field(min_length=1, max_length=1000)
    default: str | None = Field(None, max_length=10_000)

    @field_validator("pattern")
    @classmethod
    def _one_group(cls, value: str) -> str:
        groups = regex(value).groups
        if groups != 1:
            raise ValueError(f"must have exactly one group in parentheses, got {groups}")
        return value


class FolderSource(Part):
    """A folder of the path: 0 is the first, -1 the last; all of it with `full_path`."""

    type: Literal["folder_path"]
    segment: int | None = Field(None, ge=-1000, le=1000)
    full_path: bool = False


class FileSource(Part):
    type: Literal["file"]


class ConstantSource(Part):
    type: Literal["constant"]
    value: Any


class ForeignSource(Part):
    """Sources of other kinds of stores."""

    type: Literal["column", "drive_property", "rss_field", "rtsp_field"]

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, data: Any) -> Any:
        raise ValueError("object stores have none of these; use tag, metadata, filename_regex, folder_path or constant")


AnySource = Annotated[
    TagSource | MetadataSource | RegexSource | FolderSource | FileSource | ConstantSource | ForeignSource,
    Field(discriminator="type"),
]


class FieldMapping(Part):
    """A field of the object. `required`: a file without it is no object."""

    target_type: Literal["field"] = "field"
    source: AnySource
    transform: Literal["lowercase", "uppercase", "trim", "json_parse"] | None = None
    required: bool = False

    @field_validator("source")
    @classmethod
    def _no_file(cls, value: Any) -> Any:
        if value.type == "file":
            raise ValueError("a file goes into a blob: target_type 'blob'")
        return value


class BlobMapping(Part):
    """A blob of the object. `blob_property`: which; left out, or none of the bucket's, the key of the mapping."""

    target_type: Literal["blob"]
    source: AnySource
    blob_type: str | None = Field(None, max_length=50)
    blob_property: str | None = Field(None, min_length=1, max_length=100)
    mime_type_override: str | None = Field(None, max_length=255, pattern=r"^[\x21-\x7e]+/[\x21-\x7e]+$")


class SchemaMapping(Part):
    mappings: dict[str, Annotated[FieldMapping | BlobMapping, Field(discriminator="target_type")]] = Field(
        max_length=MAX_MAPPINGS
    )

    @model_validator(mode="before")
    @classmethod
    def _fields_by_default(cls, data: Any) -> Any:
        """The type of a mapping may be left out: a file is a blob, everything else a field."""
        if not isinstance(data, dict) or not isinstance(data.get("mappings"), dict):
            return data
        return {**data, "mappings": {name: _typed(entry) for name, entry in data["mappings"].items()}}


def _typed(entry: Any) -> Any:
    if not isinstance(entry, dict) or entry.get("target_type"):
        return entry
    source = entry.get("source")
    blob = "blob_property" in entry or (isinstance(source, dict) and source.get("type") == "file")
    return {**entry, "target_type": "blob" if blob else "field"}


class Reconcile(Part):
    """What becomes of an object when its file is gone, changed, or no longer passes the filters."""

    on_delete: bool = True
    on_update: bool = True
    on_filter_drift: bool = True
    re_extract_on_update: bool = True
    re_extract_fields: list[str] = Field(default_factory=list)

    @field_validator("re_extract_fields")
    @classmethod
    def _no_fields(cls, value: list[str]) -> list[str]:
        if value:
            raise ValueError("is not available: a file that changed is processed as a whole; leave it out")
        return value
