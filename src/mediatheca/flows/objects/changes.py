"""Changes to one object: fields, `metadata` and `key_prefix`; what it was made of stays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mediatheca.flows.objects.drafts import check_edges
from mediatheca.flows.objects.keys import free_key, unique_hash
from mediatheca.flows.objects.limits import check_fields_size, check_metadata, check_prefix
from mediatheca.kernel import clock
from mediatheca.kernel.errors import ConflictError, FieldError
from mediatheca.kernel.schema import Loc, check_value, invalid, is_reserved, parse_schema
from mediatheca.stores.db.tx import Record, Row, Tx

_OF_CREATE = frozenset({"skip_duplicates", "canonicalize_source", "force_remirror"})
"""Options of create, which clients send along with their defaults."""
_FIXED = {
    "blobs": "blobs of an object cannot be replaced; create a new object, or upsert by unique key",
    "idempotency_key": "is fixed when the object is created",
}


def change_object(tx: Tx, bucket: Record, row: Row, patch: Mapping[str, Any], *, replace_metadata: bool = False) -> Row:
    """Merge fields, `metadata` and `key_prefix` into an object; a null removes a field.

    Raises:
        ValidationError: naming every offending field.
        ConflictError: the unique key belongs to another object, or the object was changed meanwhile.
    """
    given = {name: value for name, value in patch.items() if name not in _OF_CREATE}
    errors = [FieldError(("body", name), why, "immutable") for name, why in _FIXED.items() if name in given]
    prefix, metadata = _prefix(given, errors), _metadata(given, errors)
    fields, kept = dict(row["fields"]), dict(row["metadata"])
    if metadata is not None and replace_metadata:
        for name in kept:
            fields.pop(name, None)
        kept = {}
    _merge_fields(fields, kept, given, metadata or {}, errors)
    changed = {**(metadata or {}), **given}
    _check_change(bucket, row["fields"], changed, fields, errors)
    check_metadata(kept, ("body", "metadata"), errors)
    check_fields_size(fields, ("body",), errors)
    if errors:
        raise invalid(errors)
    values: Row = {"fields": fields, "metadata": kept, "version": row["version"] + 1, "updated_at": clock.now()}
    if prefix is not None:
        values["key_prefix"] = prefix
    unique = bucket.body.get("unique_key")
    if unique and any(name.split(".")[0] in changed for name in unique["fields"]):
        values["unique_key"] = free_key(tx, bucket, row, unique_hash(unique["fields"], fields))
    if not tx.update("objects", {"object_id": row["object_id"], "version": row["version"]}, values):
        raise ConflictError(f"object '{row['object_id']}' was changed by another request; read it again")
    tx.emit("object.updated", row["object_id"], {"bucket_id": bucket.id, "version": values["version"]})
    return {**row, **values}


def _prefix(given: Row, errors: list[FieldError]) -> str | None:
    prefix = given.pop("key_prefix", None)
    if prefix is None or isinstance(prefix, str):
        check_prefix(prefix, ("body", "key_prefix"), errors)
        return prefix
    errors.append(FieldError(("body", "key_prefix"), f"must be a string, got {type(prefix).__name__}", "string_type"))
    return None


def _metadata(given: Row, errors: list[FieldError]) -> Mapping[str, Any] | None:
    metadata = given.pop("metadata", None)
    if metadata is None or isinstance(metadata, Mapping):
        return metadata
    errors.append(FieldError(("body", "metadata"), f"must be an object, got {type(metadata).__name__}", "dict_type"))
    return None


def _merge_fields(
    fields: Row, kept: Row, given: Mapping[str, Any], metadata: Mapping[str, Any], errors: list[FieldError]
) -> None:
    for source, where in ((metadata, ("body", "metadata")), (given, ("body",))):
        for name, value in source.items():
            if name in _FIXED and source is given:
                continue
            if is_reserved(name):
                errors.append(FieldError((*where, name), "is a name of the system and cannot be written", "reserved"))
                continue
            targets = [fields, kept] if source is metadata or name in kept else [fields]
            for target in targets:
                if value is None:
                    target.pop(name, None)
                else:
                    target[name] = value


def _check_change(
    bucket: Record, before: Mapping[str, Any], given: Mapping[str, Any], fields: Row, errors: list[FieldError]
) -> None:
    check_edges(given.get("edges"), errors)
    schema = parse_schema(bucket.body["bucket_schema"])
    for name, value in given.items():
        prop = schema.get(name)
        where: Loc = ("body", name)
        if prop is None:
            continue
        if value is None:
            if prop.required and name not in fields and not prop.media:
                errors.append(FieldError(where, "is required and cannot be removed", "missing"))
        elif prop.media and value != before.get(name):
            errors.append(FieldError(where, f"is a file; {_FIXED['blobs']}", "immutable"))
        else:
            check_value(prop, value, where, errors)
