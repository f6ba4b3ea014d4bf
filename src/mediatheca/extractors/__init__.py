"""Feature extractors: one file each, one `Extractor` value each. This docstring is the contract.

An extractor turns items (the mapped inputs of one object) into rows (the documents to be). It is a value found by
scanning this package, or the entry-point group `mediatheca.extractors`. It must be picklable by name: the same code
runs in a child process of this machine or elsewhere.

* `describe(params, models)` says, without loading anything, which vector indexes and fields come out.
* `open(params, context)` loads models and returns the function that extracts; called once per process and params.
* The function gets one item and yields rows. It raises `ItemError` for an item that cannot be processed: that object
  fails with the reason, the rest goes on. A part that cannot be (a page, a segment) is yielded as `Dropped`: the rest
  of the item goes on, and the owner is told. Anything that takes memory or may hang belongs in here: the process is
  killed when it exceeds its limits, and only the item it was working on fails.
* An item that takes long calls `context.beat` now and then: its time limit counts from the last beat.
* Once `open` has returned, the process loses what a hostile file could misuse: it may write to `context.scratch` alone,
  read models, libraries and its own inputs, and has no network; what is outside is asked of `context.desk`. So models
  are loaded by `open`, not by the first item.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from pydantic import BaseModel

from mediatheca.kernel.desk import NO_DESK, Desk
from mediatheca.kernel.documents import Vector, VectorIndex
from mediatheca.kernel.models import Models
from mediatheca.kernel.search import Cutting
from mediatheca.kernel.stopwatch import Stopwatch

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

    def digest(self) -> str:
        """SHA-256 of the bytes (hex): `hash` where it is known, else computed."""
        if not self.hash and self.data is None and self.path is not None:
            with open(self.path, "rb") as file:
                return file_digest(file, "sha256").hexdigest()
        return self.hash or sha256(self.read()).hexdigest()


@dataclass(frozen=True, slots=True)
class Item:
    """The mapped inputs of one object: input name → sources. `fields`: the object's own, for captions and the like.

    `item_id` tells items of one call apart. It says nothing of the object: equal objects may be one item.
    """

    item_id: str
    inputs: Mapping[str, Sequence[Source]]
    fields: Mapping[str, Any] = field(default_factory=dict)


ArtifactRole: TypeAlias = Literal["thumbnail", "processed", "artifact", "aux"]


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file an extractor made (a thumbnail, a segment). Stored by the caller; the field gets its address."""

    data: bytes = b""
    mime_type: str = ""
    suffix: str = ""
    path: str | None = None
    """Instead of `data`, for what may be large: a file in `ExtractContext.scratch`. The caller takes it from there."""
    role: ArtifactRole = "thumbnail"

    def read(self) -> bytes:
        """The bytes, wherever they are."""
        return self.data if self.path is None else Path(self.path).read_bytes()

    def size(self) -> int:
        return len(self.data) if self.path is None else Path(self.path).stat().st_size

    def digest(self) -> str:
        """SHA-256 of the bytes (hex)."""
        if self.path is None:
            return sha256(self.data).hexdigest()
        with open(self.path, "rb") as file:
            return file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class Dropped:
    """A part of an item that gave no document, or a field that could not be filled: counted and listed, never silent.

    `kind`: `page`, `segment`, `face`, `url`, `file`, `field`, or `warning` for a document that is there but lacks
    something.
    """

    what: str
    """Which one, for people: `page 7`."""
    reason: str
    source_key: str = ""
    position: int | None = None
    """As in `Row`."""
    kind: str = "segment"


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
    optional: frozenset[str] = frozenset()
    """Outputs (last parts of feature URIs) a row may lack: without speech there is no vector of a transcript."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Output name → the field whose text that vector embeds: such vectors are made anew without the media."""
    needs: frozenset[str] = frozenset()
    """What the installation must have: `language` (a language model), `browser`. Missing, no collection is made."""


def _unheard(done: float) -> None:
    """For processes in which nobody waits for a beat."""


@dataclass(frozen=True, slots=True)
class ExtractContext:
    """What the process offers to an extractor."""

    models: Models
    scratch: Path
    """A folder of this process's own, emptied after each item."""
    desk: Desk = NO_DESK
    """Everything outside: addresses, language models, remembered steps (`mediatheca.kernel.steps`)."""
    on_beat: Callable[[float], None] = _unheard
    watch: Stopwatch = field(default_factory=Stopwatch)

    def beat(self, done: float = 0.0) -> None:
        """Alive: the item's time limit counts from here. `done`: how much of the item, 0 to 1. Cheap, call it often."""
        self.on_beat(done)

    def timed(self, what: str) -> AbstractContextManager[None]:
        """Counts a block as `decode` (reading a file) or `model` (a model at work); all the rest is overhead."""
        return self.watch.timed(what)


Extract: TypeAlias = Callable[[Item], Iterable[Row | Dropped]]
EmbedFile: TypeAlias = Callable[[Source], Vector]
"""The vector of a query that is a file. Raises ItemError where it gives none."""
CUTTING = "cutting"
"""Field of the item of a query: the `Cutting` of its file; missing, it is looked for as a whole."""
TOTAL = "total_pieces"
"""Field of the rows of `CutFile.pieces`: how many there would be without a limit, where that is known."""


@runtime_checkable
class CutFile(Protocol):
    """An `EmbedFile` that can also embed a long file piece by piece."""

    def __call__(self, source: Source) -> Vector: ...

    def pieces(self, source: Source, how: Cutting) -> Iterator[Row]:
        """Rows with the output and `start_time`, `end_time` in seconds or `page_number`, at most `how.most`, evenly
        over the file; none for a file that is not cut."""


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
    weight: int = 1
    """What an item costs compared with a picture (a PDF 10, a video 50): fewer heavy ones go into one piece of work."""
    query: Callable[[Any, str, ExtractContext], EmbedFile] | None = None
    """(params, output name, context) → what embeds the file of a query for this output; a `CutFile` where long files
    can be searched for piece by piece. None: the extractor runs on the file as its main input, and the first row that
    has this output counts."""
    query_files: frozenset[str] = frozenset()
    """Kinds of files (`mediatheca.kernel.sniff`) that a query of an output that takes only texts may be: `pdf`."""
    extras: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The type of a mapped field, or a mapped input → the extra that reads it, and which modules of it: (`pdf`,). Said
    when a collection is made, where `describe` cannot know."""
    aliases: tuple[str, ...] = ()
    """Other names it goes by on the wire: `transcoding` of `transcoding_extractor`."""
    category: str = "extraction"
    """Groups the catalogue."""
    position_fields: tuple[str, ...] = ()
    """Fields that say where in its source a document lies (`start_time`, `page_number`), for the catalogue."""
    max_inputs: Mapping[str, int] = field(default_factory=dict)
    """How many values an input takes; 1 where it is not named."""
    archive: str = ""
    """Hash of the uploaded archive that its code lies in: it runs in a confined process of its own."""
    icon: str = "box"
    example: dict[str, Any] = field(default_factory=dict)

    @property
    def extractor_id(self) -> str:
        return f"{self.name}_{self.version}"
