"""The contract of a blob store: immutable bytes under a key, and URLs a stranger can use for a while.

Rules every store keeps (each is a test of `mediatheca.testing.blobs`):

* `put` is atomic and durable: a reader sees the whole blob or none, and a returned put survives a power cut.
* Keys pass `check_key`: relative, `/`-separated, without `..`; a store refuses others. A key may also be the
  beginning of another (`a` and `a/b`). Prefixes are plain string prefixes; `list` is in key order.
* Signed URLs are bound to method, key, expiry and (for PUT, where `bounds_put_size`) the largest size; anything
  else is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, Protocol

from mediatheca.kernel.errors import ValidationError

MAX_EXPIRES_S = 7 * 24 * 3600
MAX_KEY_BYTES = 1024
MAX_SEGMENT_BYTES = 200
"""Of one part between slashes: a file name has 255 bytes, and stores add a few of their own."""


def check_key(key: str) -> str:
    """Accept a blob key, or say why not.

    Raises:
        ValidationError: the key is empty, too long, absolute, or has `..`, a backslash or a control character in it.
    """
    problem = _problem(key)
    if problem:
        raise ValidationError.at("key", f"{key[:100]!r} is not a blob key: {problem}", "blob_key")
    return key


def _problem(key: str) -> str | None:
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        return "it is not valid Unicode text"
    if not 1 <= len(encoded) <= MAX_KEY_BYTES:
        return f"it must have 1 to {MAX_KEY_BYTES} bytes, got {len(encoded)}"
    if "\\" in key or any(ord(char) < 32 or ord(char) == 127 for char in key):
        return "it must not hold a backslash or control characters"
    for segment in key.split("/"):
        if segment in ("", ".", ".."):
            return "it must be relative, without empty, '.' or '..' parts"
        if len(segment.encode()) > MAX_SEGMENT_BYTES:
            return f"a part between slashes must have at most {MAX_SEGMENT_BYTES} bytes"
    return None


def check_expiry(expires_s: int) -> int:
    """Accept the life of a signed URL.

    Raises:
        ValidationError: not between 1 second and 7 days.
    """
    if not 1 <= expires_s <= MAX_EXPIRES_S:
        raise ValidationError.at("expires_s", f"must be 1 to {MAX_EXPIRES_S} seconds, got {expires_s}", "expiry")
    return expires_s


@dataclass(frozen=True, slots=True)
class BlobInfo:
    key: str
    size: int
    etag: str


class BlobStore(Protocol):
    """Synchronous and thread-safe."""

    bounds_put_size: bool
    """Whether a signed PUT of more than `max_bytes` is refused; if not, look at `head` before trusting the blob."""

    def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> BlobInfo:
        """Write one blob, replacing what was there."""

    def put_file(self, key: str, path: Path, content_type: str = "application/octet-stream") -> BlobInfo:
        """`put` of a file of this machine, without reading it into memory. The file stays; a store of this machine may
        keep it under a second name, so nobody may write to it any more.

        Raises:
            NotFoundError: no such file.
        """

    def put_many(self, blobs: Iterable[tuple[str, bytes, str]], *, durable: bool = True) -> None:
        """Write several (key, data, content type); durable together, with one sync where the file system allows.

        Not `durable`: nothing is waited for, and a power cut may leave a blob missing or torn. For what is checked when
        it is read, and can be made again.
        """

    def copy(self, source: str, target: str) -> BlobInfo:
        """Put the bytes of `source`, as they are at one moment, under `target` too: later puts do not reach it.

        Raises:
            NotFoundError: no such source.
        """

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Bytes `[start, end)`, cut at the end of the blob.

        Raises:
            NotFoundError: no such blob.
        """

    def get_many(self, keys: Sequence[str]) -> Iterator[bytes | None]:
        """Whole blobs in the order of `keys`, None for those that do not exist."""

    def open(self, key: str) -> IO[bytes]:
        """A readable, seekable binary stream."""

    def get_file(self, key: str, path: Path) -> None:
        """Write a whole blob to a file of this machine, piece by piece.

        Raises:
            NotFoundError: no such blob.
            OSError: the file cannot be written.
        """

    def local_path(self, key: str) -> str | None:
        """A path a process of this machine may read, None when the store has none."""

    def head(self, key: str) -> BlobInfo | None: ...

    def delete(self, key: str) -> None:
        """A missing blob is not an error."""

    def delete_many(self, keys: Sequence[str]) -> None:
        """`delete` for many."""

    def delete_prefix(self, prefix: str) -> int:
        """Delete every key that begins with `prefix`, which must not be empty. Returns how many there were."""

    def list(self, prefix: str = "") -> Iterator[BlobInfo]:
        """Blobs whose key begins with `prefix`, by key ascending."""

    def sign(
        self,
        method: Literal["GET", "PUT"],
        key: str,
        *,
        expires_s: int,
        content_type: str | None = None,
        max_bytes: int | None = None,
    ) -> str:
        """A URL valid for `expires_s` seconds (1 to `MAX_EXPIRES_S`).

        Local stores give a path under `/v1/blobs/`, made absolute by the API. `max_bytes` is for PUT. `content_type`
        binds a PUT and names the type a GET answers with, where the store can; object stores answer with the type
        given to `put`.
        """

    def sweep(self) -> None:
        """Remove what writers that were killed more than a day ago left behind: parts of blobs, never blobs."""

    def check(self) -> None:
        """Write, read and remove a probe. Raises UnavailableError saying what to do."""
