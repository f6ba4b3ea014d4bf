"""What costly extractors gave, kept by content: unchanged input is never computed twice in a namespace.

An entry is a file in the blob store and a row that says it is there. The row is written before the file and goes after
it, so that a crash leaves no file without a row; a row without its file is a miss. Entries are scoped like everything
else: the same content in two namespaces is two entries. Steps of extractors (`mediatheca.kernel.steps`) are entries
too.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import func, select

from mediatheca import __version__
from mediatheca.extractors import Artifact, Extractor, Item, Source
from mediatheca.flows.ingest.cache_file import CorruptFileError, Encoded, Entry, StoredArtifact, decode, encode
from mediatheca.flows.removal import cuts
from mediatheca.flows.services import JobServices
from mediatheca.kernel import clock
from mediatheca.kernel.errors import ConflictError
from mediatheca.kernel.models import Models
from mediatheca.kernel.scope import Scope
from mediatheca.stores.blobs.base import BlobStore
from mediatheca.stores.db import tables
from mediatheca.stores.db.engine import ContentionError
from mediatheca.stores.db.tx import Cmp

log = structlog.get_logger()

UNUSED_DAYS = 30
"""Entries that nobody used for so long go even when there is room: what was deleted does not stay for ever."""
MAX_ENTRY_BYTES = 64 << 20
"""Larger results are computed again; not counting artifacts that are blobs of their own."""
_FORMAT = 2
_STEP = "s"
"""What the keys of steps begin with, which is no hex digit."""
_FLUSH_S = 10.0
"""How much work a worker that dies may lose; while entries are written, extraction waits."""
_FLUSH_BYTES = 32 << 20
_ATTEMPTS = 3
_ROOM = 0.9
"""How much of the largest size an eviction leaves, so that not every round must evict."""


class ResultKeys:
    """Names the result of an item by everything that decides it: extractor, parameters, weights and input."""

    def __init__(self, extractor: Extractor, parameters: Mapping[str, Any], models: Models) -> None:
        described = extractor.describe(extractor.params.model_validate(parameters), models)
        parts = [_FORMAT, __version__, extractor.extractor_id, extractor.cache_version, parameters, asdict(described)]
        self._common = hashlib.sha256(_canonical(parts, sort_keys=True))

    def of(self, item: Item) -> str:
        """64 hex digits. The order of inputs and fields counts: an extractor may see it."""
        inputs = [[name, [_parts(source) for source in sources]] for name, sources in item.inputs.items()]
        digest = self._common.copy()
        digest.update(_canonical([inputs, item.fields]))
        return digest.hexdigest()


def _parts(source: Source) -> list[Any]:
    if source.hash or source.data is not None or source.path is not None:
        return [source.key, source.mime_type, "hash", source.digest()]
    return [source.key, source.mime_type, "value", source.value]


def _canonical(value: Any, *, sort_keys: bool = False) -> bytes:
    return json.dumps(value, sort_keys=sort_keys, separators=(",", ":"), default=sorted).encode()


class ResultCache:
    """The entries of one namespace. Thread-safe."""

    def __init__(self, services: JobServices, scope: Scope) -> None:
        self._db, self._blobs, self._scope = services.db, services.blobs, scope
        self._largest = services.settings.cache_mb << 20
        self._lock = threading.RLock()
        self._pending: dict[str, bytes] = {}
        self._used: set[str] = set()
        self._bytes = 0
        self._flushed = time.monotonic()

    def load(self, keys: Sequence[str]) -> Iterator[tuple[str, Entry]]:
        """The entry of every key that is there with its files. What is not what was written is no entry, and is
        removed."""
        used, broken = [], []
        for key, checksum, data in self._stored(keys):
            entry = _checked(key, checksum, data)
            if entry is None or not self._has_files(entry):
                broken.append(key)
            else:
                used.append(key)
                yield key, entry
        self._touch(used)
        self._forget(broken)

    def _has_files(self, entry: Entry) -> bool:
        """An eviction beside whoever wrote the entry anew may have taken some of them."""
        held = (made for row in entry.rows for made in row.artifacts.values() if isinstance(made, StoredArtifact))
        return all((info := self._blobs.head(made.key)) is not None and info.size == made.length for made in held)

    def _stored(self, keys: Sequence[str]) -> Iterator[tuple[str, str, bytes | None]]:
        checksums: dict[str, str] = {}
        with self._db.read(self._scope) as tx:
            for cut in cuts(keys):
                found = tx.rows("cached_results", {"key": cut}, columns=("key", "checksum"))
                checksums |= {row["key"]: row["checksum"] for row in found}
        files = self._blobs.get_many([file_of(self._scope, key) for key in checksums])
        for (key, checksum), data in zip(checksums.items(), files, strict=True):
            yield key, checksum, data

    def _touch(self, keys: Sequence[str]) -> None:
        if keys:
            with self._db.begin(self._scope) as tx:
                for cut in cuts(keys):
                    tx.update("cached_results", {"key": cut}, {"last_used_at": clock.now()})

    def _forget(self, keys: Sequence[str]) -> None:
        if keys:
            log.warning("cache.broken_entries", organization=self._scope.organization_id, entries=len(keys))
            _delete_files(self._blobs, self._scope, keys)
            with self._db.begin(self._scope) as tx:
                tx.delete("cached_results", {"key": keys})

    # Steps

    def recall(self, key: str) -> bytes | None:
        """What was remembered under a key of `mediatheca.kernel.steps`."""
        name = _step_name(key)
        with self._lock:
            if name in self._pending:
                return self._pending[name]
        for _, checksum, data in self._stored([name]):
            if data is not None and _hash(data) == checksum:
                with self._lock:
                    self._used.add(name)
                return data
            if data is not None:  # what has no file is perhaps being written
                self._forget([name])
        return None

    def remember(self, key: str, data: bytes) -> None:
        """Keep the result of a step."""
        if len(data) <= MAX_ENTRY_BYTES:
            self._keep(_step_name(key), data)

    # Writing

    def add(self, key: str, entry: Entry) -> None:
        """Keep a result; written with others, at the latest by `flush`. Its files are taken now."""
        made = encode(key, entry, files_of(self._scope, key))
        if made is None or len(made.data) > MAX_ENTRY_BYTES or made.size() > self._largest // 2:
            return
        if made.files:
            self._write_with_files(key, made)
        else:
            self._keep(key, made.data)

    def _write_with_files(self, key: str, made: Encoded) -> None:
        if self._record({key: made.data}, sum(each.size() for each in made.files.values())):
            for blob, artifact in made.files.items():
                _put(self._blobs, blob, artifact)
            self._blobs.put_many([(file_of(self._scope, key), made.data, _TYPE)], durable=False)

    def _keep(self, name: str, data: bytes) -> None:
        with self._lock:
            self._pending[name] = data
            self._bytes += len(data)
            due = self._bytes >= _FLUSH_BYTES or time.monotonic() - self._flushed > _FLUSH_S
        if due:
            self.flush()

    def flush(self) -> None:
        """Write what is pending."""
        with self._lock:
            pending, used = dict(self._pending), sorted(self._used)
            self._bytes, self._flushed = 0, time.monotonic()
            self._used.clear()
        self._touch(used)
        if pending and self._record(pending):
            files = ((file_of(self._scope, key), data, _TYPE) for key, data in pending.items())
            self._blobs.put_many(files, durable=False)  # a sync would take longer than many a model
        with self._lock:  # only now: until it is written it is found here
            self._pending = {name: data for name, data in self._pending.items() if pending.get(name) is not data}

    def _record(self, pending: Mapping[str, bytes], more_bytes: int = 0) -> bool:
        """`more_bytes`: of the blobs beside the only file."""
        moment = clock.now()
        rows = [
            {"key": key, "checksum": _hash(data), "size_bytes": len(data) + more_bytes, "last_used_at": moment}
            for key, data in sorted(pending.items())
        ]
        for _ in range(_ATTEMPTS):
            try:
                with self._db.begin(self._scope) as tx:
                    for cut in cuts(list(pending)):
                        tx.delete("cached_results", {"key": cut})
                    tx.insert("cached_results", rows)
                return True
            except (ConflictError, ContentionError):  # another worker has just made the same: replace its rows
                continue
        return False


def _step_name(key: str) -> str:
    return f"{_STEP}{key[:63]}"


def _put(blobs: BlobStore, key: str, made: Artifact) -> None:
    if made.path is None:
        blobs.put(key, made.data, made.mime_type)  # durable: documents get a second name of it
    else:
        blobs.put_file(key, Path(made.path), made.mime_type)


_TYPE = "application/vnd.apache.arrow.file"


def _checked(key: str, checksum: str, data: bytes | None) -> Entry | None:
    if data is None or _hash(data) != checksum:
        return None
    try:
        return decode(key, data)
    except CorruptFileError:
        return None


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def file_of(scope: Scope, key: str) -> str:
    """Where the file of an entry is. It goes with its namespace, like all files below this prefix."""
    return f"{_folder(scope)}/{key[:2]}/{key}.{'step' if key.startswith(_STEP) else 'arrow'}"


def files_of(scope: Scope, key: str) -> str:
    """What the keys of an entry's own blobs begin with."""
    return f"{_folder(scope)}/files/{key}/"


