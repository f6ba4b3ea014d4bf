"""The vectors of the latest queries: of texts, of files, and of the pieces of long ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TypeAlias

from mediatheca.kernel.search import QueryPiece

MAX_ENTRIES = 2048
MAX_BYTES = 128 << 20
"""Of all vectors together: five hundred pages with a vector for every patch may have as much."""
Key: TypeAlias = tuple[str, str, str]
"""Weights; what for; the text, or the hash of the content and of what is done with it."""
Pieces: TypeAlias = tuple[QueryPiece, ...]
"""One for what is not cut."""


class VectorCache:
    """Least recently used first out, bounded by entries and by bytes. Used on the event loop only."""

    def __init__(self, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        self._max_entries, self._max_bytes = max_entries, max_bytes
        self._held: OrderedDict[Key, Pieces] = OrderedDict()
        self._bytes = 0

    def find(self, key: Key) -> Pieces | None:
        found = self._held.get(key)
        if found is not None:
            self._held.move_to_end(key)
        return found

    def keep(self, key: Key, pieces: Sequence[QueryPiece]) -> Pieces:
        """What was given; nobody may change its vectors any more. What is larger than all of the cache is not kept."""
        kept = tuple(pieces)
        for piece in kept:
            piece.vector.setflags(write=False)
        size = _size(kept)
        if size > self._max_bytes:
            return kept
        self._bytes += size - _size(self._held.pop(key, ()))
        self._held[key] = kept
        while len(self._held) > self._max_entries or self._bytes > self._max_bytes:
            self._bytes -= _size(self._held.popitem(last=False)[1])
        return kept


def _size(pieces: Pieces) -> int:
    return sum(piece.vector.nbytes for piece in pieces)
