"""Typos in queries: which words of a collection are near to a word, and in which order documents with them come.

Documents come in buckets: the word as asked, then words that begin with it, then those one typo away, then two. Typos
are insertions, deletions, replacements and swaps of neighbours (optimal string alignment). Numbers, words with digits
and words beside digits (`AB-1234`) are never changed: another number is another thing.
"""

from __future__ import annotations

import re
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.passages import words
from mediatheca.kernel.search import Fuzziness

LEVELS = ("exact", "prefix", "1 typo", "2 typos")
MAX_LENGTH = 32
MIN_LENGTH = 3
MAX_WORDS = 1_000_000
"""Words a vocabulary holds at most; later ones are found as they are, but not under a wrong spelling."""
VARIANTS = 6
"""Spellings tried for one word at one level."""
MAX_CHANGED = 8
"""Words of a query that other spellings are looked for: a text in another language has none to correct."""
_CHUNK = re.compile(r"\S+")
_NO_LETTERS = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\uffef]")
"""Scripts without spaces between words (Thai, Lao, Burmese, Khmer, CJK): a run of characters is not one word."""


def correctable(word: str) -> bool:
    """A word in which a typo can be told from another word: letters only, of a script that separates words."""
    return MIN_LENGTH <= len(word) <= MAX_LENGTH and word.isalpha() and _NO_LETTERS.search(word) is None


def vocabulary_of(text: str) -> set[str]:
    """The words of a text that can be what a typo meant."""
    return {word for word in set(words(text)) if correctable(word)}


class Vocabulary:
    """The words of a collection. It only grows: whether a word still stands somewhere is for its user to check.

    Thread-safe. A search looks at every word, cheaply: at 100,000 words it takes about half a millisecond.
    """

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, None] = dict.fromkeys(known)
        self._listed: list[str] = []
        self._masks: npt.NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._lengths: npt.NDArray[np.uint8] = np.zeros(0, np.uint8)
        self._sorted: list[str] = []

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, word: object) -> bool:
        return word in self._known

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._known))

    def add(self, found: Iterable[str]) -> list[str]:
        """Take words over; those that were new."""
        with self._lock:
            new = [word for word in found if word not in self._known][: MAX_WORDS - len(self._known)]
            self._known.update(dict.fromkeys(new))
        return new

    def near(self, word: str, edits: int) -> dict[int, list[str]]:
        """Number of typos → other words at that distance, 1 to `edits`."""
        from rapidfuzz import process
        from rapidfuzz.distance import OSA

        listed, masks, lengths = self._arrays()
        # A typo changes the set of letters by at most two; what is left after that is compared in full.
        apart = np.bitwise_count(masks ^ _masks([word])[0])
        close = np.flatnonzero((apart <= 2 * edits) & (np.abs(lengths.astype(np.int16) - len(word)) <= edits))
        candidates = [listed[place] for place in close.tolist()]
        found: dict[int, list[str]] = {}
        for other, distance, _ in process.extract(word, candidates, scorer=OSA.distance, score_cutoff=edits, limit=200):
            if distance:
                found.setdefault(int(distance), []).append(other)
        return found

    def starting(self, prefix: str, limit: int) -> list[str]:
        """Longer words that begin with `prefix`, the shortest first."""
        with self._lock:
            if len(self._sorted) != len(self._known):
                ordered = [*self._sorted, *islice(self._known, len(self._sorted), None)]
                ordered.sort()  # all but the end is in order, which costs next to nothing
                self._sorted = ordered
            ordered = self._sorted
        first = bisect_left(ordered, prefix)
        last = bisect_left(ordered, prefix + "\U0010ffff", first, min(first + 2000, len(ordered)))
        return sorted((word for word in ordered[first:last] if word != prefix), key=lambda w: (len(w), w))[:limit]

    def _arrays(self) -> tuple[list[str], npt.NDArray[np.uint64], npt.NDArray[np.uint8]]:
        with self._lock:
            if len(self._listed) != len(self._known):
                new = list(islice(self._known, len(self._listed), None))
                self._listed.extend(new)
                self._masks = np.concatenate([self._masks, _masks(new)])
                self._lengths = np.concatenate([self._lengths, np.fromiter(map(len, new), np.uint8, len(new))])
            return self._listed, self._masks, self._lengths


def _masks(listed: Sequence[str]) -> npt.NDArray[np.uint64]:
    """The set of letters of each word, hashed to 64 bits."""
    if not listed:
        return np.zeros(0, np.uint64)
    codes = np.array([word[:MAX_LENGTH] for word in listed], f"U{MAX_LENGTH}").view(np.uint32)
    codes = codes.reshape(len(listed), MAX_LENGTH)
    bits = np.where(codes > 0, np.uint64(1) << (codes % 64).astype(np.uint64), np.uint64(0))
    made: npt.NDArray[np.uint64] = np.bitwise_or.reduce(bits, axis=1)
    return made


