"""The words of a shard's text fields, beside it in one file: what a misspelt query word is compared with.

Words are appended before the shard is flushed, so a watermark never promises words that are not there. A word that no
document holds any more stays until the next rebuild; whoever uses one asks the index whether it still stands somewhere.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mediatheca.kernel.spelling import Vocabulary, vocabulary_of
from mediatheca.stores.index.shard_files import write_durably

NAME = "words.txt"


class WordList:
    """The words of one generation. The file is read when a word is first asked for or written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: Vocabulary | None = None
        self._unwritten: list[str] = []
        self._filling = False

    @property
    def complete(self) -> bool:
        """False for a shard of an earlier version, whose words were never listed."""
        return self._path.exists()

    def start(self) -> None:
        """An empty list, for a fresh shard."""
        self._path.touch()

    def vocabulary(self) -> Vocabulary:
        if self._held is None:
            text = self._path.read_text(encoding="utf-8", errors="replace") if self.complete else ""
            self._held = Vocabulary(text.split())
        return self._held

    def add(self, payloads: Iterable[Mapping[str, Any]], fields: Collection[str]) -> None:
        """The words of text fields. A list that is not complete stays as it is until it is filled."""
        if fields and (self._filling or self.complete):
            self._unwritten += self.vocabulary().add(words_in(payloads, fields))

    def fill(self, payloads: Iterable[Mapping[str, Any]], fields: Collection[str]) -> None:
        """Make a list where there was none; what is written meanwhile is added to it."""
        self._filling = True
        try:
            self.vocabulary().add(words_in(payloads, fields))
            self._unwritten = []  # what is added from here on is written by the next flush
            write_durably(self._path, "\n".join([*self.vocabulary(), ""]))
        finally:
            self._filling = False

    def forget(self) -> None:
        """The list lacks the words of a field that became searchable only now: it is made again when next needed."""
        self._path.unlink(missing_ok=True)

    def flush(self) -> None:
        """Append what is new and force it to disk."""
        if not self._unwritten or not self.complete:
            return
        written = list(self._unwritten)
        with self._path.open("a", encoding="utf-8") as file:
            file.write("\n".join(written) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._unwritten = self._unwritten[len(written) :]


def words_in(payloads: Iterable[Mapping[str, Any]], fields: Collection[str]) -> set[str]:
    """The words of these fields that can be what a typo meant."""
    texts = (text for payload in payloads for field in fields for text in texts_at(payload, field.split(".")))
    return {word for text in texts for word in vocabulary_of(text)}


def texts_at(value: Any, path: list[str]) -> Iterator[str]:
    """What a text index sees at a path: it opens the list at the end, none on the way."""
    for part in path:
        if not isinstance(value, Mapping):
            return
        value = value.get(part)
    yield from (text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str))
