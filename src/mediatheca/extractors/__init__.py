"""Feature extractors: one file each, one `Extractor` value each. This docstring is the contract.

An extractor turns items (the mapped inputs of one object) into rows (the documents to be). It is a value found by
scanning this package, or the entry-point group `mediatheca.extractors`. It must be picklable by name: the same code
runs in a child process of this machine or elsewhere.

* `describe(params, models)` says, without loading anything, which vector indexes and fields come out.
* `open(params, context)` loads models and returns the function that extracts; called once per process and params.
* The function gets one item and yields rows. It raises `ItemError` for an item that cannot be processed: that object
  fails with the reason, the rest goes on. Anything that takes memory or may hang belongs in here: the process is
  killed when it exceeds its limits, and only the item it was working on fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pydantic import BaseModel

from mediatheca.kernel.documents import Vector, VectorIndex
from mediatheca.kernel.models import Models

ENTRY_POINTS = "mediatheca.extractors"


class ItemError(Exception):
    """This item cannot be processed; the message is shown to the owner. `permanent`: it is not retried by itself."""

    def __init__(self, message: str, *, permanent: bool = True) -> None:
        super().__init__(message)
        self.permanent = permanent


@dataclass(frozen=True, slots=True)
class Source:
    """One input value of an item: inline text or JSON (`value`), or bytes (`data`, or a file at `path`)."""

    value: Any = None
    data: bytes | None = None
    path: str | None = None
    mime_type: str = ""
    key: str = ""
    """Stable name of the value inside its object (the property name): part of the document id."""
    hash: str = ""
    """SHA-256 of the bytes (hex) where it is known, which it is of stored files."""

    def read(self) -> bytes:
        """The bytes, wherever they are; a text is its UTF-8."""
        if self.data is not None:
            return self.data
        if self.path is not None:
            with open(self.path, "rb") as file:
                return file.read()
        return str(self.value).encode() if self.value is not None else b""

    def text(self) -> str:
        """The text; undecodable bytes raise ItemError."""
        if self.value is not None:
            return self.value if isinstance(self.value, str) else str(self.value)
        try:
            return self.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ItemError(f"'{self.key}' is not UTF-8 text: {error}") from error


@dataclass(frozen=True, slots=True)
class Item:
    """The mapped inputs of one object: input name → sources. `fields`: the object's own, for captions and the like.

    `item_id` tells items of one call apart. It says nothing of the object: equal objects may be one item.
    """

    item_id: str
    inputs: Mapping[str, Sequence[Source]]
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file an extractor made (a thumbnail, a segment). Stored by the caller; the field gets its address."""

    data: bytes
    mime_type: str
    suffix: str


@dataclass(slots=True)
class Row:
    """One document to be. `source_key` and `position` make its id: the same input always lands on the same document."""

    fields: dict[str, Any]
    vectors: dict[str, Vector] = field(default_factory=dict)
    """By output name (the last part of the feature URI)."""
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    """By field name, e.g. `thumbnail_url`."""
    source_key: str = ""
    position: int = 0


@dataclass(frozen=True, slots=True)
class Description:
    """What comes out for given parameters, known before any document exists."""

    vectors: tuple[VectorIndex, ...] = ()
    fields: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Field name → schema property, e.g. `{"type": "integer"}`. A declared `content_url` that a row leaves out is
    filled with the address of the object's stored file."""
    weights: tuple[str, ...] = ()
    """Hashes of models that take part without making a vector (a recogniser of text, of speech)."""


@dataclass(frozen=True, slots=True)
class ExtractContext:
    """What the process offers to an extractor."""

    models: Models


Extract: TypeAlias = Callable[[Item], Iterable[Row]]


@dataclass(frozen=True)
class Extractor:
    """A feature extractor: a value, found by discovery."""

    name: str
    version: str
    description: str
    params: type[BaseModel]
    inputs: dict[str, tuple[str, ...]]
    """Input name → blob or field types it takes, e.g. `{"text": ("text", "string")}`. The first is the main one."""
    describe: Callable[[Any, Models], Description]
    open: Callable[[Any, ExtractContext], Extract]
    required: frozenset[str] = frozenset()
    """Inputs that must be mapped and present."""
    reads: frozenset[str] | None = None
    """The object's own fields it looks at, in lower case; it is given no others. None: all."""
    cache_version: int = 0
    """Above 0: results are costly and kept, by content, parameters, description (with its weights) and this number.
    Raise it with every change of code that changes results. 0: computing again is cheaper than looking up."""
    icon: str = "box"
    example: dict[str, Any] = field(default_factory=dict)

    @property
    def extractor_id(self) -> str:
        return f"{self.name}_{self.version}"
