"""New documents against all alerts of their collection, in one pass.

Vectors by one matrix product, words and conditions by what the document holds; then only pairs that passed are looked
at. An alert whose answer the pass cannot tell runs its retriever, and only if the pass found a candidate for it. So the
cost follows the matches, not the number of alerts.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
import structlog

from mediatheca.flows.alerts.entries import Attached, Entries
from mediatheca.flows.alerts.matches import AlertMatches, Match
from mediatheca.flows.alerts.running import Runs
from mediatheca.flows.alerts.standing_set import NO_FILTER, Arm, Group, StandingSet
from mediatheca.flows.indexing import Indexer
from mediatheca.flows.replay import Replayer
from mediatheca.flows.retrievers import RetrieverPlans
from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.filters import document_view
from mediatheca.kernel.ordering import parse_time
from mediatheca.kernel.percolation.ranks import UNKNOWN
from mediatheca.kernel.scope import Scope
from mediatheca.kernel.search import Hit, TextQuery, VectorQuery
from mediatheca.kernel.spelling import vocabulary_of
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.tx import Record
from mediatheca.stores.index.word_list import texts_at

log = structlog.get_logger()

MAX_CHANGED = 100_000
"""Changed documents of a collection that are remembered between two passes; more: any may have changed."""
SCAN_FROM = 32
"""Queries that are new to a pass; from so many on, one scan of the collection may replace asking for each."""
SCAN_UPTO = 200
"""Documents that are multiplied in the time of asking one query."""
Found = dict[int, dict[int, tuple[float, str]]]
"""Entry → document → best score, and what found it."""


class Percolator:
    """One for a process. Thread-safe; its methods block."""

    def __init__(self, database: Database, indexer: Indexer, plans: RetrieverPlans, replayer: Replayer) -> None:
        self._indexer = indexer
        self._runs = Runs(replayer)
        self._entries = Entries(database, plans, self._runs)
        self._lock = threading.Lock()
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._sets: dict[str, StandingSet] = {}
        self._changed: dict[str, set[str] | None] = {}
        self._stands: dict[str, dict[str, str]] = defaultdict(dict)
        """Collection → word → a document that holds it."""
        indexer.on_change = self._note_change

    def _note_change(self, collection_id: str, document_ids: Sequence[str] | None) -> None:
        """What of the index's answers is no longer what it was; looked at by the next pass."""
        if collection_id not in self._sets:
            return
        with self._lock:
            held = self._changed.setdefault(collection_id, set())
            if held is None or document_ids is None or len(held) + len(document_ids) > MAX_CHANGED:
                self._changed[collection_id] = None
            else:
                held.update(document_ids)

    def percolate(self, scope: Scope, collection_id: str, document_ids: Sequence[str]) -> list[AlertMatches]:
        """The alerts that these documents of a collection match, and those that are evaluated whatever was written.

        An alert that cannot be evaluated says why in `error`; it does not stop the others. Documents that are gone by
        now match nothing.

        Raises:
            NotFoundError: the collection is gone.
            UnavailableError: a backend does not answer; nothing is lost by trying again.
        """
        self._indexer.catch_up(scope, collection_id)
        if not self._indexer.ready(collection_id):
            raise UnavailableError(f"the index of collection '{collection_id}' is being rebuilt; try again")
        with self._locks[collection_id]:
            standing = self._standing(scope, collection_id)
            if not standing.entries:
                return []
            began = perf_counter()
            ids = list(dict.fromkeys(document_ids))
            documents = self._indexer.index.get(collection_id, ids, list(standing.dense))
            one = _Pass(self._indexer, standing, documents, self._stands[collection_id])
            found, doubtful = one.run()
            return self._settled(scope, standing, documents, found, doubtful, began)

    def _standing(self, scope: Scope, collection_id: str) -> StandingSet:
        before = self._sets.get(collection_id)
        spec = self._indexer.spec(collection_id)
        entries = self._entries.of(scope, collection_id)
        if before is None or before.spec != spec or [e.key for e in before.entries] != [e.key for e in entries]:
            made = StandingSet(spec, entries, self._indexer.index)
            with self._lock:
                self._sets[collection_id] = made
                changed = self._changed.pop(collection_id, set())
            if before is not None and before.spec == spec:
                self._forget(collection_id, before, changed)
                made.take_over(before)
            return made
        with self._lock:
            changed = self._changed.pop(collection_id, set())
        self._forget(collection_id, before, changed)
        return before

    def _forget(self, collection_id: str, standing: StandingSet, changed: set[str] | None) -> None:
        for group in (*standing.dense.values(), standing.lexical):
            group.ranks.forget(changed)
        words = self._stands[collection_id]
        for word in [word for word, holder in words.items() if changed is None or holder in changed]:
            del words[word]

    def _settled(
        self,
        scope: Scope,
        standing: StandingSet,
        documents: Sequence[Hit],
        found: Found,
        doubtful: set[int],
        began: float,
    ) -> list[AlertMatches]:
        """Run the retrievers that must be run, and put together what became of each alert."""
        always = [number for number, entry in enumerate(standing.entries) if entry.always]
        runs = [*always, *sorted(doubtful - set(always))]
        made = self._runs.settle(scope, standing.spec.collection_id, [standing.entries[n] for n in runs], documents)
        taken = (perf_counter() - began) * 1000
        certain = [
            AlertMatches(
                standing.entries[number].alert,
                standing.spec.collection_id,
                _ranked(Match(documents[place], score, {label: score}) for place, (score, label) in held.items()),
                duration_ms=taken,
            )
            for number, held in sorted(found.items())
            if number not in doubtful and not standing.entries[number].always
        ]
        return [*certain, *(result for result in made if result.ran or result.error)]

    def evaluate(
        self, scope: Scope, alert_id: str, *, inputs: Mapping[str, Any] | None = None, since: Any = None
    ) -> AlertMatches:
        """Run an alert's retriever as a whole: everything that it finds matches.

        Args:
            inputs: instead of the alert's own, one by one.
            since: only documents that were created at or after this time.

        Raises:
            NotFoundError: there is no such alert in this namespace.
        """
        entry = self._entries.whole(scope, alert_id, inputs or {})
        result = self._runs.whole(scope, entry)
        if since is not None:
            result.matches = [match for match in result.matches if _created(match.hit) >= since]
        return result

    def watching(self, scope: Scope, collection_id: str) -> set[str]:
        """The alerts that watch a collection."""
        return {entry.alert.id for entry in self._entries.of(scope, collection_id)}

    def describe(self, scope: Scope, alert: Record, attached: Attached) -> dict[str, Any]:
        """How an alert works, for its view: mode, reason, the collections it watches, warnings."""
        return self._entries.describe(scope, alert, attached)


