"""The standing queries of one collection, laid out for the pass over new documents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mediatheca.flows.alerts.standing import Listing, Probe, Way
from mediatheca.flows.retrieve.request import MAX_PAGE
from mediatheca.flows.retrievers import Compiled
from mediatheca.kernel.documents import VectorIndex
from mediatheca.kernel.filters import Filter, all_of
from mediatheca.kernel.passages import words
from mediatheca.kernel.percolation.filters import StandingFilters
from mediatheca.kernel.percolation.lexical import StandingWords, WordQuery
from mediatheca.kernel.percolation.ranks import Ranks
from mediatheca.kernel.percolation.vectors import StandingVectors
from mediatheca.kernel.search import TextQuery, VectorQuery
from mediatheca.kernel.spelling import allowed_edits, correctable
from mediatheca.stores.db.tx import Record
from mediatheca.stores.index.base import IndexSpec, SearchIndex
from mediatheca.stores.index.lexical import text_fields

NO_FILTER = -1


@dataclass(slots=True)
class Entry:
    """An alert that watches a collection."""

    alert: Record
    retriever: Compiled | None
    way: Way
    inputs: Mapping[str, Any]
    probes: Sequence[Probe] = ()
    scroll: Filter | None = None
    """Of the collection's application: documents it does not let through are not looked at."""
    mappings: Sequence[Mapping[str, Any]] = ()
    error: str = ""
    key: tuple[Hashable, ...] = ()
    """What all of the above follows from."""

    @property
    def always(self) -> bool:
        """It is evaluated whatever is written."""
        return bool(self.error) or self.way.mode in ("direct", "per_document")


@dataclass(frozen=True, slots=True)
class Arm:
    """A standing query of an entry. `certain`: what the pass says of it is the whole truth, while there is room."""

    entry: int
    place: int
    """Of its probe among those of the entry."""
    query: VectorQuery | TextQuery
    filter: int
    certain: bool
    label: str
    words: tuple[str, ...] = ()
    """Of a text query: those that may be spelled otherwise."""


@dataclass(slots=True)
class Group:
    """Arms that are compared with the documents in one go, and the room that each of them has."""

    arms: list[Arm] = field(default_factory=list)
    ranks: Ranks = field(default_factory=lambda: Ranks([], []))
    saturated: set[int] = field(default_factory=set)
    """Arms without room and without scores to compare: only running the retriever tells."""

    def made(self) -> None:
        self.ranks = Ranks(
            [arm.query.limit for arm in self.arms],
            [_floor(arm.query) for arm in self.arms],
        )


def _floor(query: VectorQuery | TextQuery) -> float:
    if isinstance(query, TextQuery):
        return 0.0
    return -np.inf if query.min_score is None else query.min_score


class StandingSet:
    """All entries of a collection, immutable but for what `Ranks` learns."""

    def __init__(self, spec: IndexSpec, entries: Sequence[Entry], index: SearchIndex) -> None:
        self.spec = spec
        self.entries = list(entries)
        self.filters = StandingFilters()
        """Of queries: asked only for documents that the query finds."""
        self.listed = StandingFilters()
        """Of alerts that are nothing but conditions."""
        self.listing: dict[int, list[int]] = defaultdict(list)
        """Filter of `listed` → entries."""
        self.everything: list[int] = []
        """Entries that list documents without any condition."""
        self.dense: dict[str, Group] = defaultdict(Group)
        self.lexical = Group()
        self._index = index
        self.fields = text_fields(spec.fields, ())
        queries = [self._word_query(arm) for arm in self._arms()]
        for group in (*self.dense.values(), self.lexical):
            group.made()
        self.vectors = {name: self._matrix(name, group) for name, group in self.dense.items()}
        self.words = StandingWords([query for query in queries if query is not None])

    def _arms(self) -> list[Arm]:
        """Sort every probe of this collection into its group; the text arms."""
        texts = []
        for number, entry in enumerate(self.entries):
            for place, probe in enumerate(() if entry.always else entry.probes):
                if probe.collection_id != self.spec.collection_id:
                    continue
                if isinstance(probe.query, Listing):
                    self._list(number, all_of(probe.query.filter, entry.scroll))
                else:
                    texts.extend(self._arm(number, place, entry, probe.query))
        return texts

    def _list(self, number: int, tree: Filter | None) -> None:
        if tree is None:
            self.everything.append(number)
        else:
            self.listing[self.listed.add(tree)].append(number)

    def _arm(self, number: int, place: int, entry: Entry, query: VectorQuery | TextQuery) -> list[Arm]:
        tree = all_of(query.filter, entry.scroll)
        asked = NO_FILTER if tree is None else self.filters.add(tree)
        alone = entry.way.mode == "inverted"
        limited = replace(query, limit=min(query.limit, MAX_PAGE)) if alone else query
        if isinstance(limited, VectorQuery):
            label = self.vector_index(limited.using).feature_uri or limited.using
            self.dense[limited.using].arms.append(Arm(number, place, limited, asked, alone, label))
            return []
        changeable = tuple(word for word in dict.fromkeys(words(limited.text)) if self._changeable(word, limited))
        certain = alone and not self.spec.languages and self._one_word_each(limited)
        arm = Arm(number, place, limited, asked, certain, "lexical", changeable)
        self.lexical.arms.append(arm)
        return [arm]

    @staticmethod
    def _changeable(word: str, query: TextQuery) -> bool:
        return query.fuzziness != 0 and correctable(word) and allowed_edits(word, query.fuzziness) > 0

    def _one_word_each(self, query: TextQuery) -> bool:
        """Whether the index takes each word for one word: of scripts without spaces it makes several."""
        return all(len(self._index.words(word)) == 1 for word in set(words(query.text)))

    def _word_query(self, arm: Arm) -> WordQuery | None:
        query = arm.query
        if not isinstance(query, TextQuery):
            return None
        fields = sorted(query.fields) or self.fields
        if query.minimum <= 1:  # any word that the index knows of the text as a whole
            groups = [{name: self._split(query.text, name) for name in fields}]
        else:
            groups = [{name: self._split(word, name) for name in fields} for word in dict.fromkeys(words(query.text))]
            groups = [group for group in groups if any(group.values())]
        return WordQuery(groups, query.minimum, arm.words, query.fuzziness)

    def _split(self, text: str, field: str) -> frozenset[int]:
        return frozenset(self._index.words(text, self.spec.languages.get(field, "")))

    def _matrix(self, name: str, group: Group) -> StandingVectors:
        index = self.vector_index(name)
        return StandingVectors(np.stack([arm.query.vector for arm in group.arms]), index.metric)  # type: ignore[union-attr]

    def vector_index(self, name: str) -> VectorIndex:
        return next(index for index in self.spec.vectors if index.name == name)

    def take_over(self, other: StandingSet) -> None:
        """What the set before it has learned about queries that are the same."""
        for name, group in [*self.dense.items(), ("", self.lexical)]:
            before = other.dense.get(name) if name else other.lexical
            if before is None:
                continue
            known = {(other.entries[arm.entry].key, arm.place): number for number, arm in enumerate(before.arms)}
            for place, arm in enumerate(group.arms):
                number = known.get((self.entries[arm.entry].key, arm.place))
                if number is not None:
                    group.ranks.take(place, before.ranks, number)
                    if number in before.saturated:
                        group.saturated.add(place)
