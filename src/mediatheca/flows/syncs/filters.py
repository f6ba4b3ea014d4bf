"""Which files of a listing are taken. Reads no database."""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from mediatheca.connectors import Entry
from mediatheca.flows.syncs.config import FileFilters, zoned
from mediatheca.flows.syncs.globs import glob


class FileFilter:
    """The filters of a sync, ready to be asked.

    `since`: files that were changed before are left out.
    """

    def __init__(self, filters: Mapping[str, Any] | None, since: str | None, prefix: str) -> None:
        self._filters = FileFilters.model_validate(filters or {})
        self._since = zoned(datetime.fromisoformat(since)) if since else None
        self._prefix = prefix
        self._endings = tuple(f".{each.lower().lstrip('.')}" for each in self._filters.extensions)

    def passes(self, entry: Entry) -> bool:
        """Whether the file is taken."""
        name = entry.path.rsplit("/", 1)[-1].lower()
        if not entry.path.startswith(self._prefix) or (self._endings and not name.endswith(self._endings)):
            return False
        return self._size_fits(entry) and self._time_fits(entry) and self._name_fits(entry) and self._type_fits(entry)

    def too_old(self, entry: Entry) -> bool:
        """Whether it was last changed before the sync begins to look."""
        return self._since is not None and entry.modified is not None and entry.modified < self._since

    def _size_fits(self, entry: Entry) -> bool:
        low, high = self._filters.min_size_bytes, self._filters.max_size_bytes
        return (low is None or entry.size >= low) and (high is None or entry.size <= high)

    def _time_fits(self, entry: Entry) -> bool:
        after, before = self._filters.modified_after, self._filters.modified_before
        if after is None and before is None:
            return True
        changed = entry.modified
        return changed is not None and (after is None or changed > after) and (before is None or changed < before)

    def _name_fits(self, entry: Entry) -> bool:
        wanted, unwanted = self._filters.include_patterns, self._filters.exclude_patterns
        return (not wanted or _matches(wanted, entry.path)) and not _matches(unwanted, entry.path)

    def _type_fits(self, entry: Entry) -> bool:
        wanted = self._filters.mime_types
        if not wanted:
            return True
        kind = mime_of(entry)
        return any(kind == each.lower() or (each.endswith("/*") and kind.startswith(each[:-1])) for each in wanted)


def mime_of(entry: Entry) -> str:
    """The media type that the listing says, else that of the name."""
    return (entry.content_type or mimetypes.guess_type(entry.path)[0] or "application/octet-stream").lower()


def _matches(patterns: Sequence[str], path: str) -> bool:
    name = path.rsplit("/", 1)[-1]
    return any(glob(pattern).match(path if "/" in pattern else name) is not None for pattern in patterns)
