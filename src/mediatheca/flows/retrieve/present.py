"""The answer of an execution: results as flat objects, and the body around them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from mediatheca.flows.retrieve.request import GroupBy
from mediatheca.flows.retrieve.seams import Sign
from mediatheca.kernel.mapping import MISSING, read_path, write_path
from mediatheca.kernel.ordering import parse_sort, read_field, sort_hits
from mediatheca.kernel.search import Hit

IDENTITY = ("document_id", "collection_id", "score", "feature_id")


def item(hit: Hit) -> dict[str, Any]:
    """One result: the payload flat, then what the system knows of the document. The score is always a number."""
    system = hit.system
    made = dict(hit.payload)
    if not isinstance(made.get("metadata"), dict):
        made["metadata"] = {}
    made["document_id"] = made["feature_id"] = hit.document_id
    made["collection_id"] = hit.collection_id
    made["score"] = hit.score if math.isfinite(hit.score) else 0.0
    made["scores"] = hit.scores
    made["source_object_id"] = system.get("source_object_id") or system.get("object_id")
    made["root_object_id"] = system.get("root_object_id")
    made["_internal"] = system
    return made


def select_fields(made: dict[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    """Only these fields, by dotted path; the identity of a result always stays."""
    chosen: dict[str, Any] = {key: made[key] for key in IDENTITY}
    for path in fields:
        value = read_path(made, path)
        if value is not MISSING:
            write_path(chosen, path, value)
    return chosen


def sign_urls(made: dict[str, Any], sign: Sign) -> dict[str, Any]:
    """Addresses in place of blob keys: in the fields of artifacts, and beside the source files."""
    system = dict(made["_internal"])
    for name in ("document_blobs", "source_blobs"):
        if not isinstance(system.get(name), list):
            continue
        system[name] = blobs = [_signed(blob, sign) for blob in system[name] if isinstance(blob, dict)]
        for blob in blobs:
            if blob.get("key") and made.get(str(blob.get("field"))) == blob["key"]:
                made[blob["field"]] = blob["presigned_url"]
        made[name] = blobs
    made["_internal"] = system
    return made


def _signed(blob: dict[str, Any], sign: Sign) -> dict[str, Any]:
    url = sign(blob["key"]) if blob.get("key") else blob.get("url")
    return {**blob, "url": url, "presigned_url": url}


def with_vectors(made: dict[str, Any], hit: Hit) -> dict[str, Any]:
    made["vectors"] = {name: vector.tolist() for name, vector in hit.vectors.items()}
    return made


def group_hits(hits: Iterable[Hit], group: GroupBy) -> list[tuple[Any, list[Hit]]]:
    """Groups in the order of their best hit; at most `max_features` of each, sorted inside where asked."""
    groups: dict[str, tuple[Any, list[Hit]]] = {}
    for hit in hits:
        value = read_field(hit, group.field)
        groups.setdefault(repr(value), (value, []))[1].append(hit)
    keys = parse_sort(group.sort, "group_by.sort")
    return [(value, sort_hits(found, keys)[: group.max_features]) for value, found in groups.values()]


def interpretation(
    provided: list[str], inferred: dict[str, Any], ignored: list[str], relaxations: list[Any]
) -> dict[str, Any]:
    return {
        "provided_input_keys": provided,
        "inferred_inputs": inferred,
        "ignored_input_keys": ignored,
        "relaxations": [relaxation.as_dict() for relaxation in relaxations],
    }
