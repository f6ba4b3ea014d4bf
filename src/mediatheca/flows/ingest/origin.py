"""What a document was made from, as `_internal` says it: kind, type, size and hash of the file or the text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from mediatheca.flows.ingest.items import URLS, SourceObject, key_of
from mediatheca.kernel.mapping import read_path
from mediatheca.stores.db.tx import Row

_FAMILIES = ("text", "image", "video", "audio")
_TYPES = {"application/pdf": "pdf"}


class Origins:
    """The sources of one item; each is looked at once, however many documents come of it."""

    def __init__(self, source: SourceObject, paths: Sequence[str]) -> None:
        """`paths`: the mapped fields; without any the files of the object stand for it."""
        self._source, self._paths = source, paths
        self._known: dict[str, dict[str, Any]] = {}

    def of(self, key: str) -> dict[str, Any]:
        """System fields of a document that was made from the source of this key (`Source.key`). Of several sources
        without a key only what they have in common: `modality`, `mime_type`."""
        if key not in self._known:
            every = dict(self._sources())
            found = [every[key]] if key in every else list(every.values())
            self._known[key] = self._shown(found)
        return self._known[key]

    def _sources(self) -> Iterator[tuple[str, Row | str]]:
        blobs = self._source.blobs
        for path in dict.fromkeys(self._paths or (blob["property"] for blob in blobs if blob["store_key"])):
            held = [blob for blob in blobs if blob["property"] == path]
            value = None if held else read_path(self._source.view, path)
            if isinstance(value, str) and value.strip():
                yield path, value
            yield from ((key_of(blob), blob) for blob in held)

    def _shown(self, found: Sequence[Row | str]) -> dict[str, Any]:
        if len(found) == 1:
            return _of_text(found[0]) if isinstance(found[0], str) else _of_blob(found[0])
        every = [_of_text(each) if isinstance(each, str) else _of_blob(each) for each in found]
        return {
            name: every[0][name]
            for name in ("modality", "mime_type")
            if every and all(each.get(name) == every[0].get(name) is not None for each in every)
        }


def modality(mime_type: str) -> str:
    """`text`, `image`, `video`, `audio`, `pdf`, or `other`."""
    family = mime_type.partition("/")[0].lower()
    return family if family in _FAMILIES else _TYPES.get(mime_type.partition(";")[0].lower(), "other")


def _of_text(value: str) -> dict[str, Any]:
    if value.startswith(URLS):  # what lies there is fetched or visited; its type and size are not kept
        return {"processing": {"source_url": value}}
    data = value.encode("utf-8", "surrogatepass")
    sized = {"size_bytes": len(data), "content_hash": hashlib.sha256(data).hexdigest()}
    return {"modality": "text", "mime_type": "text/plain", **sized}


def _of_blob(blob: Row) -> dict[str, Any]:
    if isinstance(blob["inline"], str):
        return _of_text(blob["inline"])
    mime, url = blob["mime_type"] or "", blob["source_url"]
    processing = {"source_url": url, "detected_mime_type": mime or None} if url else None
    sized = {"size_bytes": blob.get("size_bytes") or None, "content_hash": blob["hash"] or None}
    found = {"modality": modality(mime) if mime else None, "mime_type": mime or None, **sized, "processing": processing}
    return {name: value for name, value in found.items() if value is not None}
