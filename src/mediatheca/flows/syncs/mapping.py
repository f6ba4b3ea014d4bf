"""A file as an object of its bucket: what goes into which field and blob."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from mediatheca.connectors import Entry
from mediatheca.flows.syncs.config import BlobMapping, FieldMapping, SchemaMapping
from mediatheca.flows.syncs.globs import regex
from mediatheca.flows.uploads import infer_property, type_of
from mediatheca.kernel.errors import FieldError, ValidationError
from mediatheca.kernel.mapping import MISSING
from mediatheca.kernel.schema import Property

WHERE = ("body", "schema_mapping", "mappings")
FILE = "file"
_KINDS = ("image", "video", "audio", "pdf", "excel", "text")


class MappingError(ValueError):
    """The file is no object of this bucket."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file, and what is known of it besides its content."""

    entry: Entry
    content_type: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.entry.path.rsplit("/", 1)[-1]

    @property
    def folders(self) -> list[str]:
        return [part for part in self.entry.path.split("/")[:-1] if part]


class Mapper:
    """The mapping of a sync onto a bucket's schema. Without one, a file goes where files of its type go."""

    def __init__(self, mapping: Mapping[str, Any] | None, schema: Mapping[str, Property]) -> None:
        self._mappings = SchemaMapping.model_validate(mapping).mappings if mapping else {}
        self._schema = schema
        self.needs_tags = any(entry.source.type == "tag" for entry in self._mappings.values())

    def check(self) -> None:
        """Refuse now what would fail with every file.

        Raises:
            ValidationError: naming every offending mapping.
        """
        errors: list[FieldError] = []
        if not self._mappings:
            errors += _unclear(self._schema)
        for name, entry in self._mappings.items():
            target = self._blob_property(name, entry) if isinstance(entry, BlobMapping) else name
            prop = self._schema.get(target.split(".")[0])
            if isinstance(entry, BlobMapping) and prop is None:
                known = ", ".join(list(self._schema)[:30])
                message = f"'{target}' is not a property of the bucket; it has: {known}"
                errors.append(FieldError((*WHERE, name, "blob_property"), message, "unknown_property"))
            elif isinstance(entry, FieldMapping) and prop is not None and prop.media:
                message = f"'{name}' is a file ({prop.type}); map it with target_type 'blob'"
                errors.append(FieldError((*WHERE, name, "target_type"), message, "target_type"))
        if errors:
            raise ValidationError.of(errors)

    def request(self, found: Found, token: str) -> dict[str, Any]:
        """The object request of a file. `token`: the `upload_id` by which a blob names the content that was read.

        Raises:
            MappingError: a required field is missing, or no property takes such a file.
        """
        made: dict[str, Any] = {"key_prefix": "/".join(found.folders), "blobs": []}
        if "source_path" not in self._schema:
            made["metadata"] = {"source_path": found.entry.key}
        if not self._mappings:
            made["blobs"].append({"property": self._by_type(found), "upload_id": token})
            return made
        for name, entry in self._mappings.items():
            if isinstance(entry, BlobMapping):
                made["blobs"] += self._blob(name, entry, found, token)
                continue
            value = _value(entry.source, found)
            value = value if value is MISSING else _transformed(entry.transform, value, name)
            if value is not MISSING:
                made[name] = value
            elif entry.required:
                raise MappingError(f"the required field '{name}' cannot be filled: there is no {entry.source.type}")
        return made

    def type_override(self) -> str | None:
        """The media type that the mapping gives the file."""
        overrides = (e.mime_type_override for e in self._mappings.values() if isinstance(e, BlobMapping))
        return next((each for each in overrides if each), None)

    def _blob_property(self, name: str, entry: BlobMapping) -> str:
        if entry.blob_property is not None and entry.blob_property in self._schema:
            return entry.blob_property
        # Typed clients send `content`, their default, also where the key of the mapping is meant.
        return name if name in self._schema or entry.blob_property is None else entry.blob_property

    def _blob(self, name: str, entry: BlobMapping, found: Found, token: str) -> list[dict[str, Any]]:
        blob: dict[str, Any] = {"property": self._blob_property(name, entry)}
        if entry.blob_type not in (None, "auto"):
            blob["type"] = entry.blob_type
        if entry.source.type == FILE:
            return [{**blob, "upload_id": token}]
        value = _value(entry.source, found)
        return [] if value is MISSING else [{**blob, "data": value}]

    def _by_type(self, found: Found) -> str:
        kind = type_of(found.content_type, found.name)
        name = infer_property(self._schema, kind)
        if name is None:
            raise MappingError(
                f"no property of the bucket takes such a file ({found.content_type}); see schema_mapping"
            )
        return name


def _unclear(schema: Mapping[str, Property]) -> list[FieldError]:
    """What keeps files from finding their property by their type alone."""
    fitting = {kind: [name for name, prop in schema.items() if _takes(prop, kind)] for kind in _KINDS}
    where = ("body", "schema_mapping")
    if not any(fitting.values()):
        return [FieldError(where, "is required: no property of the bucket takes files", "missing")]
    twice = {kind: names for kind, names in fitting.items() if len(names) > 1 and infer_property(schema, kind) is None}
    told = "; ".join(f"{kind}: {', '.join(names[:5])}" for kind, names in twice.items())
    return (
        [FieldError(where, f"is required: several properties take the same files ({told})", "missing")] if told else []
    )


def _takes(prop: Property, kind: str) -> bool:
    return (
        prop.media and prop.takes_blob(kind) if kind != "text" else prop.type in ("text", "file", "binary", "document")
    )


def _value(source: Any, found: Found) -> Any:
    """What a source gives, or MISSING."""
    if source.type == "constant":
        return source.value
    if source.type == "tag":
        return found.tags.get(source.key, MISSING)
    if source.type == "metadata":
        return found.metadata.get(source.key.lower(), MISSING)
    if source.type == "filename_regex":
        match = regex(source.pattern).search(found.name)
        value = None if match is None else match[1]
        return (MISSING if source.default is None else source.default) if value is None else value
    return _folder(source, found.folders)


def _folder(source: Any, folders: list[str]) -> Any:
    if source.full_path:
        return "/".join(folders) if folders else MISSING
    place = -1 if source.segment is None else source.segment
    return folders[place] if -len(folders) <= place < len(folders) else MISSING


def _transformed(transform: str | None, value: Any, name: str) -> Any:
    if transform is None or not isinstance(value, str):
        return value
    if transform == "json_parse":
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise MappingError(f"'{name}' is not JSON: {error}") from error
    return {"lowercase": value.lower, "uppercase": value.upper, "trim": value.strip}[transform]()
