"""Blobs in S3, Google Cloud Storage or Azure through obstore, with the provider's own presigned URLs."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import AzureStore, GCSStore, S3Store, from_url

from mediatheca.kernel.errors import NotFoundError, UnavailableError, ValidationError
from mediatheca.kernel.ids import new_uuid
from mediatheca.stores.blobs.base import BlobInfo, check_expiry, check_key
from mediatheca.stores.blobs.s3_parts import S3Parts

_SCHEMES = {"s3", "gs", "az"}
_CLIENT_OPTIONS = frozenset({"allow_http", "allow_invalid_certificates", "connect_timeout", "timeout", "proxy_url"})
_WRITERS = 16
_DELETE_BATCH = 1000
_PIECE = 1 << 20
_STALE = timedelta(days=1)
_RETRIES: Any = {"max_retries": 4, "retry_timeout": timedelta(seconds=20)}


class ObstoreBlobs:
    """A `BlobStore` at `s3://bucket[/prefix]`, `gs://…` or `az://container[/prefix]`.

    `options` are obstore's store settings (`endpoint`, `access_key_id`, `secret_access_key`, `region`, …) and, of its
    client settings, `allow_http`, `allow_invalid_certificates`, `connect_timeout`, `timeout` and `proxy_url`. What is
    not given is taken from the provider's usual environment variables.

    Raises:
        ValidationError: an unknown scheme, no bucket, or an option obstore does not know.
    """

    bounds_put_size = False
    """A presigned PUT cannot carry a largest size."""

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in _SCHEMES or not parts.netloc:
            raise ValidationError.at("blobs_url", f"'{url}' is not s3://bucket, gs://bucket or az://container", "url")
        given = dict(options or {})
        client: Any = {key: given.pop(key) for key in list(given) if key in _CLIENT_OPTIONS}
        # The library reads all other variables of a provider by itself.
        allow_http = client.get("allow_http", os.environ.get("AWS_ALLOW_HTTP", ""))
        client["allow_http"] = str(allow_http).lower() in ("1", "true", "yes")
        try:
            store: Any = from_url(url, config=given, client_options=client, retry_config=_RETRIES)  # type: ignore[call-overload]
        except BaseError as error:
            raise ValidationError.at("blobs_url", f"'{url}' cannot be used: {_short(error)}", "url") from error
        self._url = url
        self._prefix = f"{path}/" if (path := parts.path.strip("/")) else ""
        self._parts = S3Parts.of(parts.netloc, given) if parts.scheme == "s3" else None
        self._store: S3Store | GCSStore | AzureStore = store

    # Writing

    def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> BlobInfo:
        check_key(key)
        with self._storage():
            result = self._store.put(key, data, attributes={"Content-Type": content_type})
        return BlobInfo(key, len(data), _etag(result["e_tag"]))

    def put_file(self, key: str, path: Path, content_type: str = "application/octet-stream") -> BlobInfo:
        """In parts where it is large."""
        check_key(key)
        if not path.is_file():
            raise NotFoundError("file", path.name)
        with self._storage():
            result = self._store.put(key, path, attributes={"Content-Type": content_type})
        return BlobInfo(key, path.stat().st_size, _etag(result["e_tag"]))

    def put_many(self, blobs: Iterable[tuple[str, bytes, str]], *, durable: bool = True) -> None:
        rest = iter(blobs)
        with ThreadPoolExecutor(_WRITERS, thread_name_prefix="blobs") as writers:
            # Slices, so that an endless iterable is never in memory at once.
            while part := [(check_key(key), data, kind) for key, data, kind in islice(rest, 4 * _WRITERS)]:
                for _ in writers.map(lambda blob: self.put(*blob), part):
                    pass

    def copy(self, source: str, target: str) -> BlobInfo:
        """Inside the store; a service may limit the size (S3: 5 GB)."""
        check_key(source)
        with self._storage(source):
            self._store.copy(source, check_key(target))
        info = self.head(target)
        if info is None:
            raise UnavailableError(f"the blob store {self._url} lost a copy of '{source}' that it had just made")
        return info

    # Reading

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        check_key(key)
        if start <= 0 and end is None:
            with self._storage(key):
                return bytes(self._store.get(key).bytes())
        info = self.head(key)
        if info is None:
            raise NotFoundError("blob", key)
        start, end = max(start, 0), info.size if end is None else min(end, info.size)
        if start >= end:
            return b""
        with self._storage(key):
            return bytes(self._store.get_range(key, start=start, end=end))

    def get_many(self, keys: Sequence[str]) -> Iterator[bytes | None]:
        rest = iter(keys)
        with ThreadPoolExecutor(_WRITERS, thread_name_prefix="blobs") as readers:
            while part := list(islice(rest, _WRITERS)):  # no more than these in memory at once
                yield from readers.map(self._get_or_none, part)

    def _get_or_none(self, key: str) -> bytes | None:
        try:
            return self.get(key)
        except NotFoundError:
            return None

    def open(self, key: str) -> IO[bytes]:
        check_key(key)
        with self._storage(key):
            return io.BufferedReader(_Stream(obstore.open_reader(self._store, key), self), 1 << 20)

    def get_file(self, key: str, path: Path) -> None:
        check_key(key)
        with self._storage(key):
            found = self._store.get(key)
            size, pieces = found.meta["size"], iter(found.stream(min_chunk_size=_PIECE))
        with open(path, "wb") as file:
            while True:
                with self._storage(key):
                    piece = next(pieces, None)
                if piece is None:
                    break
                file.write(piece)
            if file.tell() != size:
                raise UnavailableError(f"the blob store {self._url} gave {file.tell()} of the {size} bytes of '{key}'")

    def local_path(self, key: str) -> str | None:
        check_key(key)
        return None

    def head(self, key: str) -> BlobInfo | None:
        check_key(key)
        try:
            with self._storage(key):
                meta = self._store.head(key)
        except NotFoundError:
            return None
        return BlobInfo(key, meta["size"], _etag(meta["e_tag"]))

    def list(self, prefix: str = "") -> Iterator[BlobInfo]:
        # The library matches whole parts only, so the last, unfinished one is matched here.
        parent, _, start = prefix.rpartition("/")
        if parent:
            check_key(parent)
        with self._storage():
            for page in self._store.list(parent or None, chunk_size=1000):
                for meta in page:
                    if meta["path"].startswith(prefix):
                        yield BlobInfo(meta["path"], meta["size"], _etag(meta["e_tag"]))
                    elif start and meta["path"] > prefix:
                        return

    # Deleting

    def delete(self, key: str) -> None:
        check_key(key)
        with self._storage(), contextlib.suppress(FileNotFoundError):
            self._store.delete(key)

    def delete_many(self, keys: Sequence[str]) -> None:
        for key in keys:
            check_key(key)
        for first in range(0, len(keys), _DELETE_BATCH):
            part = keys[first : first + _DELETE_BATCH]
            try:
                with self._storage(part[0]):
                    self._store.delete(part)
            except NotFoundError:  # a service without bulk deletes stops at what is gone already
                for key in part:
                    self.delete(key)

    def delete_prefix(self, prefix: str) -> int:
        if not prefix:
            raise ValidationError.at("prefix", "must not be empty: it would delete every blob", "blob_prefix")
        keys = [info.key for info in self.list(prefix)]
        self.delete_many(keys)
        return len(keys)

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
        life = timedelta(seconds=check_expiry(expires_s))
        with self._storage():
            return obstore.sign(self._store, method, check_key(key), life)

    def sweep(self) -> None:
        """In S3, where keys are known here. Azure drops unfinished blobs by itself after a week; Google's store, and S3
        with a role of the machine, by a rule of the bucket."""
        if self._parts is not None:
            self._parts.abort(self._prefix, datetime.now(UTC) - _STALE)

    def check(self) -> None:
        key, token = f"mediatheca-probe/check-{new_uuid()}", new_uuid().encode()
        self.put(key, token)
        if self.get(key) != token:
            raise UnavailableError(f"the blob store {self._url} gave back other bytes than were written")
        self.delete(key)

    @contextlib.contextmanager
    def _storage(self, key: str = "") -> Iterator[None]:
        """Turn what the service says into our errors."""
        try:
            yield
        except FileNotFoundError as error:
            if key:
                raise NotFoundError("blob", key) from error
            raise UnavailableError(f"the blob store {self._url} has no such bucket: {_short(error)}") from error
        except (PermissionDeniedError, UnauthenticatedError, PermissionError) as error:
            raise UnavailableError(
                f"the blob store {self._url} refuses our credentials; check its key, secret and policy: {_short(error)}"
            ) from error
        except (BaseError, OSError, ValueError) as error:
            raise UnavailableError(
                f"the blob store {self._url} does not answer as it should; check its address and that it runs: "
                f"{_short(error)}"
            ) from error


class _Stream(io.RawIOBase):
    """A readable, seekable stream over an object, range by range."""

    def __init__(self, reader: obstore.ReadableFile, store: ObstoreBlobs) -> None:
        self._reader, self._blobs = reader, store

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._blobs._storage():
            data = self._reader.read(len(buffer))
        buffer[: len(data)] = memoryview(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._reader.seek(offset, whence)

    def tell(self) -> int:
        return self._reader.tell()


def _etag(value: str | None) -> str:
    return (value or "").strip('"')


def _short(error: Exception) -> str:
    """The first line of what obstore says; it prints whole debug structures below."""
    return str(error).split("\n", 1)[0][:300]
