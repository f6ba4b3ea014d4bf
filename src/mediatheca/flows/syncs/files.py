"""Files of a source, read into the blob store."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event

from mediatheca.connectors import Content, Entry, Source, SourceError
from mediatheca.flows.objects.content import guess_mime, sniff
from mediatheca.flows.objects.files import file_key
from mediatheca.flows.syncs.failures import Failure
from mediatheca.flows.syncs.ledger import Step
from mediatheca.jobs.worker import JobCancelledError
from mediatheca.kernel.errors import MediathecaError, PayloadTooLargeError
from mediatheca.kernel.ids import new_uuid
from mediatheca.kernel.scope import Scope
from mediatheca.stores.blobs.base import BlobStore

ATTEMPTS = 3
_PAUSES_S = (0.2, 1.0)
_ROOM = 1 << 20
"""How much a file may have grown since it was listed, and still be read at once."""
OUTAGES = ("unavailable", "unreachable")
"""Failures that say nothing of the file: where every file of a group has one, it is the store that is away."""


@dataclass(frozen=True, slots=True)
class File:
    """A file that was read. `store_key` is empty where the ledger has this very content already."""

    step: Step
    entry: Entry
    hash: str
    size: int
    mime_type: str
    store_key: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


class Vanished(Exception):
    """The file was deleted since it was listed."""


@dataclass(frozen=True)
class FileReader:
    """Reads files one by one; thread-safe. `folder`: where they lie meanwhile."""

    source: Source
    blobs: BlobStore
    scope: Scope
    folder: Path
    max_bytes: int
    tags: bool
    mime_override: str | None
    stop: Event

    def read(self, step: Step) -> File | Failure | Vanished:
        """A file, or why there is none.

        Raises:
            SourceError: `fatal`: nothing of this source can be read.
            UnavailableError: our own store does not answer.
        """
        for attempt in range(1, ATTEMPTS + 1):
            if self.stop.is_set():
                raise JobCancelledError(step.item_id)
            got, again = self._tried(step, attempt)
            if not again or attempt == ATTEMPTS:
                return got
            self.stop.wait(_PAUSES_S[attempt - 1])
            if isinstance(got, Failure) and got.kind == "changed":
                now = self._as_it_is(step.entry)
                if now is None:
                    return Vanished()
                step = replace(step, entry=now)
        raise AssertionError  # the last attempt returns

    def _tried(self, step: Step, attempt: int) -> tuple[File | Failure | Vanished, bool]:
        """One attempt, and whether another one may help."""
        entry, target = step.entry, self.folder / new_uuid()
        if entry.size > self.max_bytes:
            message = f"it has {entry.size:,} bytes; this server takes {self.max_bytes:,} of one file"
            return Failure(step.item_id, entry, "file_too_large", message, attempt), False
        try:
            return self._read(step, target), False
        except PayloadTooLargeError:
            message = f"'{entry.key}' grew while it was read"
            return Failure(step.item_id, entry, "changed", message, attempt), True
        except MediathecaError as error:
            if error.status >= 500:
                raise
            return self._why(step, error, attempt)
        finally:
            target.unlink(missing_ok=True)

    def _why(self, step: Step, error: MediathecaError, attempt: int) -> tuple[Failure | Vanished, bool]:
        if not isinstance(error, SourceError):
            kind = "unreachable" if error.retryable else "refused"
            return Failure(step.item_id, step.entry, kind, error.message, attempt), error.retryable
        if error.fatal:
            raise error
        if error.kind == "not_found":
            return Vanished(), False
        return Failure(step.item_id, step.entry, error.kind, error.message, attempt), error.transient

    def _as_it_is(self, entry: Entry) -> Entry | None:
        try:
            return self.source.stat(entry)
        except SourceError as error:
            if error.fatal:
                raise
            return None if error.kind == "not_found" else entry
        except MediathecaError:
            return entry

    def _read(self, step: Step, target: Path) -> File:
        entry = step.entry
        content = self.source.read(entry, target, min(self.max_bytes, entry.size + _ROOM))
        tags = self.source.tags(entry) if self.tags else {}
        with target.open("rb") as file:
            head = file.read(8192)
            file.seek(0)
            hash = hashlib.file_digest(file, "sha256").hexdigest()
        size = target.stat().st_size
        mime = self.mime_override or sniff(head) or _told(content, entry)
        key = ""
        if step.known is None or step.known["content_hash"] != hash:
            key = file_key(self.scope, hash)
            self.blobs.put_file(key, target, mime)
        return File(step, entry, hash, size, mime, key, content.metadata, tags)


def _told(content: Content, entry: Entry) -> str:
    """What the store says of the file, where it says something; else what its name says."""
    told = (content.content_type or entry.content_type).partition(";")[0].strip().lower()
    if told in ("", "application/octet-stream", "binary/octet-stream"):
        return guess_mime(entry.path, "file")
    return told[:255]