def _folder(scope: Scope) -> str:
    return f"{scope.organization_id}/{scope.namespace_id}/cache"


def _delete_files(blobs: BlobStore, scope: Scope, keys: Iterable[str]) -> None:
    """The files of entries, and the blobs beside them."""
    gone = set(keys)
    blobs.delete_many([file_of(scope, key) for key in gone])
    held = (blob.key for blob in blobs.list(f"{_folder(scope)}/files/"))
    blobs.delete_many([key for key in held if key.rsplit("/", 2)[-2] in gone])


def evict(services: JobServices) -> int:
    """Remove the entries of all tenants that were not used for longest, until the rest fits. Returns how many."""
    largest = services.settings.cache_mb << 20
    table = tables.cached_results
    with services.db.translate(), services.db.engine.connect() as connection, connection.begin():
        total = connection.execute(select(func.coalesce(func.sum(table.c.size_bytes), 0))).scalar_one()
    excess = total - int(_ROOM * largest) if total > largest else 0
    count, oldest = 0, clock.now() - timedelta(days=UNUSED_DAYS)
    while victims := _least_used(services, excess, oldest):
        for scope, rows in victims.items():
            _remove(services, scope, rows)
            count += len(rows)
            excess -= sum(row["size_bytes"] for row in rows)
    return count


def _least_used(services: JobServices, excess: int, oldest: datetime) -> dict[Scope, list[dict[str, Any]]]:
    table = tables.cached_results
    statement = select(table).order_by(table.c.last_used_at).limit(500)
    with services.db.translate(), services.db.engine.connect() as connection, connection.begin():
        rows = [dict(row) for row in connection.execute(statement).mappings()]
    found: dict[Scope, list[dict[str, Any]]] = {}
    for row in rows:
        if excess <= 0 and row["last_used_at"] >= oldest:
            break
        excess -= row["size_bytes"]
        found.setdefault(Scope(row["organization_id"], row["namespace_id"]), []).append(row)
    return found


def _remove(services: JobServices, scope: Scope, rows: Sequence[Mapping[str, Any]]) -> None:
    """An entry that is written or used again at this moment keeps its row: at worst a row without a file, a miss."""
    _delete_files(services.blobs, scope, [row["key"] for row in rows])
    newest = max(row["last_used_at"] for row in rows)
    with services.db.begin(scope) as tx:
        tx.delete("cached_results", {"key": [row["key"] for row in rows], "last_used_at": Cmp("<=", newest)})
