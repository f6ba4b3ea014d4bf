"""Power loss: Lance writes local files without fsync (seen with strace, pylance 14.0.2), so the adapter does it.

Order of a commit: data and deletion files are forced to disk, then the manifest that names them is written, then the
manifest is forced. A manifest on disk therefore only names whole files; the one that can be torn is the newest, which
nobody has been told about yet, and it is set aside when it cannot be read. Object stores need none of this.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

_MAGIC = b"LANC"
"""Manifests and Lance files end with it."""
_AT_ONCE = 8
"""Files forced at the same time: a busy disk takes eight in about the time of one or two."""


class Fragment(Protocol):
    """The part of `lance.FragmentMetadata` used here."""

    id: int
    files: list[Any]
    deletion_file: Any


def local_root(uri: str) -> Path | None:
    """The directory behind a plain path or `file://` URI; None for an object store."""
    if uri.startswith("file://"):
        return Path(uri.removeprefix("file://"))
    return None if "://" in uri else Path(uri)


class TableFiles:
    """The files of one table; every method does nothing for a table in an object store."""

    def __init__(self, uri: str) -> None:
        self._root = local_root(uri)

    def sync_fragments(self, added: Iterable[Fragment], changed: Iterable[Fragment] = ()) -> None:
        """Force the files that a commit is about to name: data of added fragments, deletions of changed ones."""
        if self._root is None:
            return
        paths = [self._root / "data" / file.path for fragment in added for file in fragment.files]
        paths += [
            self._root / fragment.deletion_file.path(fragment.id)
            for fragment in changed
            if fragment.deletion_file is not None
        ]
        _force([*paths, *{path.parent for path in paths}])

    def sync_manifest(self, version: int) -> None:
        """Force the manifest of a version that was just committed."""
        if self._root is not None:
            versions = self._root / "_versions"
            _force([versions / f"{(1 << 64) - 1 - version:020d}.manifest", versions])

    def index_parts(self) -> set[str]:
        """The index segments on disk now; what is new after maintenance has to be forced."""
        directory = self._root / "_indices" if self._root else None
        return set(os.listdir(directory)) if directory and directory.exists() else set()

    def sync_indexes(self, before: set[str], version: int) -> None:
        """Force the index segments made since `before`, and the manifest that names them."""
        if self._root is None:
            return
        new = self.index_parts() - before
        parts = [self._root / "_indices" / part for part in new]
        if parts:
            _force([*(path for part in parts for path in part.iterdir()), *parts, self._root / "_indices"])
        self.sync_manifest(version)

    def sync_all(self) -> None:
        """Force the whole table: for what happens rarely, as its creation."""
        if self._root is None or not self._root.exists():
            return
        _force([*self._root.rglob("*"), self._root, self._root.parent])

    def set_aside_torn_manifests(self) -> None:
        """Rename the newest manifests that power loss tore: no caller was told of them."""
        if self._root is None:
            return
        # Names count down, so the newest version sorts first.
        for manifest in sorted((self._root / "_versions").glob("*.manifest")):
            if _whole(manifest):
                return
            manifest.rename(manifest.with_suffix(".torn"))
            _fsync(manifest.parent)

    def remove(self) -> bool:
        """Delete the table's directory, whatever its state. False for an object store, where Lance has to do it."""
        if self._root is None:
            return False
        if self._root.exists():
            shutil.rmtree(self._root)
            _fsync(self._root.parent)
        return True

    def torn(self, index_segment: str) -> bool:
        """Whether a file of this index segment was torn by power loss."""
        if self._root is None:
            return False
        return not all(_whole(path) for path in (self._root / "_indices" / index_segment).glob("*.lance"))


def _whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        if file.tell() < len(_MAGIC):
            return False
        file.seek(-len(_MAGIC), os.SEEK_END)
        return file.read() == _MAGIC


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="fsync")


def _force(paths: Sequence[Path]) -> None:
    """Force files and directories, in any order; when it returns all are on disk."""
    for _ in _threads().map(_fsync, paths):
        pass


def _fsync(path: Path) -> None:
    """A file that a cleanup removed meanwhile needs no forcing."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
