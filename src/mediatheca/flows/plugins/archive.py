"""Unpacking what a stranger sent: zip or tar, within limits, and nothing but plain files below one folder."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import shutil
import stat
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from mediatheca.kernel.errors import ValidationError

_PIECE = 1 << 20
_RATIO_FROM = 10 << 20
"""Below this size a high ratio is only good compression."""
_MAX_TABLE = 4 << 20
"""Bytes of a zip's table of contents, and of what a tar tells between two files."""
_PACKED_TAR: Mapping[bytes, Callable[[Path], Any]] = {b"\x1f\x8b": gzip.GzipFile, b"BZ": bz2.BZ2File}
_MAGIC = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may be."""

    files: int = 1_000
    unpacked: int = 2 << 30
    one_file: int = 1 << 30
    ratio: int = 100
    depth: int = 20


@dataclass(frozen=True, slots=True)
class _Member:
    path: PurePosixPath
    size: int
    read: IO[bytes]


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What was in it."""

    files: tuple[str, ...]
    size: int


def file_hash(path: Path) -> str:
    """SHA-256 (hex)."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            found.update(piece)
    return found.hexdigest()


def unpack(archive: Path, target: Path, limits: Limits = Limits()) -> Unpacked:
    """Write the files of an archive below `target`, which is made. A single folder around everything is left out.

    Raises:
        ValidationError: it is no archive, leaves its folder, holds links or devices, or is larger than allowed. What
            was written until then is removed.
    """
    try:
        sizes = _written(archive, target, limits)
        _without_wrapper(target)
    except (
        OSError,
        EOFError,
        zipfile.BadZipFile,
        tarfile.TarError,
        ValueError,
        RuntimeError,
        NotImplementedError,
        struct.error,
        zlib.error,
        lzma.LZMAError,
    ) as e:
        shutil.rmtree(target, ignore_errors=True)
        if isinstance(e, ValidationError):
            raise
        reason = e.strerror if isinstance(e, OSError) and e.strerror else e  # no path of this machine
        raise _refused(f"cannot be unpacked: {reason}") from e
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    files = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    return Unpacked(tuple(files), sizes)


def _refused(message: str) -> ValidationError:
    return ValidationError.at(("archive",), message, "archive")


def _written(archive: Path, target: Path, limits: Limits) -> int:
    total, seen = 0, set[str]()
    packed = archive.stat().st_size
    target.mkdir(parents=True)
    with closing(_members(archive, limits)) as members:
        for member in members:
            with closing(member.read):
                _check_new(str(member.path), seen, limits)
                total += _copy(member, target, limits, total, packed)
    if not seen:
        raise _refused("holds no files")
    return total


def _check_new(name: str, seen: set[str], limits: Limits) -> None:
    if name.lower() in seen:
        raise _refused(f"holds '{name}' twice")
    seen.add(name.lower())
    if len(seen) > limits.files:
        raise _refused(f"holds more than {limits.files} files")


def _copy(member: _Member, target: Path, limits: Limits, before: int, packed: int) -> int:
    """Write one file, counting what really comes out: sizes that an archive tells may be lies."""
    path = target.joinpath(*member.path.parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with open(path, "xb") as file:
        while piece := member.read.read(_PIECE):
            size += len(piece)
            total = before + size
            if size > limits.one_file or total > limits.unpacked:
                raise _refused(f"unpacks to more than {min(limits.one_file, limits.unpacked) >> 20} MB")
            if total > _RATIO_FROM and total > limits.ratio * packed:
                raise _refused(f"is packed more than {limits.ratio} times: a bomb")
            file.write(piece)
    os.chmod(path, stat.S_IRUSR | stat.S_IWUSR)
    return size


class _Metered:
    """A file of which only so many bytes are read: what describes the contents of an archive is read into memory at
    once, however long it says it is."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.left = file, _MAX_TABLE
        self.seek, self.tell, self.seekable, self.close = file.seek, file.tell, file.seekable, file.close

    def read(self, size: int = -1, /) -> bytes:
        if size > self.left:
            raise _refused(f"describes its contents with more than {_MAX_TABLE >> 20} MB: a bomb")
        data = self._file.read(size if size >= 0 else self.left)
        self.left -= len(data)
        return data


