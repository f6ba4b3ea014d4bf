"""Connectors: one file each, one `Connector` value each. This docstring is the contract.

A connector reads the files of a store that belongs to a caller. It registers nothing: this package is scanned, then the
entry-point group `mediatheca.connectors`, then the packages of `MEDIATHECA_PLUGINS`. It imports only the kernel; it
reaches the world only through the `Http` that it is given, which checks every address. It never writes.

* `config` is what may be shown of a connection, `credentials` what is sealed; the base classes ignore unknown keys, so
  that a secret under a wrong name is not kept in clear. No credentials are taken from the server's own environment.
* `open(config, credentials, http, path)` gives the `Source` of a folder. It does no I/O; it raises `ValidationError` at
  `source_path` for a path that names nothing.
* `addresses(config)` are URLs that the caller chose; they are checked before a connection is stored.
* `Source.page` lists in an order that does not change while nothing changes. A cursor stays good for days: a run that
  was killed goes on with it. `None` says that the listing is complete, and only then may what is missing count as gone.
* `Source.read` writes one version of a file, whole, and gives what it read: who lists an ETag and reads another raises
  `SourceError("changed")`.
* What goes wrong is a `SourceError` with its `kind`; its message repeats nothing that the other side answered but its
  error code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from mediatheca.kernel.errors import BadRequestError

ENTRY_POINTS = "mediatheca.connectors"


class ConnectorConfig(BaseModel):
    """Base of what may be shown of a connection."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)


class ConnectorCredentials(BaseModel):
    """Base of what is sealed. Values are kept as texts: a field that is an object (a key file) reads its JSON, too."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)


class SourceError(BadRequestError):
    """The other side cannot be read. `kind`: a stable word, as failures are listed by.

    `transient`: the same may work in a moment. `fatal`: nothing of this source can be read, so the run ends.
    """

    def __init__(self, kind: str, message: str, *, transient: bool = False, fatal: bool = False) -> None:
        super().__init__(message)
        self.kind, self.transient, self.fatal = kind, transient, fatal


@dataclass(frozen=True, slots=True)
class Entry:
    """A file as a listing shows it."""

    key: str
    """Its name in the store: unique there, and the same in every listing."""
    path: str
    """From the folder on, without a slash in front."""
    size: int
    etag: str
    """Of its content; empty where the store knows none."""
    modified: datetime | None
    content_type: str = ""
    unreadable: str = ""
    """Why it cannot be read now: it lies in an archive."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A page. `cursor`: where the next one begins; None after the last."""

    entries: Sequence[Entry]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Content:
    """What was read of a file."""

    etag: str
    content_type: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Free metadata of the file, keys in lower case."""


class Source(Protocol):
    """A folder of a store. Synchronous and thread-safe."""

    def check(self) -> None:
        """Look whether it can be listed. Raises SourceError."""

    def page(self, cursor: str | None, limit: int) -> Listing:
        """Up to `limit` entries from a cursor on, folders left out. Raises SourceError."""

    def stat(self, entry: Entry) -> Entry:
        """The same file as it is now. Raises SourceError (`not_found`)."""

    def read(self, entry: Entry, target: Path, max_bytes: int) -> Content:
        """Write its content to a file.

        Raises:
            SourceError: it cannot be read; `changed`: it is another version than `entry`.
            PayloadTooLargeError: it has more than `max_bytes`.
        """

    def tags(self, entry: Entry) -> Mapping[str, str]:
        """Its tags, where the store has some. Raises SourceError."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. Header names are in lower case; `data` is empty where the body went into a file."""

    status: int
    headers: Mapping[str, str]
    data: bytes = b""


class Http(Protocol):
    """The guarded client. It follows no redirect, and sends the headers it is given and `Host`.

    Raises:
        ValidationError: the address is refused.
        BadRequestError: no answer, or none in time; `retryable` says that it may work in a moment.
        PayloadTooLargeError: the answer is longer than accepted.
    """

    def send(self, method: str, url: str, *, headers: Mapping[str, str], body: bytes = b"") -> Reply:
        """A request with a small answer."""

    def download(self, url: str, *, headers: Mapping[str, str], target: Path, max_bytes: int) -> Reply:
        """GET into a file. Only the body of a 200 is written; of another status it is in `data`."""


@dataclass(frozen=True)
class Connector:
    """A kind of store."""

    name: str
    """As `provider_type` names it."""
    summary: str
    config: type[ConnectorConfig]
    credentials: type[ConnectorCredentials]
    open: Callable[[Any, Any, Http, str], Source]
    """(config, credentials or None for none, client, path)."""
    addresses: Callable[[Any], Sequence[str]]
    anonymous: bool = True
    """Whether it can be read without credentials: a public store."""
    also: Sequence[str] = ()
    """Other names of it. A connection keeps the one it was made with as `metadata.declared_provider`."""
