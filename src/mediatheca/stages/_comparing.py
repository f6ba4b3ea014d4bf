"""Texts of documents compared piece by piece with reference texts, for the `cross_compare` stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from mediatheca.kernel.ordering import read_field
from mediatheca.kernel.search import Hit
from mediatheca.stages._fields import as_text

Mode: TypeAlias = Literal["raw", "lines", "labels", "list"]
MAX_PIECES = 200
"""Of one document."""
MAX_EXACT = 100_000
"""Characters of a piece that are compared for equality."""
MAX_FUZZY = 4000
"""Characters of a piece whose similarity is measured."""
ROWS_AT_ONCE = 100
_LABEL_KEYS = ("label", "name", "text", "class", "tag")
GENERIC = frozenset(
    {
        *("background", "image", "item", "label", "logo", "n/a", "na", "none", "null", "object", "other", "person"),
        *("photo", "picture", "scene", "text", "thing", "undefined", "unknown", "unlabeled", "video"),
    }
)
"""Labels that say nothing."""


@dataclass(slots=True)
class Match:
    """The best partner that one tier found."""

    row: int
    """The reference document."""
    text: str | None
    score: float


@dataclass(slots=True)
class Pieces:
    """The pieces of documents, and which document each is of."""

    texts: list[str] = field(default_factory=list)
    total: int = 0
    rows: list[int] = field(default_factory=list)
    exact: dict[str, int] = field(default_factory=dict)
    """Normalised text → first piece."""


def normal(text: str) -> str:
    """A text without case, blanks as one space."""
    return " ".join(text.split()).casefold()


def pieces(hit: Hit, path: str, mode: Mode, *, drop_generic: bool) -> list[str]:
    """What is compared of a document: the whole text, its lines, its labels, or the entries of a list."""
    value = read_field(hit, path)
    if mode == "raw":
        found = [as_text(value).strip()]
    elif mode == "lines":
        found = [line.strip() for line in as_text(value).splitlines()]
    else:
        found = list(_labels(value) if mode == "labels" else _entries(value))
    kept = dict.fromkeys(text[:MAX_EXACT] for text in found if text)
    if mode == "labels" and drop_generic:
        return [text for text in kept if normal(text) not in GENERIC]
    return list(kept)


def _entries(value: Any) -> Iterator[str]:
    for entry in value if isinstance(value, list) else [value]:
        yield as_text(_named(entry)).strip()


def _labels(value: Any) -> Iterator[str]:
    """Labels as a list, as objects, as the keys of an object, or in a text with commas."""
    if isinstance(value, Mapping) and not any(key in value for key in _LABEL_KEYS):
        value = list(value)
    if isinstance(value, str):
        value = value.replace(";", ",").split(",")
    yield from _entries(value)


def _named(entry: Any) -> Any:
    if isinstance(entry, Mapping):
        return next((entry[key] for key in _LABEL_KEYS if isinstance(entry.get(key), str)), None)
    return entry


def gather(hits: Sequence[Hit], path: str, mode: Mode, most: int, *, drop_generic: bool) -> Pieces:
    """The pieces of all documents, at most `most`; `total` tells how many there would be."""
    made = Pieces()
    for row, hit in enumerate(hits):
        found = pieces(hit, path, mode, drop_generic=drop_generic)
        made.total += len(found)
        for text in found[: min(MAX_PIECES, most - len(made.texts))]:
            made.exact.setdefault(normal(text), len(made.texts))
            made.texts.append(text)
            made.rows.append(row)
    return made


def exact_matches(texts: Sequence[str], known: Pieces) -> list[Match | None]:
    """The same text but for case and blanks."""
    places = [known.exact.get(normal(text)) for text in texts]
    return [None if place is None else Match(known.rows[place], known.texts[place], 1.0) for place in places]


def fuzzy_matches(texts: Sequence[str], known: Pieces, threshold: float) -> list[Match | None]:
    """The most similar piece from a threshold on: 2 · (longest common subsequence) / (length of both)."""
    if not known.texts:
        return [None] * len(texts)
    from rapidfuzz import fuzz, process

    others = [normal(text)[:MAX_FUZZY] for text in known.texts]
    made: list[Match | None] = []
    for start in range(0, len(texts), ROWS_AT_ONCE):
        own = [normal(text)[:MAX_FUZZY] for text in texts[start : start + ROWS_AT_ONCE]]
        scores = process.cdist(own, others, scorer=fuzz.ratio, score_cutoff=threshold * 100, dtype=np.float32)
        for row, place in enumerate(scores.argmax(axis=1)):
            score = float(scores[row, place]) / 100
            good = score > 0 and score >= threshold - 1e-6
            made.append(Match(known.rows[place], known.texts[place], score) if good else None)
    return made