def zip_entries(archive: Path) -> list[zipfile.ZipInfo]:
    """The table of contents of a zip file.

    Raises:
        ValidationError: it is larger than that of any honest one.
        zipfile.BadZipFile: it is none.
    """
    with open(archive, "rb") as raw, zipfile.ZipFile(cast(IO[bytes], _Metered(raw))) as file:
        return file.infolist()


def _members(archive: Path, limits: Limits) -> Generator[_Member, None, None]:
    if zipfile.is_zipfile(archive):
        yield from _zipped(archive, limits)
    else:
        yield from _tarred(archive, limits)


def _zipped(archive: Path, limits: Limits) -> Iterator[_Member]:
    entries = zip_entries(archive)
    with zipfile.ZipFile(archive) as file:
        if len(entries) > 2 * limits.files:
            raise _refused(f"holds more than {limits.files} files")
        for entry in entries:
            if entry.is_dir():
                continue
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise _refused(f"holds '{entry.filename[:200]}', which is no plain file (a link or a device)")
            if entry.flag_bits & 0x1:
                raise _refused(f"'{entry.filename[:200]}' is encrypted")
            yield _Member(_plain_path(entry.filename, limits), entry.file_size, file.open(entry))


def _tarred(archive: Path, limits: Limits) -> Iterator[_Member]:
    with open(archive, "rb") as raw:
        unpacked = _PACKED_TAR.get(raw.read(_MAGIC))
    with unpacked(archive) if unpacked else open(archive, "rb") as content:
        try:
            yield from _tar_members(_Metered(content), limits)
        except tarfile.ReadError as error:
            raise _refused("is neither a zip nor a tar file (plain, .gz or .bz2)") from error


def _tar_members(source: _Metered, limits: Limits) -> Iterator[_Member]:
    with tarfile.open(fileobj=cast(IO[bytes], source), mode="r:") as file:
        number = 0
        while (entry := file.next()) is not None:
            number += 1
            if number > 2 * limits.files:
                raise _refused(f"holds more than {limits.files} files")
            if entry.isdir():
                continue
            if not entry.isreg() or entry.issparse():
                raise _refused(f"holds '{entry.name[:200]}', which is no plain file (a link or a device)")
            opened = file.extractfile(entry)
            if opened is None:
                raise _refused(f"'{entry.name[:200]}' cannot be read")
            source.left = sys.maxsize
            yield _Member(_plain_path(entry.name, limits), entry.size, opened)
            source.left = _MAX_TABLE


def _plain_path(name: str, limits: Limits) -> PurePosixPath:
    """A path that stays below the folder it is unpacked to, on every system."""
    path = PurePosixPath(name.removeprefix("./"))
    bad = (
        not path.parts
        or path.is_absolute()
        or ".." in path.parts
        or len(path.parts) > limits.depth
        or len(name) > 500
        or any(char in name for char in '\\\0:*?"<>|')
        or any(len(part.encode("utf-8", "replace")) > 200 or part != part.strip() for part in path.parts)
        or any(ord(char) < 32 or "\ud800" <= char <= "\udfff" for char in name)
    )
    if bad:
        raise _refused(f"holds {name[:200]!r}, which is no plain path below its own folder")
    return path


def _without_wrapper(target: Path) -> None:
    """`my_plugin/manifest.py` lies at `manifest.py` when everything is in that one folder."""
    entries = list(target.iterdir())
    if len(entries) != 1 or not entries[0].is_dir():
        return
    wrapper = entries[0].rename(target.with_name(f"{target.name}.wrapper"))
    target.rmdir()
    wrapper.rename(target)
