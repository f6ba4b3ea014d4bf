"""The unique key of an object: which policy is in force, and the hash that stands for the key's values."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from mediatheca.kernel.errors import BadRequestError, ConflictError, FieldError, ValidationError
from mediatheca.kernel.mapping import MISSING, read_path
from mediatheca.kernel.schema import invalid
from mediatheca.stores.db.tx import Record, Row, Tx

POLICIES = ("insert", "update", "upsert")


def check_policy(bucket: Record, policy: str | None) -> str:
    """The policy in force. Raises ValidationError for an unknown one."""
    if policy is not None and policy not in POLICIES:
        raise ValidationError.at(("query", "policy"), f"must be one of {', '.join(POLICIES)}, got {policy!r}", "enum")
    unique = bucket.body.get("unique_key")
    chosen = policy or (unique or {}).get("default_policy")
    if unique and chosen is None:
        raise BadRequestError(
            f"bucket '{bucket.name}' has a unique key but no default_policy; send ?policy=insert, update or upsert"
        )
    return chosen or "insert"


def unique_hash(fields: Sequence[str], values: Mapping[str, Any]) -> str:
    """The compound key: ordered values with their types.

    Raises:
        ValidationError: naming every key field without a scalar value.
    """
    parts, errors = [], []
    for name in fields:
        value = read_path(values, name)
        if value is MISSING or not isinstance(value, str | int | float | bool):
            errors.append(
                FieldError(("body", name), "is part of the unique key and needs a scalar value", "unique_key")
            )
            continue
        kind = "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
        parts.append([kind, float(value) if kind == "number" else value])
    if errors:
        raise invalid(errors)
    return hashlib.sha256(orjson.dumps(parts)).hexdigest()


def free_key(tx: Tx, bucket: Record, row: Row, key: str) -> str:
    """The key, when no other object has it. Raises ConflictError naming the one that does."""
    taken = tx.row("objects", {"bucket_id": bucket.id, "unique_key": key})
    if taken is not None and taken["object_id"] != row["object_id"]:
        details = {"existing_id": taken["object_id"]}
        raise ConflictError(f"an object with this unique key exists already: {taken['object_id']}", details=details)
    return key