def _created(hit: Hit) -> Any:
    return parse_time(str(hit.system.get("created_at") or "1970-01-01T00:00:00Z"))


def _ranked(matches: Iterable[Match]) -> list[Match]:
    return sorted(matches, key=lambda match: (-match.score, match.document_id))


class _Pass:
    """One pass of documents over a standing set."""

    def __init__(
        self, indexer: Indexer, standing: StandingSet, documents: Sequence[Hit], stands: dict[str, str]
    ) -> None:
        self._indexer = indexer
        self._set = standing
        self._documents = documents
        self._views = [document_view(h.payload, h.document_id, h.collection_id, h.system) for h in documents]
        self._passed: dict[tuple[int, int], bool] = {}
        self._word_stands = stands
        self._found: Found = defaultdict(dict)
        self._doubtful: set[int] = set()

    def run(self) -> tuple[Found, set[int]]:
        """What matched, and the entries whose retriever must say."""
        if self._documents:
            self._list()
            for name, group in self._set.dense.items():
                self._near(name, group)
            self._read()
        return self._found, self._doubtful

    def _take(self, entry: int, places: Iterable[tuple[int, float]], label: str, *, certain: bool) -> None:
        held = self._found[entry]
        for place, score in places:
            if place not in held or held[place][0] < score:
                held[place] = (score, label)
        if not certain:
            self._doubtful.add(entry)

    # ---- conditions

    def _list(self) -> None:
        for place, view in enumerate(self._views):
            for tree in self._set.listed.passing(view):
                for entry in self._set.listing[tree]:
                    self._listed(entry, place)
            for entry in self._set.everything:
                self._listed(entry, place)

    def _listed(self, entry: int, place: int) -> None:
        certain = self._set.entries[entry].way.mode == "inverted"
        self._take(entry, [(place, 0.0)], "filter", certain=certain)

    def _passes(self, tree: int, place: int) -> bool:
        if tree == NO_FILTER:
            return True
        known = self._passed.get((tree, place))
        if known is None:
            known = self._passed[tree, place] = self._set.filters.filters[tree].matches(self._views[place])
        return known

    # ---- vectors

    def _near(self, name: str, group: Group) -> None:
        rows = [place for place, hit in enumerate(self._documents) if name in hit.vectors]
        if not rows:
            return
        for number in group.ranks.unbounded().tolist():
            self._learn(group, number)
        vectors = np.stack([self._documents[place].vectors[name] for place in rows])
        pairs = self._set.vectors[name].reaching(vectors, group.ranks.floors())
        found: dict[int, list[tuple[int, float]]] = defaultdict(list)
        for row, number, score in zip(
            pairs.documents.tolist(), pairs.queries.tolist(), pairs.scores.tolist(), strict=True
        ):
            arm = group.arms[number]
            if self._passes(arm.filter, rows[row]) and not self._excluded(arm, rows[row]):
                found[number].append((rows[row], score))
        states = group.ranks.states()
        learned = self._learn_many(name, group, [number for number in found if states[number] == UNKNOWN])
        for number, held in sorted(found.items()):
            self._admit(group, number, held, counted=number in learned)

    def _excluded(self, arm: Arm, place: int) -> bool:
        query = arm.query
        return isinstance(query, VectorQuery) and self._documents[place].document_id in query.exclude

    def _learn_many(self, name: str, group: Group, numbers: Sequence[int]) -> set[int]:
        """For how many documents of the collection these queries have room, from one scan of it; those that have any.

        The documents of this pass are among them."""
        collection_id, index = self._set.spec.collection_id, self._set.vector_index(name)
        if len(numbers) < SCAN_FROM or self._indexer.index.count(collection_id) > SCAN_UPTO * len(numbers):
            return set()
        floors = np.full(len(group.arms), np.inf, np.float32)
        floors[numbers] = group.ranks.floors()[numbers]
        dead = self._indexer.tombstones_of(collection_id)
        counts = np.zeros(len(group.arms), np.int64)
        for page in self._indexer.documents.vectors(collection_id, index, tombstones=dead):
            counts += self._set.vectors[name].counts(page.vectors, floors)
        having = [number for number in numbers if counts[number] <= group.arms[number].query.limit]
        for number in having:
            group.ranks.give_room(number, int(counts[number]))
        return set(having)

    def _admit(self, group: Group, number: int, found: Sequence[tuple[int, float]], *, counted: bool = False) -> None:
        """Leave out what does not come among the best that the query gives. `counted`: its room was found out with
        these documents there."""
        arm = group.arms[number]
        named = [(self._documents[place].document_id, score) for place, score in found]
        if counted:
            kept: list[int] | None = group.ranks.among(number, named)
        else:
            kept = group.ranks.admit(number, named) if group.ranks.states()[number] != UNKNOWN else None
        if kept is None and number not in group.saturated:
            self._learn(group, number)
            if number not in group.saturated:
                kept = group.ranks.among(number, named)
        if kept is None:
            self._take(arm.entry, found, arm.label, certain=False)
        elif kept:
            self._take(arm.entry, [found[at] for at in kept], arm.label, certain=arm.certain)

    def _learn(self, group: Group, number: int) -> None:
        """Ask the index how many documents pass, and which are the best where that is more than it gives."""
        query = group.arms[number].query
        collection_id, ask = self._set.spec.collection_id, self._indexer.index.query
        if len(found := ask(collection_id, replace(query, filter=None))) < query.limit:
            group.ranks.give_room(number, len(found))
            return
        if query.filter is not None:
            found = ask(collection_id, query)
        if isinstance(query, TextQuery):
            if len(found) < query.limit:
                group.ranks.give_room(number, len(found))
            else:
                group.saturated.add(number)
        else:
            group.ranks.give_best(number, [(hit.document_id, hit.score) for hit in found])

    # ---- words

    def _read(self) -> None:
        group = self._set.lexical
        if not group.arms:
            return
        exact: dict[int, list[tuple[int, float]]] = defaultdict(list)
        near: dict[int, list[tuple[int, float]]] = defaultdict(list)
        for place, hit in enumerate(self._documents):
            held = self._set.words.holding(*self._words_of(hit))
            for numbers, sorted_by in ((held.exact, exact), (held.near, near)):
                for number in numbers:
                    if self._passes(group.arms[number].filter, place):
                        sorted_by[number].append((place, 0.0))
        for number, found in exact.items():
            self._admit(group, number, found)
        for number, found in near.items():
            if not self._all_stand(group.arms[number]):
                self._take(group.arms[number].entry, found, "lexical", certain=False)

    def _words_of(self, hit: Hit) -> tuple[dict[str, set[int]], set[str]]:
        texts: dict[str, set[int]] = {}
        spelled: set[str] = set()
        for field in self._set.fields:
            found = list(texts_at(hit.payload, field.split(".")))
            language = self._set.spec.languages.get(field, "")
            texts[field] = {word for text in found for word in self._indexer.index.words(text, language)}
            spelled.update(word for text in found for word in vocabulary_of(text))
        return texts, spelled

    def _all_stand(self, arm: Arm) -> bool:
        """Whether no other spelling is looked for: `auto` corrects only words that stand nowhere."""
        query = arm.query
        return isinstance(query, TextQuery) and query.fuzziness == "auto" and all(map(self._word_held, arm.words))

    def _word_held(self, word: str) -> bool:
        if word not in self._word_stands:
            found = self._indexer.index.query(self._set.spec.collection_id, TextQuery(word, 1))
            if not found:
                return False
            self._word_stands[word] = found[0].document_id
        return True