@dataclass(frozen=True, slots=True)
class Bucket:
    """One way to spell the query. `groups`: the spellings of each of its words; a document needs one of a group."""

    level: int
    groups: tuple[tuple[str, ...], ...]

    @property
    def text(self) -> str:
        return " ".join(word for group in self.groups for word in group)


@dataclass(slots=True)
class Spelling:
    """A query and its other spellings, best first."""

    buckets: list[Bucket]
    corrections: dict[str, str] = field(default_factory=dict)
    """Word that stands nowhere → the one that was most likely meant."""


def allowed_edits(word: str, fuzziness: Fuzziness) -> int:
    """How many typos a word may have: short ones would become any other."""
    if fuzziness == "auto":
        return 0 if len(word) < 4 else 1 if len(word) < 6 else 2
    return min(int(fuzziness), 0 if len(word) < MIN_LENGTH else 1 if len(word) < 5 else 2)


def spellings(
    text: str,
    fuzziness: Fuzziness,
    vocabulary: Vocabulary,
    known: Callable[[str], bool],
    frequency: Callable[[str], int],
) -> Spelling:
    """The buckets of a query. Without typos, or without anything near, there is one: the words as they are.

    Args:
        known: whether a word stands somewhere.
        frequency: in how many documents.
    """
    asked = list(dict.fromkeys(words(text)))
    plain = Bucket(0, tuple((word,) for word in asked))
    changeable = {word for chunk in _CHUNK.findall(text.lower()) if not any(c.isdigit() for c in chunk)
                  for word in words(chunk) if correctable(word)}  # fmt: skip
    missing = {word for word in asked if word in changeable and not known(word)}
    looked_for = [word for word in asked if word in changeable and (fuzziness != "auto" or word in missing)]
    looked_for = looked_for[:MAX_CHANGED]
    missing &= set(looked_for)
    if fuzziness == 0 or not looked_for:
        return Spelling([plain])
    variants = {word: _variants(word, allowed_edits(word, fuzziness), vocabulary, frequency) for word in looked_for}
    base = {word: min(variants[word], default=0) for word in missing}
    first = Bucket(
        max((base[word] for word in base), default=0),
        tuple(variants[word][base[word]] if base.get(word) else (word,) for word in asked),
    )
    buckets = [first] + [
        Bucket(level, groups)
        for level in (1, 2, 3)
        if (groups := tuple(
            variants[word][level] for word in looked_for if level > base.get(word, 0) and level in variants[word]
        ))
    ]  # fmt: skip
    return Spelling(buckets, {word: variants[word][level][0] for word, level in base.items() if level})


def _variants(
    word: str, edits: int, vocabulary: Vocabulary, frequency: Callable[[str], int]
) -> dict[int, tuple[str, ...]]:
    """Level (1 prefix, 2 one typo, 3 two) → spellings that stand somewhere, the most likely first."""
    if not edits:
        return {}
    found = {1: vocabulary.starting(word, VARIANTS)}
    found |= {distance + 1: near for distance, near in vocabulary.near(word, edits).items()}
    seen: set[str] = set()
    made: dict[int, tuple[str, ...]] = {}
    for level in sorted(found):
        fresh = sorted((w for w in found[level] if w not in seen), key=lambda w: _unlike(word, w, 0))[: 2 * VARIANTS]
        counted = sorted(_unlike(word, w, number) for w in fresh if (number := frequency(w)))
        if counted:
            made[level] = tuple(entry[-1] for entry in counted[:VARIANTS])
            seen.update(made[level])
    return made


def _unlike(word: str, other: str, frequency: int) -> tuple[bool, int, int, str]:
    """Typos in the first letter are rare; of the rest, what stands in many documents is more likely meant."""
    return (word[0] != other[0], -frequency, abs(len(word) - len(other)), other)


def corrected(text: str, corrections: dict[str, str]) -> str:
    """The text with its words replaced, everything between them as it was."""
    return re.sub(r"\w+", lambda match: corrections.get(match[0].lower(), match[0]), text)


def cut_words(text: str, most: int) -> tuple[str, int]:
    """The text up to its `most`-th different word, and how many different words it has."""
    seen: set[str] = set()
    end = len(text)
    for match in re.finditer(r"\w+", text):
        word = match[0].lower()
        if word in seen:
            continue
        if len(seen) == most:
            end = min(end, match.start())
        seen.add(word)
    return text[:end], len(seen)
