"""Model files: hashing with a memory, whole-or-nothing writes, and building something once among many processes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mediatheca.kernel.errors import UnavailableError

DATA = Path(__file__).parent / "data"
"""Files that travel with the package: tokenizer, labels, golden vectors."""

_MEMORY = "hashes.json"


def digest(*parts: str) -> str:
    """`sha256:…` over strings, each closed by a newline so that parts cannot run into each other."""
    return "sha256:" + hashlib.sha256("".join(f"{part}\n" for part in parts).encode()).hexdigest()


def sha256_of(path: Path, memory: Path | None = None) -> str:
    """Hex sha256 of a file. `memory`: a folder that remembers hashes by path, size and modification time."""
    stat = path.stat()
    key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    known = _remembered(memory)
    if key in known:
        return known[key]
    with path.open("rb") as file:
        value = hashlib.file_digest(file, "sha256").hexdigest()
    if memory is not None:
        _remember(memory, key, value)
    return value


def _remembered(memory: Path | None) -> dict[str, str]:
    if memory is None:
        return {}
    try:
        known = json.loads((memory / _MEMORY).read_text())
    except (OSError, ValueError):  # absent, unreadable or torn: the hash is simply computed again
        return {}
    return known if isinstance(known, dict) else {}


def _remember(memory: Path, key: str, value: str) -> None:
    """Keep a hash for the next process; entries of the same path with another size or time are dropped."""
    path = key.split("|", 1)[0] + "|"
    # A read-only models folder costs time, not correctness.
    with contextlib.suppress(OSError), exclusive(memory / f"{_MEMORY}.lock"):
        known = {k: v for k, v in _remembered(memory).items() if not k.startswith(path)}
        with replacing(memory / _MEMORY) as temporary:
            temporary.write_text(json.dumps({**known, key: value}, indent=0))


def verify(path: Path, expected: str, what: str, hint: str, memory: Path | None = None) -> None:
    """Refuse a file that is not the pinned one.

    Raises:
        UnavailableError: absent, or its sha256 differs; names both hashes.
    """
    if not path.is_file():
        raise UnavailableError(f"{what}: {path} is missing; {hint}")
    found = sha256_of(path, memory)
    if found != expected:
        raise UnavailableError(
            f"{what}: {path} is not the file this version was checked with (sha256 {found}, not {expected}); {hint}"
        )


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A temporary path beside `target` that becomes it on success and vanishes on failure."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=target.suffix, dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp makes it private; several accounts may share a models folder
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """One process at a time. The kernel drops the lock when a holder dies, so a crash cannot leave it held."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+b") as file:
        _lock(file.fileno())
        yield


def _lock(fileno: int) -> None:
    """Blocks until held; closing the file releases it."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(fileno, msvcrt.LK_LOCK, 1)
    else:
        import fcntl

        fcntl.flock(fileno, fcntl.LOCK_EX)


def build_once(target: Path, inputs: Mapping[str, str], make: Callable[[Path], None], memory: Path) -> Path:
    """Make a derived file the first time it is asked for, by one process; everybody else waits for it.

    A note beside the file says what it was made of and its own sha256. A file that no longer matches its note (a torn
    disk, another recipe) is made again: the pinned inputs are the truth, the file is derived.

    Args:
        inputs: what the file depends on (name → sha256 or version).
        make: writes the file to the path it is given, and checks it; an exception leaves nothing behind.

    Raises:
        UnavailableError: the folder cannot be written.
    """
    if _intact(target, inputs, memory):  # without the lock: a prepared models folder may be read-only
        return target
    try:
        with exclusive(target.with_name(f"{target.name}.lock")):
            if not _intact(target, inputs, memory):
                with replacing(target) as temporary:
                    make(temporary)
                with replacing(_note(target)) as temporary:
                    temporary.write_text(json.dumps({"inputs": dict(inputs), "sha256": sha256_of(target, memory)}))
    except OSError as error:
        raise UnavailableError(f"cannot write {target}: {error}; check MEDIATHECA_MODELS_DIR and the disk") from error
    return target


def _note(target: Path) -> Path:
    return target.with_name(f"{target.name}.json")


def _intact(target: Path, inputs: Mapping[str, str], memory: Path) -> bool:
    try:
        note = json.loads(_note(target).read_text())
        return bool(note == {"inputs": dict(inputs), "sha256": sha256_of(target, memory)})
    except (OSError, ValueError):
        return False
