"""What the indexer knows of one collection's index."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from mediatheca.kernel.scope import Scope
from mediatheca.stores.index.base import IndexSpec


@dataclass(slots=True)
class IndexState:
    """How far an index is, and what its upkeep has to look at. `lock` is held while any of it changes."""

    scope: Scope
    spec: IndexSpec
    applied: int = 0
    flushed: int = 0
    opened: bool = False
    """Whether the watermark of the index was read: not at once, since documents answer while it cannot be opened."""
    ready: bool = False
    dirty: bool = False
    buried: bool = True
    """There may be tombstones to purge."""
    measured: bool = False
    """Whether a rebuild is due was looked at since the last write."""
    touched: float = field(default_factory=time.monotonic)
    flushed_at: float = field(default_factory=time.monotonic)
    rebuilding: bool = False
    dropped: bool = False
    version: int = 0
    """Moves after every change of what a search finds."""
    lock: threading.RLock = field(default_factory=threading.RLock)
    rebuild_lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def collection_id(self) -> str:
        return self.spec.collection_id
