"""Identifiers: `prefix_` + a sortable random part, and deterministic document ids."""

from __future__ import annotations

import re
import uuid

import uuid_utils

from mediatheca.kernel.errors import ValidationError

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_. \-]*")
_DOCUMENTS = uuid.UUID("6d656469-6174-6865-6361-000000000001")


def new_id(prefix: str) -> str:
    """A fresh id: 26 characters of base 32 over a UUIDv7 (time-ordered), e.g. `bkt_01k…`."""
    number = uuid_utils.uuid7().int
    return f"{prefix}_{''.join(_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))}"


def new_uuid() -> str:
    """A fresh, time-ordered UUID in its usual text form."""
    return str(uuid_utils.uuid7())


def document_id(collection_id: str, object_id: str, source_key: str, position: int) -> str:
    """The id of a derived document: the same input always lands on the same document."""
    return str(uuid.uuid5(_DOCUMENTS, f"{collection_id}\x1f{object_id}\x1f{source_key}\x1f{position}"))


def check_name(field: str, name: str, prefix: str, *, low: int = 1, high: int = 100) -> str:
    """Accept a resource name, or say why not. A name may not look like an id: paths take both."""
    if not low <= len(name) <= high:
        raise ValidationError.at(field, f"must have {low} to {high} characters, got {len(name)}", "string_length")
    if not _NAME.fullmatch(name):
        raise ValidationError.at(
            field, "must begin with a letter or digit and hold only letters, digits, space, '_', '-' and '.'", "name"
        )
    if name.startswith(f"{prefix}_"):
        raise ValidationError.at(field, f"must not begin with '{prefix}_', which marks an id", "name")
    return name
