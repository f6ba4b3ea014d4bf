"""New texts against standing word queries: which queries hold enough words of a text.

The postings are turned round: word → the queries that ask for it. A text is looked up by its own words, so its cost is
that of its words and of the queries they stand in, whatever the number of queries. Words are what the search index
makes of them (numbers, stems in fields with a language); this module only compares them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.search import Fuzziness
from mediatheca.kernel.spelling import Vocabulary, allowed_edits

MAX_REMEMBERED = 200_000
"""Words of texts whose neighbours among the words of queries are remembered."""


@dataclass(frozen=True, slots=True)
class WordQuery:
    """A standing word query. `groups`: for each word that counts, field → what the index makes of it there; a text
    holds the word when one of its fields holds any of these."""

    groups: Sequence[Mapping[str, Collection[Hashable]]]
    minimum: int = 1
    """How many of the groups a text must hold."""
    changeable: Collection[str] = ()
    """Words that may stand there in another spelling."""
    fuzziness: Fuzziness = 0


@dataclass(frozen=True, slots=True)
class Held:
    """The queries that a text holds enough words of: as they are asked, or only with other spellings."""

    exact: list[int]
    near: list[int]


class StandingWords:
    """Many word queries over the fields of one collection."""

    def __init__(self, queries: Sequence[WordQuery]) -> None:
        self._minimum = np.asarray([max(1, min(q.minimum, len(q.groups))) for q in queries], np.int64)
        self._changeable: dict[tuple[str, int], list[int]] = defaultdict(list)
        """A word and the typos it may have → where it is asked for."""
        self._widest = max((len(q.groups) for q in queries), default=1) or 1
        postings: dict[tuple[str, Hashable], set[int]] = defaultdict(set)
        for number, query in enumerate(queries):
            for place, group in enumerate(query.groups):
                for name, words in group.items():
                    for word in words:
                        postings[name, word].add(number * self._widest + place)
            for word in query.changeable:
                self._changeable[word, allowed_edits(word, query.fuzziness)].append(number)
        self._postings = {key: np.fromiter(sorted(held), np.int64, len(held)) for key, held in postings.items()}
        self._near: dict[str, list[tuple[str, int]]] = {}
        self._asked = Vocabulary({word for word, _ in self._changeable})
        self._edits: dict[str, set[int]] = defaultdict(set)
        for word, edits in self._changeable:
            self._edits[word].add(edits)
        self._most_edits = max((edits for held in self._edits.values() for edits in held), default=0)

    def holding(self, texts: Mapping[str, Collection[Hashable]], spelled: Iterable[str]) -> Held:
        """The queries that one document satisfies.

        Args:
            texts: field → its words, as the index knows them.
            spelled: the words of all fields as they are written, for other spellings.
        """
        held = self._enough(self._places(texts))
        return Held(held, sorted(self._nearly(spelled) - set(held)))

    def _places(self, texts: Mapping[str, Collection[Hashable]]) -> npt.NDArray[np.int64]:
        parts = [
            found for name, words in texts.items() for word in words
            if (found := self._postings.get((name, word))) is not None
        ]  # fmt: skip
        return np.unique(np.concatenate(parts)) if parts else np.zeros(0, np.int64)

    def _enough(self, places: npt.NDArray[np.int64]) -> list[int]:
        queries, counted = np.unique(places // self._widest, return_counts=True)
        found: list[int] = queries[counted >= self._minimum[queries]].tolist()
        return found

    def _nearly(self, spelled: Iterable[str]) -> set[int]:
        """The queries for one of whose words a word of a text may stand. One is enough: documents that hold only other
        spellings are found after the rest, whichever words those are for."""
        if not self._changeable:
            return set()
        return {
            query
            for word in set(spelled)
            for asked, distance in self._asked_near(word)
            for edits in self._edits[asked]
            if distance <= edits
            for query in self._changeable[asked, edits]
        }

    def _asked_near(self, word: str) -> list[tuple[str, int]]:
        """The words of queries that this word of a text may stand for, and their distance; 0: it begins with them."""
        found = self._near.get(word)
        if found is None:
            near = self._asked.near(word, self._most_edits) if self._most_edits else {}
            found = [(asked, distance) for distance, words in near.items() for asked in words]
            beginnings = {word[:size] for size in range(1, len(word))} - {asked for asked, _ in found}
            found += [(asked, 0) for asked in sorted(beginnings) if asked in self._asked]
            if len(self._near) >= MAX_REMEMBERED:
                self._near.clear()
            self._near[word] = found
        return found
