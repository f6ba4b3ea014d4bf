"""What the operating system is asked to put a file or a directory onto the disk for good."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path


def with_descriptor(path: Path, act: Callable[[int], object]) -> None:
    """Do something with an open file or directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        act(descriptor)
    finally:
        os.close(descriptor)


def _load_syncfs() -> Callable[[int], None] | None:
    """Linux's syncfs(2): everything written to a file system, in one go. None elsewhere."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None, use_errno=True)

    def syncfs(descriptor: int) -> None:
        if library.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    return syncfs


syncfs = _load_syncfs()
"""`syncfs(descriptor)`; None where there is none."""
