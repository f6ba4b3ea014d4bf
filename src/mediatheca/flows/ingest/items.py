"""Objects as extractors see them: the mapped inputs of each, with where their files are, and what is passed through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mediatheca.extractors import Extractor, Item, Source
from mediatheca.flows.services import JobServices
from mediatheca.jobs.runner_supply import Awaited
from mediatheca.kernel.documents import Document
from mediatheca.kernel.errors import MediathecaError
from mediatheca.kernel.mapping import MISSING, Passthrough, parse_passthrough, read_path, write_path
from mediatheca.stores.db.tx import Row

URLS = ("http://", "https://")
_MEDIA = {"image", "video", "audio", "pdf", "document", "binary", "file"}


@dataclass(frozen=True, slots=True)
class Failure:
    """An item (an object, or a document of the source) that produced no documents, and why."""

    item_id: str
    phase: str
    reason: str
    permanent: bool = True


@dataclass(slots=True)
class SourceObject:
    """An object with its blobs, or a document of another collection with its files, flattened: what mappings and
    passthrough read."""

    row: Row
    blobs: list[Row]
    view: dict[str, Any] = field(default_factory=dict)
    document: Document | None = None
    """Set where the source is a collection."""

    @property
    def object_id(self) -> str:
        """The object that its documents belong to; the document itself where that was written directly."""
        return str(self.row["object_id"])

    @property
    def item_id(self) -> str:
        """Unique in a chunk."""
        if self.document is None:
            return self.object_id
        return f"{self.document.collection_id}/{self.document.document_id}"

    @property
    def document_id(self) -> str:
        """Of the document it is; empty for an object."""
        return "" if self.document is None else self.document.document_id


def gather(rows: Sequence[Row], blobs: Sequence[Row]) -> list[SourceObject]:
    """Objects joined with their blobs. Root fields win over metadata and inline blobs of the same name."""
    by_object: dict[str, list[Row]] = {}
    for blob in blobs:
        by_object.setdefault(blob["object_id"], []).append(blob)
    found = []
    for row in rows:
        own = sorted(by_object.get(row["object_id"], []), key=lambda blob: blob["position"])
        inline = {blob["property"]: blob["inline"] for blob in own if blob["inline"] is not None}
        promoted: dict[str, Any] = {}
        for blob in reversed(own):
            promoted |= blob["metadata"]
        metadata = row["metadata"] or {}
        view = {
            **promoted,
            **inline,
            **metadata,
            **row["fields"],
            "metadata": metadata,
            "key_prefix": row["key_prefix"],
        }
        found.append(SourceObject(row, own, view))
    return found


def key_of(blob: Row) -> str:
    """Its name among the sources of an item."""
    position = blob["position"]
    return str(blob["property"]) if position == 0 else f"{blob['property']}#{position}"


class ItemBuilder:
    """Builds items for one collection."""

    def __init__(self, services: JobServices, extractor: Extractor, config: Mapping[str, Any]) -> None:
        self._services = services
        self._extractor = extractor
        self._inputs: dict[str, list[str]] = config["inputs"]
        self._passthrough: list[Passthrough] = parse_passthrough(config.get("field_passthrough"))
        self._all_fields: bool = bool(config.get("include_all_source_fields", False))

    def build(self, source: SourceObject) -> Item | Failure:
        """The item of an object, or why there is none. What is not on this machine is `Awaited`."""
        inputs: dict[str, list[Source]] = {}
        for name, paths in self._inputs.items():
            try:
                found = [value for path in paths for value in self._sources(source, name, path)]
            except MediathecaError as error:
                return Failure(source.item_id, "fetch", error.message, permanent=not error.retryable)
            if found:
                inputs[name] = found
        missing = [name for name in self._extractor.required if name not in inputs]
        if missing or (self._inputs and not inputs):
            wanted = ", ".join(p for name in (missing or self._inputs) for p in self._inputs.get(name, [name]))
            what = "object" if source.document is None else "document"
            return Failure(source.item_id, "input", f"the {what} has no value for the mapped input field: {wanted}")
        absent = [p.source_path for p in self._passthrough if p.required and self._value(source, p) is MISSING]
        if absent:
            return Failure(source.item_id, "passthrough", f"required passthrough field is missing: {', '.join(absent)}")
        return Item(source.item_id, inputs, self._seen(source.view))

    def _seen(self, view: dict[str, Any]) -> dict[str, Any]:
        """The object's fields that the extractor says it looks at."""
        reads = self._extractor.reads
        return view if reads is None else {name: value for name, value in view.items() if name.lower() in reads}

    def payload(self, source: SourceObject) -> dict[str, Any]:
        """What is passed through from the object to each of its documents."""
        result: dict[str, Any] = {}
        if self._all_fields:
            result |= {key: value for key, value in source.view.items() if key not in ("metadata", "key_prefix")}
        for entry in self._passthrough:
            value = self._value(source, entry)
            if value is MISSING:
                value = entry.default
            if value is not None:
                write_path(result, entry.target_path, value)
        return result

    def file_of(self, source: SourceObject, key: str = "") -> Row | None:
        """The stored file under this key (`Source.key`), else that which was mapped; of an object that maps none, its
        first."""
        stored = [blob for blob in source.blobs if blob["store_key"]]
        named = [blob for blob in stored if key_of(blob) == key]
        if named:
            return named[0]
        mapped = {path for paths in self._inputs.values() for path in paths}
        used = [blob for blob in stored if blob["property"] in mapped]
        return next(iter(used if source.document is not None else [*used, *stored]), None)

    def _value(self, source: SourceObject, entry: Passthrough) -> Any:
        value = read_path(source.view, entry.source_path)
        if value is not MISSING:
            return value
        for blob in source.blobs:  # a file passes through as its address
            if blob["property"] == entry.source_path:
                return blob["source_url"] or blob["store_key"]
        return MISSING

    def _sources(self, source: SourceObject, name: str, path: str) -> list[Source]:
        blobs = [blob for blob in source.blobs if blob["property"] == path]
        if blobs:
            return [self._blob(blob) for blob in blobs]
        value = read_path(source.view, path)
        if value is MISSING or value is None or value == "":
            return []
        wants_media = bool(_MEDIA & set(self._extractor.inputs.get(name, ())))
        if wants_media and isinstance(value, str) and value.startswith(URLS):
            return [Awaited(key=path, url=value)]
        return [Source(value=value, key=path, mime_type="text/plain")]

    def _blob(self, blob: Row) -> Source:
        key, kind, stored = key_of(blob), blob["mime_type"], blob["store_key"]
        if blob["inline"] is not None:
            return Source(value=blob["inline"], mime_type=kind, key=key)
        if not stored:
            return Awaited(key=key, url=blob["source_url"])
        path = self._services.blobs.local_path(stored)
        if path is None:
            size = blob.get("size_bytes") or 0  # what documents name has none
            return Awaited(mime_type=kind, key=key, hash=blob["hash"] or "", store_key=stored, size=size)
        return Source(path=path, mime_type=kind, key=key, hash=blob["hash"] or "")
