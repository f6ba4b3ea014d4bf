"""An object request, read and checked against its bucket's schema: every offending field is named with its place."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from mediatheca.flows.objects.content import Content, read_blobs
from mediatheca.flows.objects.limits import check_fields_size, check_metadata, check_prefix
from mediatheca.kernel.errors import FieldError, ValidationError
from mediatheca.kernel.schema import Loc, Property, check_fields, invalid, is_reserved
from mediatheca.stores.db.tx import Row

_CONTROL = frozenset(
    {"key_prefix", "blobs", "metadata", "skip_duplicates", "canonicalize_source", "force_remirror", "idempotency_key"}
)
_BODY: Loc = ("body",)


@dataclass(slots=True)
class Draft:
    """An object to be. `fields` is the flattened view: root fields, then metadata, then metadata of the blobs."""

    key_prefix: str
    fields: Row
    metadata: Row
    contents: list[Content]
    idempotency_key: str | None = None
    skip_duplicates: bool = False
    unique_key: str | None = field(default=None)

    @property
    def content_hash(self) -> str | None:
        """One hash over all blobs; None without blobs."""
        if not self.contents:
            return None
        parts = sorted([content.property, content.hash or content.source_url or ""] for content in self.contents)
        return hashlib.sha256(orjson.dumps(parts)).hexdigest()


def read_draft(raw: Any, schema: Mapping[str, Property], uploads: Mapping[str, Row]) -> Draft:
    """Read one object of a request.

    Raises:
        ValidationError: naming every offending field.
    """
    if not isinstance(raw, Mapping):
        raise ValidationError.at(_BODY, "must be an object", "dict_type")
    errors: list[FieldError] = []
    metadata = _typed(raw, "metadata", dict, "an object", errors) or {}
    check_metadata(metadata, ("body", "metadata"), errors)
    root = {name: value for name, value in raw.items() if name not in _CONTROL and value is not None}
    _check_names(root, metadata, errors)
    canonicalize = _typed(raw, "canonicalize_source", bool, "true or false", errors)
    _typed(raw, "force_remirror", bool, "true or false", errors)
    contents = read_blobs(raw.get("blobs"), schema, uploads, canonicalize is not False, errors)
    contents += _implied(root, metadata, schema, contents, canonicalize is not False, errors)
    filled = {content.property for content in contents}
    fields = {**_promoted(contents), **metadata, **root}

    def where(name: str) -> Loc:
        return ("body", "metadata", name) if name in metadata and name not in root else ("body", name)

    checked = {name: prop for name, prop in schema.items() if not (prop.media and name in filled)}
    fields = check_fields(checked, fields, filled, where, errors)
    check_fields_size(fields, _BODY, errors)
    prefix = _typed(raw, "key_prefix", str, "a string", errors) or ""
    check_prefix(prefix, ("body", "key_prefix"), errors)
    draft = Draft(prefix, fields, dict(metadata), contents)
    draft.skip_duplicates = bool(_typed(raw, "skip_duplicates", bool, "true or false", errors))
    draft.idempotency_key = _typed(raw, "idempotency_key", str, "a string", errors) or None
    if draft.idempotency_key and len(draft.idempotency_key) > 255:
        errors.append(FieldError(("body", "idempotency_key"), "must have at most 255 characters", "string_too_long"))
    if errors:
        raise invalid(errors)
    return draft


def _typed(raw: Mapping[str, Any], name: str, kind: type, what: str, errors: list[FieldError]) -> Any:
    value = raw.get(name)
    if value is not None and not isinstance(value, kind):
        errors.append(FieldError(("body", name), f"must be {what}, got {type(value).__name__}", "type"))
        return None
    return value


def _check_names(root: Mapping[str, Any], metadata: Mapping[str, Any], errors: list[FieldError]) -> None:
    for source, where in ((root, _BODY), (metadata, ("body", "metadata"))):
        for name in source:
            if is_reserved(name):
                errors.append(FieldError((*where, name), "is a name of the system and cannot be written", "reserved"))
    if "auto_process" in root:
        message = "belongs into the query string: ?auto_process=true"
        errors.append(FieldError(("body", "auto_process"), message, "query_only"))
    check_edges(root.get("edges"), errors)


def check_edges(edges: Any, errors: list[FieldError]) -> None:
    """`edges`, a field that means something to the system."""
    if edges is not None and not (isinstance(edges, list) and all(_is_edge(edge) for edge in edges)):
        message = "must be a list of {type, target_object_id, direction, attributes}"
        errors.append(FieldError(("body", "edges"), message, "edges"))


def _is_edge(edge: Any) -> bool:
    named = isinstance(edge, Mapping) and all(isinstance(edge.get(key), str) for key in ("type", "target_object_id"))
    return named and edge.get("direction", "out") in ("in", "out")


def _implied(
    root: Row,
    metadata: Mapping[str, Any],
    schema: Mapping[str, Property],
    contents: list[Content],
    canonicalize: bool,
    errors: list[FieldError],
) -> list[Content]:
    """A field that holds the address or bytes of a media property is a blob; bytes do not stay in the fields."""
    found = []
    filled = {content.property for content in contents}
    for name, prop in schema.items():
        value = root.get(name, metadata.get(name))
        if not prop.media or name in filled or not isinstance(value, str) or not value:
            continue
        problems: list[FieldError] = []
        made = read_blobs([{"property": name, "data": value}], schema, {}, canonicalize, problems)
        errors += [FieldError(("body", name), problem.msg, problem.type) for problem in problems]
        for content in made:
            content.loc = ("body", name)
            found.append(content)
            if content.source_url is None:
                root.pop(name, None)
    return found


def _promoted(contents: list[Content]) -> Row:
    """Metadata of blobs, lifted to the object: the first blob that has a key wins."""
    found: Row = {}
    for content in reversed(contents):
        own = {name: value for name, value in content.metadata.items() if not is_reserved(name)}
        found |= {name: value for name, value in own.items() if name not in {c.property for c in contents}}
    return {name: value for name, value in found.items() if value is not None}
