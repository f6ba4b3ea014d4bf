"""What processes of this machine left on its disk when they were killed: scratch folders, archives half unpacked."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from mediatheca.jobs.runner_pool import sweep_scratch

STALE_S = 2 * 24 * 3600.0
"""Nothing that still runs has begun so long ago."""
_TEMPORARY = ("mediatheca-compute-*", "mediatheca-export-*", "mediatheca-model-*", "mediatheca-plugin-*")
_UNPACKING = re.compile(r"\.[0-9a-f-]{32,36}(\.archive)?")


def sweep_leftovers(scratch: Path, archives: Iterable[Path]) -> None:
    """Remove them: below `scratch` those of runners that are gone, known by their free lock; by age what lies in the
    system's folder for temporary files, and what was being unpacked in the folders `archives`."""
    sweep_scratch(scratch)
    system = Path(tempfile.gettempdir())
    found = [left for pattern in _TEMPORARY for left in system.glob(pattern)]
    for folder in archives:
        found += [left for left in folder.glob(".*") if _UNPACKING.fullmatch(left.name)]
    oldest = time.time() - STALE_S
    for left in found:
        with contextlib.suppress(OSError):  # somebody else's, or gone
            if left.lstat().st_mtime < oldest:
                _remove(left)


def _remove(left: Path) -> None:
    if left.is_dir() and not left.is_symlink():
        shutil.rmtree(left, ignore_errors=True)
    else:
        left.unlink()
