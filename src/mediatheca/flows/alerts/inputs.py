"""Inputs of a retriever that are read from a document: `input_mappings` of an application."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mediatheca.kernel.mapping import MISSING, read_path
from mediatheca.kernel.present import field_value
from mediatheca.kernel.search import Hit

FROM_DOCUMENT = ("document_field", "source_blob")


def split_mappings(
    mappings: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, Any], list[Mapping[str, Any]]]:
    """Inputs that are the same for every document, and the mappings that read the document."""
    constant: dict[str, Any] = {}
    read = []
    for mapping in mappings:
        source = mapping.get("source") or {}
        if source.get("source_type") in FROM_DOCUMENT:
            read.append(mapping)
        else:
            constant[str(mapping.get("input_key"))] = source.get("value")
    return constant, read


def mapped_inputs(mappings: Sequence[Mapping[str, Any]], document: Hit) -> dict[str, Any]:
    """The inputs that a document gives; what it has no value for is left out, as not given."""
    made = {str(mapping.get("input_key")): _value(mapping.get("source") or {}, document) for mapping in mappings}
    return {name: value for name, value in made.items() if value is not None}


def _value(source: Mapping[str, Any], document: Hit) -> Any:
    path = str(source.get("path") or "")
    if source.get("source_type") == "document_field":
        value = read_path(document.payload, path)
        return field_value(document, path) if value is MISSING else value
    return _blob(document, path)


def _blob(document: Hit, name: str) -> Any:
    """The file that a document was made from: of the field of this name, or the first one."""
    blobs = [blob for blob in document.system.get("source_blobs") or () if isinstance(blob, Mapping)]
    named = [blob for blob in blobs if name in ("", blob.get("field"), blob.get("property"))]
    return next((blob.get("url") for blob in named if blob.get("url")), None)
