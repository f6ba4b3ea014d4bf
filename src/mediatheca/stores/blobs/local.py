"""Blobs on a local disk, and URLs signed with HMAC-SHA256 that the API's own `/v1/blobs/` route serves.

A blob is a file `=name` under `root`, in one directory per part of its key; the `=` keeps the file of key `a` apart
from the directory of key `a/b`. A write goes to a temporary file, is synced, renamed, and the directories that
changed are synced: a power cut leaves the old blob or the new one. Many blobs at once share one `syncfs`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import IO, Literal
from uuid import UUID

from mediatheca.kernel.errors import (
    MediathecaError,
    NotFoundError,
    PayloadTooLargeError,
    UnavailableError,
    ValidationError,
)
from mediatheca.kernel.ids import new_uuid
from mediatheca.stores.blobs.base import BlobInfo, check_expiry, check_key
from mediatheca.stores.blobs.disk import syncfs, with_descriptor
from mediatheca.stores.blobs.signing import SignedGrant, Signer

_TEMP = ".tmp"
_SYNC_TOGETHER = 4
"""From here on one syncfs is cheaper than an fsync each (20 kB files on ext4: 4 files 0.8 to 1.3 ms, 200: 26 to 65)."""
_STALE_S = 24 * 3600
_PIECE = 1 << 20
_PROBE = "mediatheca-probe/check"


class LocalBlobs:
    """A `BlobStore` in the directory `root`. `secret` (at least 16 bytes) signs URLs; change it and old ones die.

    Content types are not kept: whoever signs a GET URL says what it answers with.
    """

    bounds_put_size = True

    def __init__(self, root: Path, secret: bytes) -> None:
        self._root = root.absolute()
        self._signer = Signer(secret)
        self._temp = self._root / _TEMP
        with self._storage():
            self._temp.mkdir(parents=True, exist_ok=True)
        self.sweep()

    # Writing

    def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> BlobInfo:
        with self.open_put(key) as upload:
            upload.write(data)
        return upload.info

    def put_many(self, blobs: Iterable[tuple[str, bytes, str]], *, durable: bool = True) -> None:
        written: list[tuple[Path, Path]] = []
        try:
            with self._storage():
                for key, data, _ in blobs:
                    path, temp = self._path(key), self._temp_file()
                    written.append((temp, path))
                    temp.write_bytes(data)
                if durable:
                    self._sync_files([temp for temp, _ in written])
                changed = [directory for temp, path in written for directory in self._move(temp, path)]
                if durable:
                    self._sync_directories(changed)
        finally:
            for temp, _ in written:
                temp.unlink(missing_ok=True)

    def put_file(self, key: str, path: Path, content_type: str = "application/octet-stream") -> BlobInfo:
        """A second name of the file, on one file system."""
        return self._put_linked(key, path, NotFoundError("file", path.name), sync=True)

    def copy(self, source: str, target: str) -> BlobInfo:
        """A second name of the same file: files are replaced, never written to."""
        return self._put_linked(target, self._path(source), NotFoundError("blob", source), sync=False)

    def _put_linked(self, key: str, origin: Path, missing: NotFoundError, *, sync: bool) -> BlobInfo:
        path, temp = self._path(key), self._temp_file()
        with self._storage():
            try:
                self._link(origin, temp)
                if sync:
                    with_descriptor(temp, os.fsync)
                info = _info(key, temp.stat())
                self._sync_directories(self._move(temp, path))
            except FileNotFoundError:
                raise missing from None
            finally:
                temp.unlink(missing_ok=True)
        return info

    @staticmethod
    def _link(origin: Path, temp: Path) -> None:
        try:
            os.link(origin, temp)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV):
                raise
            shutil.copyfile(origin, temp)  # a file system without second names
            with_descriptor(temp, os.fsync)

    def open_put(self, key: str, max_bytes: int | None = None) -> Upload:
        """A context manager to write one blob in pieces: kept when the block ends well, dropped when it raises.

        `write` raises PayloadTooLargeError beyond `max_bytes`. Afterwards `info` says what was stored.
        """
        return Upload(self, check_key(key), max_bytes)

    def _temp_file(self) -> Path:
        return self._temp / new_uuid()

    def _path(self, key: str) -> Path:
        *parents, name = check_key(key).split("/")
        return self._root.joinpath(*map(_directory_name, parents), f"={name}")

    def _move(self, temp: Path, path: Path) -> Sequence[Path]:
        """Rename `temp` to `path`, making directories. Returns the directories whose entries changed."""
        made: list[Path] = []
        while True:
            try:
                temp.rename(path)
            except FileNotFoundError:
                # The directory is missing, or a delete beside us just removed it because it was empty.
                if not temp.exists():
                    raise
                made += self._make_directory(path.parent)
            else:
                return [path.parent, *made]

    def _make_directory(self, directory: Path) -> Iterable[Path]:
        missing = [directory]
        while not missing[-1].parent.exists():
            missing.append(missing[-1].parent)
        # A parent may be removed at this moment, too: the caller tries again.
        with contextlib.suppress(FileNotFoundError):
            directory.mkdir(parents=True, exist_ok=True)
        return [made.parent for made in missing]

    def _sync_files(self, paths: Sequence[Path]) -> None:
        if len(paths) >= _SYNC_TOGETHER and syncfs is not None:
            with_descriptor(self._temp, syncfs)
            return
        for path in paths:
            with_descriptor(path, os.fsync)

    def _sync_directories(self, directories: Iterable[Path]) -> None:
        distinct = set(directories)
        if len(distinct) >= _SYNC_TOGETHER and syncfs is not None:
            with_descriptor(self._root, syncfs)
            return
        for directory in distinct:
            # Gone already: somebody deleted the blob again, and the empty directory with it.
            with contextlib.suppress(FileNotFoundError):
                with_descriptor(directory, os.fsync)

    # Reading

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        with self.open(key) as file:
            file.seek(max(start, 0))
            return file.read(-1 if end is None else max(end - max(start, 0), 0))

    def get_many(self, keys: Sequence[str]) -> Iterator[bytes | None]:
        for key in keys:
            try:
                yield self.get(key)
            except NotFoundError:
                yield None

    def open(self, key: str) -> IO[bytes]:
        path = self._path(key)
        with self._storage():
            try:
                return path.open("rb")
            except FileNotFoundError:
                raise NotFoundError("blob", key) from None

    def get_file(self, key: str, path: Path) -> None:
        with self.open(key) as source, open(path, "wb") as file:
            shutil.copyfileobj(source, file, _PIECE)

    def local_path(self, key: str) -> str | None:
        return str(self._path(key))

    def head(self, key: str) -> BlobInfo | None:
        path = self._path(key)
        with self._storage():
            try:
                return _info(key, path.stat())
            except FileNotFoundError:
                return None

    def list(self, prefix: str = "") -> Iterator[BlobInfo]:
        parent, _, start = prefix.rpartition("/")
        if parent:
            check_key(parent)
        directory = self._root.joinpath(*map(_directory_name, parent.split("/"))) if parent else self._root
        with self._storage():
            yield from _walk(directory, f"{parent}/" if parent else "", start)

    # Deleting

    def delete(self, key: str) -> None:
        path = self._path(key)
        with self._storage():
            path.unlink(missing_ok=True)
            self._prune(path.parent)

    def delete_many(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.delete(key)

    def delete_prefix(self, prefix: str) -> int:
        if not prefix:
            raise ValidationError.at("prefix", "must not be empty: it would delete every blob", "blob_prefix")
        count = 0
        for info in self.list(prefix):
            self.delete(info.key)
            count += 1
        return count

    def _prune(self, directory: Path) -> None:
        """Remove empty directories upwards; the first that is in use ends it."""
        while directory != self._root:
            try:
                directory.rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                return
            directory = directory.parent

    # Signed URLs

    def sign(
        self,
        method: Literal["GET", "PUT"],
        key: str,
        *,
        expires_s: int,
        content_type: str | None = None,
        max_bytes: int | None = None,
    ) -> str:
        expires_at = int(time.time()) + check_expiry(expires_s)
        return self._signer.sign(SignedGrant(method, check_key(key), expires_at, content_type, max_bytes))

    def verify(self, method: str, key: str, query: Mapping[str, str]) -> SignedGrant:
        """What a request on a signed URL may do. HEAD is allowed where GET is.

        Raises:
            ForbiddenError: no signature, a wrong one, or the URL has expired.
            NotFoundError: the URL is good for reading, but there is no such blob.
        """
        grant = self._signer.verify(method, key, query)
        if grant.method == "GET" and self.head(key) is None:
            raise NotFoundError("blob", key)
        return grant

    def sweep(self) -> None:
        oldest = time.time() - _STALE_S
        with self._storage():
            for entry in os.scandir(self._temp):
                with contextlib.suppress(FileNotFoundError):
                    if _begun(entry) < oldest:
                        os.unlink(entry.path)

    def check(self) -> None:
        token = new_uuid()
        self.put(f"{_PROBE}-{token}", token.encode())
        if self.get(f"{_PROBE}-{token}") != token.encode():
            raise UnavailableError(f"the blob store at {self._root} gave back other bytes than were written")
        self.delete(f"{_PROBE}-{token}")

    @contextlib.contextmanager
    def _storage(self) -> Iterator[None]:
        """Turn what the disk says into our errors."""
        try:
            yield
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> MediathecaError:
        advice = {
            errno.ENOSPC: "the disk is full; free some space",
            errno.EDQUOT: "the disk quota is used up; free some space",
            errno.EACCES: "permission denied; let the server's user write there",
            errno.ENOENT: "its directory has gone; put it back or restart the server",
            errno.EROFS: "the file system is read-only; mount it writable",
        }.get(error.errno or 0, f"{error.strerror or error}; look at the disk")
        return UnavailableError(f"the blob store at {self._root} refuses: {advice}")


class Upload:
    """One blob being written; see `LocalBlobs.open_put`."""

    def __init__(self, store: LocalBlobs, key: str, max_bytes: int | None) -> None:
        self._store, self._key, self._max_bytes = store, key, max_bytes
        self._size = 0
        self.info = BlobInfo(key, 0, "")

    def __enter__(self) -> Upload:
        self._path, self._temp = self._store._path(self._key), self._store._temp_file()
        with self._store._storage():
            self._file = self._temp.open("wb", buffering=0)
        return self

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._size

    def write(self, chunk: bytes) -> None:
        """Append.

        Raises:
            PayloadTooLargeError: more than `max_bytes` in all.
        """
        self._size += len(chunk)
        if self._max_bytes is not None and self._size > self._max_bytes:
            raise PayloadTooLargeError(
                f"the upload is larger than the {self._max_bytes} bytes its URL was signed for; "
                "ask for a new upload URL with a larger size"
            )
        with self._store._storage():
            rest = memoryview(chunk)
            while rest:
                rest = rest[self._file.write(rest) :]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._file, self._store._storage():
                if kind is None:
                    self._commit()
        finally:
            self._temp.unlink(missing_ok=True)

    def _commit(self) -> None:
        os.fsync(self._file.fileno())
        self.info = _info(self._key, os.fstat(self._file.fileno()))
        self._store._sync_directories(self._store._move(self._temp, self._path))


def _begun(entry: os.DirEntry[str]) -> float:
    """When a temporary file was made. A second name of an old file has its old times, but a name of its own."""
    with contextlib.suppress(ValueError):
        name = UUID(entry.name)
        if name.version == 7:
            return (name.int >> 80) / 1000
    return entry.stat().st_mtime


def _directory_name(segment: str) -> str:
    """`=` marks files and a leading `.` our own directories; a key's part that begins so gets a dot in front."""
    return f".{segment}" if segment[0] in "=." else segment


def _walk(directory: Path, base: str, start: str = "") -> Iterator[BlobInfo]:
    """Blobs below `directory` in key order. `base` is its key with a slash; only entries beginning with `start`."""
    try:
        entries = list(os.scandir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return
    named = chain.from_iterable(_named(entry) for entry in entries)
    for name, entry in sorted((pair for pair in named if pair[0].startswith(start)), key=lambda pair: pair[0]):
        if name.endswith("/"):
            yield from _walk(Path(entry.path), base + name)
            continue
        # Deleted while we list: not there.
        with contextlib.suppress(FileNotFoundError):
            yield _info(base + name, entry.stat())


def _named(entry: os.DirEntry[str]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """The key part an entry stands for, with a slash for a directory: so they sort as whole keys do."""
    if entry.name.startswith("="):
        yield entry.name[1:], entry
    elif entry.name != _TEMP:
        yield f"{entry.name[1:] if entry.name.startswith('.') else entry.name}/", entry


def _info(key: str, stat: os.stat_result) -> BlobInfo:
    return BlobInfo(key, stat.st_size, f"{stat.st_mtime_ns:x}-{stat.st_size:x}-{stat.st_ino:x}")
