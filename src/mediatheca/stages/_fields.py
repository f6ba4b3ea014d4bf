"""What parameters of stages have in common: required ones, output fields, the text of a document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import AfterValidator, Field

from mediatheca.kernel.documents import RESERVED_PREFIX
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.ordering import read_field
from mediatheca.kernel.search import Hit

T = TypeVar("T")
TEXT_FIELDS = ("content", "text", "transcription", "transcript", "description", "caption", "ocr_text", "title")
"""Where the text of a document is looked for when no field is named; the first that has one."""
_IDENTITY = ("document_id", "collection_id")


def _writable(path: str) -> str:
    first = path.split(".", 1)[0]
    if path in _IDENTITY or first.startswith(("__", RESERVED_PREFIX)) or "" in path.split("."):
        raise ValueError(f"'{path}' cannot be written; name a field of the document, or scores.…")
    return path


FieldPath: TypeAlias = Annotated[str, Field(min_length=1, max_length=512)]
"""A dotted path to read."""
OutputField: TypeAlias = Annotated[FieldPath, AfterValidator(_writable)]
"""A dotted path to write: anything but the identity of a document and what belongs to the system."""


def require(raw: Mapping[str, Any], *names: str, what: str) -> None:
    """Refuse parameters without any of `names` (spellings of one), when a retriever is made.

    Raises:
        ValidationError: at the first name.
    """
    if all(raw.get(name) is None for name in names):
        raise ValidationError.at(names[0], f"is required: {what}", "missing")


def given(value: T | None, name: str, what: str) -> T:
    """A required value, when a retriever runs: its template may have come out empty.

    Raises:
        ValidationError: at `name`.
    """
    if value is None:
        raise ValidationError.at(name, f"is required: {what}", "missing")
    return value


def rename(raw: dict[str, Any], name: str, *older: str) -> None:
    """Move the value of an older spelling to its name, in place; the name itself wins."""
    for spelling in older:
        value = raw.pop(spelling, None)
        if value is not None and raw.get(name) is None:
            raw[name] = value


def text_of(hit: Hit, field: str | None) -> str:
    """The text of a document: of one field, or of the first of `TEXT_FIELDS` that has one. Lists by line."""
    for path in (field,) if field else TEXT_FIELDS:
        text = as_text(read_field(hit, path))
        if text:
            return text
    return ""


def as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(text for item in value if (text := as_text(item)))
    return "" if value is None or isinstance(value, dict) else str(value)
