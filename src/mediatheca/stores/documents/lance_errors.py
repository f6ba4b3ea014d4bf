"""What Lance raises, said in our terms: the storage refused, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from mediatheca.kernel.errors import MediathecaError, UnavailableError

_NEXT_STEPS = (
    (("commit conflict",), "another writer commits to this table: retry while holding its lease"),
    (("os error 28", "no space left", "os error 122", "quota"), "the disk is full: free space, then retry"),
    (("os error 27", "file too large"), "a file-size limit was hit: raise it (ulimit -f), then retry"),
    (("os error 13", "os error 1)", "permission denied", "accessdenied", "forbidden"), "give the server access to it"),
    (("os error 30", "read-only"), "it is mounted read-only: mount it writable"),
    (("os error 20", "not a directory"), "a file is in the way: point MEDIATHECA_DOCUMENTS_URL at a directory"),
    (("not found", "os error 2)"), "files are missing: check the mount, or restore them from a backup"),
)


@contextmanager
def lance_errors(action: str, where: str) -> Iterator[None]:
    """Turn every error of Lance, Arrow and the file system into `UnavailableError` with the next step."""
    try:
        yield
    except MediathecaError:
        raise
    except (OSError, ValueError, RuntimeError, pa.ArrowException) as error:
        raise _unavailable(action, where, error) from error
    except BaseException as error:
        # A Rust panic arrives as a BaseException and would end the worker thread in silence.
        if type(error).__name__ != "PanicException":
            raise
        raise _unavailable(action, where, error) from error


def is_missing(error: BaseException) -> bool:
    """Whether the error says that a table or one of its files does not exist."""
    text = str(error).lower()
    return "not found" in text or "os error 2)" in text


def _unavailable(action: str, where: str, error: BaseException) -> UnavailableError:
    reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
    text = str(error).lower()
    step = next(
        (step for signs, step in _NEXT_STEPS if any(sign in text for sign in signs)),
        "check the storage behind MEDIATHECA_DOCUMENTS_URL, then retry",
    )
    return UnavailableError(f"documents: cannot {action} at {where}: {step} ({reason})", details={"backend": "lance"})
