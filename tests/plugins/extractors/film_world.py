"""What the tests of extractors of film and sound share: an object, a desk that remembers, rows by kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mediatheca.extractors import Dropped, ExtractContext, Extractor, Item, Row, Source
from mediatheca.kernel.desk import NoDesk
from mediatheca.kernel.models import Models
from mediatheca.testing.extractors import dropped_of, rows_of


@dataclass
class Memory(NoDesk):
    """Remembers steps, and counts what was made anew."""

    held: dict[str, bytes] = field(default_factory=dict)
    counted: Counter[str] = field(default_factory=Counter)

    def recall(self, key: str) -> bytes | None:
        found = self.held.get(key)
        self.counted["made" if found is None else "recalled"] += 1
        return found

    def remember(self, key: str, data: bytes) -> None:
        self.held[key] = data

    def made(self) -> int:
        """Steps made since the last question."""
        return self.counted.pop("made", 0)


@dataclass
class Film:
    """Runs one extractor."""

    extractor: Extractor
    models: Models
    scratch: Path
    desk: Memory = field(default_factory=Memory)
    beats: list[float] = field(default_factory=list)

    def all(self, inputs: dict[str, Iterable[Source]], **params: Any) -> list[Row | Dropped]:
        context = ExtractContext(self.models, self.scratch, self.desk, self.beats.append)
        extract = self.extractor.open(self.extractor.params.model_validate(params), context)
        return list(extract(Item("obj_1", {name: list(given) for name, given in inputs.items()})))

    def rows(self, data: bytes, name: str = "video", **params: Any) -> list[Row]:
        return rows_of(self.all({name: [Source(data=data, key="film")]}, **params))

    def dropped(self, data: bytes, name: str = "video", **params: Any) -> list[Dropped]:
        return dropped_of(self.all({name: [Source(data=data, key="film")]}, **params))


def times(rows: Iterable[Row]) -> list[tuple[float, float]]:
    return [(row.fields["start_time"], row.fields["end_time"]) for row in rows]
