"""The files around the Edge shards of one root directory, and what survives a crash at any moment.

    <root>/.lock                     held (flock) by the process that owns the root
    <root>/<collection>/CURRENT      name of the generation that answers; replaced atomically
    <root>/<collection>/<generation>/{shard/, spec.json, watermark.json}

A rebuild fills a new generation, then CURRENT is replaced: shard, specification and watermark change in one step.
Whatever CURRENT does not name is rubbish of an interrupted rebuild and is removed when the collection is opened.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mediatheca.kernel.documents import VectorIndex
from mediatheca.kernel.errors import UnavailableError
from mediatheca.stores.index.base import IndexSpec

_CORRUPT = "corrupt-"
RESERVE = 64 << 20
"""Free bytes below which shards are neither opened nor written: their files are sparse and mapped into memory, and the
kernel answers a write to a mapped page that finds no room on the disk with SIGBUS, which ends the process."""


def write_durably(path: Path, content: str) -> None:
    """Replace a file in one step that survives power loss."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_space(root: Path) -> None:
    """Raises UnavailableError when the disk is as good as full."""
    disk = os.statvfs(root)
    free = disk.f_bavail * disk.f_frsize
    if free < RESERVE:
        raise UnavailableError(
            f"index directory '{root}': the disk is full ({free >> 20} MiB free, {RESERVE >> 20} are kept in reserve). "
            "Free some space: documents answer meanwhile, and the index catches up by itself."
        )


def lock_root(root: Path) -> int:
    """Take the root for this process; the descriptor that holds the lock.

    Raises:
        UnavailableError: another process (or another index object of this one) has it, or it cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UnavailableError(
            f"index directory '{root}' cannot be used: {error.strerror}. Check its owner."
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise UnavailableError(
            f"index directory '{root}' is in use by another process. Stop that one, or give this one its own directory."
        ) from error
    return descriptor


class CollectionFiles:
    """Paths and small files of one collection."""

    def __init__(self, root: Path, collection_id: str) -> None:
        name = quote(collection_id, safe="").replace(".", "%2E")
        if len(name) > 200:
            name = hashlib.sha256(collection_id.encode()).hexdigest()
        self.directory = root / name

    def current(self) -> Path | None:
        """The directory of the generation that answers."""
        try:
            name = (self.directory / "CURRENT").read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return None
        path = self.directory / name
        return path if name and "/" not in name and path.is_dir() else None

    def new_generation(self) -> Path:
        path = self.directory / f"gen-{uuid.uuid4().hex}"
        (path / "shard").mkdir(parents=True)
        return path

    def make_current(self, generation: Path) -> None:
        """The one step that swaps generations."""
        sync_directory(generation)
        write_durably(self.directory / "CURRENT", generation.name)
        sync_directory(self.directory.parent)

    def clean(self) -> None:
        """Remove what an interrupted rebuild or write left behind."""
        current = self.current()
        for path in self.directory.iterdir() if self.directory.is_dir() else ():
            if path.is_dir() and path != current and not path.name.startswith(_CORRUPT):
                shutil.rmtree(path, ignore_errors=True)
            elif path.name.startswith(".CURRENT."):
                path.unlink(missing_ok=True)

    def set_aside(self, generation: Path) -> Path:
        """Keep a damaged generation for a look, the latest one only."""
        for old in self.directory.glob(f"{_CORRUPT}*"):
            shutil.rmtree(old, ignore_errors=True)
        target = self.directory / f"{_CORRUPT}{generation.name}"
        os.replace(generation, target)
        return target

    def drop(self) -> None:
        """Remove the collection: first it stops being current, so that half a removal is none to open."""
        (self.directory / "CURRENT").unlink(missing_ok=True)
        shutil.rmtree(self.directory, ignore_errors=True)


def read_watermark(generation: Path) -> int:
    """0 when the file is missing or damaged: everything is replayed."""
    try:
        value = json.loads((generation / "watermark.json").read_text(encoding="utf-8"))["watermark"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return value if isinstance(value, int) and value > 0 else 0


def write_watermark(generation: Path, watermark: int) -> None:
    write_durably(generation / "watermark.json", json.dumps({"watermark": watermark}))


def write_spec(generation: Path, spec: IndexSpec) -> None:
    write_durably(generation / "spec.json", json.dumps(asdict(spec)))


def read_spec(generation: Path) -> IndexSpec:
    """Raises OSError, ValueError, KeyError or TypeError when there is none that can be read."""
    content: dict[str, Any] = json.loads((generation / "spec.json").read_text(encoding="utf-8"))
    vectors = tuple(VectorIndex(**{**v, "modalities": tuple(v["modalities"])}) for v in content["vectors"])
    return IndexSpec(content["collection_id"], vectors, dict(content["fields"]), dict(content.get("languages", {})))


def allocated_bytes(path: Path) -> int:
    """Disk really used: the files are sparse, their lengths say ten times more."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total
