"""BM25, with the formula and the constants of the search index, so that every way to answer gives the same scores.

Words are any hashable values: text in tests, numbers where an index splits texts. A text without words counts neither
among the texts nor in their average length. The words of a query count once each.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from mediatheca.kernel.analysis import Analysis, Split, phrase_share
from mediatheca.kernel.search import Hit, TextQuery
from mediatheca.kernel.spelling import LEVELS, Bucket, Spelling, Vocabulary, spellings, vocabulary_of

Key = TypeVar("Key", bound=Hashable)

K1 = 1.2
"""How soon more of the same word stops to matter."""
B = 0.75
"""How much a long text has to hold more of it."""


class Bm25(Generic[Key]):
    """Scores of one query over texts that are given one at a time; only what the query asks for is kept of each."""

    def __init__(self, query: Iterable[Hashable], k1: float = K1, b: float = B) -> None:
        self._query = frozenset(query)
        self._k1, self._b = k1, b
        self._texts = 0
        self._length = 0
        self._holding: Counter[Hashable] = Counter()
        self._found: dict[Key, tuple[int, dict[Hashable, int]]] = {}

    def add(self, key: Key, words: Mapping[Any, int]) -> bool:
        """A text under a key of its own: how often each word stands in it. Whether it holds a word of the query."""
        length = sum(words.values())
        if not length:
            return False
        self._texts += 1
        self._length += length
        held = {word: words[word] for word in self._query if word in words}
        if held:
            self._found[key] = (length, held)
            self._holding.update(held.keys())
        return bool(held)

    def _weights(self) -> dict[Hashable, float]:
        """How rare each word of the query is."""
        rest = self._texts + 0.5
        return {word: math.log(1 + (rest - held) / (held + 0.5)) for word, held in self._holding.items()}

    def ideal(self) -> float:
        """The score of a text that holds every word of the query, of those that stand anywhere, at full weight."""
        return sum(self._weights().values()) * (self._k1 + 1)

    def scores(self) -> dict[Key, float]:
        """The score of every text that holds a word of the query."""
        weights = self._weights()
        average = self._length / self._texts if self._texts else 1.0
        found: dict[Key, float] = {}
        for key, (length, held) in self._found.items():
            norm = self._k1 * (1 - self._b + self._b * length / average)
            found[key] = sum(weights[word] * n * (self._k1 + 1) / (n + norm) for word, n in held.items())
        return found


def bm25(query: Iterable[Hashable], texts: Sequence[Iterable[Hashable]], k1: float = K1, b: float = B) -> list[float]:
    """Scores of texts given as lists of words, in their order; 0 where no word of the query stands."""
    ranking: Bm25[int] = Bm25(query, k1, b)
    for place, words in enumerate(texts):
        ranking.add(place, Counter(words))
    scores = ranking.scores()
    return [scores.get(place, 0.0) for place in range(len(texts))]


@dataclass(slots=True)
class Stacked(Generic[Key]):
    """A text found in one of the buckets of a query."""

    key: Key
    score: float
    """Falls from bucket to bucket."""
    bm25: float
    level: int


def stack(buckets: Iterable[tuple[int, Sequence[tuple[Key, float]]]], limit: int) -> list[Stacked[Key]]:
    """Buckets one after the other, each key where it comes first. Each is scaled to begin below the end of the last."""
    found: dict[Key, Stacked[Key]] = {}
    floor = math.inf
    for level, ranked in buckets:
        fresh = [(key, score) for key, score in ranked if key not in found][: limit - len(found)]
        scale = min(1.0, 0.999 * floor / fresh[0][1]) if fresh and fresh[0][1] > 0 else 1.0
        for key, score in fresh:
            found[key] = Stacked(key, score * scale, score, level)
            floor = min(floor, score * scale)
        if len(found) >= limit:
            break
    return list(found.values())


def tell(hit: Hit, found: Stacked[Key], spelling: Spelling) -> Hit:
    """Give a hit its score, and what it was found by where that is not what was asked."""
    hit.score = found.score
    if found.level or spelling.corrections:
        used = {word for bucket in spelling.buckets if bucket.level == found.level for word in bucket.text.split()}
        hit.scores["lexical"] = {"match": LEVELS[found.level], "bm25": found.bm25, "words": sorted(used)}
        if spelling.corrections:
            hit.scores["lexical"]["corrections"] = dict(spelling.corrections)
    return hit


Texts: TypeAlias = Mapping[str, Iterable[str]]
Read: TypeAlias = Callable[[], Iterable[tuple[Key, Texts, Callable[[], bool]]]]


def phrase_pool(limit: int) -> int:
    """How many documents are looked at for words that stand next to each other."""
    return max(limit, min(max(4 * limit, 100), 1000))


def boosted(query: TextQuery, asked: Sequence[str], fields: Sequence[str], texts: Texts, analysis: Analysis) -> float:
    """What `TextQuery.phrase` makes of the score of a document. `asked`: the words of the query in their order."""
    share = max(
        (
            phrase_share(
                [key for word in asked for key in analysis.keys(name, word)],
                (analysis.keys(name, text) for text in texts.get(name, ())),
            )
            for name in fields
        ),
        default=0.0,
    )
    return 1.0 + (query.phrase - 1.0) * share


def rank_texts(
    query: TextQuery, fields: Sequence[str], read: Read[Key], split: Split | Analysis
) -> tuple[list[Stacked[Key]], Spelling]:
    """A text query over texts without an index: what the index would answer. Equal scores by key.

    Args:
        fields: the fields searched; BM25 is summed over them.
        read: the documents, from the beginning at every call: key, texts by field, whether the filter lets it through.
        split: how often each word stands in a text, as the index splits it; or how it does so field by field.
    """
    analysis = split if isinstance(split, Analysis) else Analysis(split)
    spelling = _spelling(query, fields, read, analysis)
    rankings = [_BucketRanking[Key](bucket, query, fields, analysis) for bucket in spelling.buckets]
    for key, texts, passes in read():
        counted = {name: _counted(texts.get(name, ()), analysis.of(name)) for name in fields}
        held = [ranking.add(key, counted) for ranking in rankings]  # every one of them counts every text
        if any(held) and not passes():
            for ranking in rankings:
                ranking.hidden.add(key)
    ranked = [(ranking.bucket.level, ranking.ranked()) for ranking in rankings]
    if query.phrase != 1.0:
        level, best = ranked[0]
        asked = [group[0] for group in rankings[0].bucket.groups]
        ranked[0] = level, _neighbours(query, asked, fields, best[: phrase_pool(query.limit)], read, analysis)
    return stack(ranked, query.limit), spelling


def _neighbours(
    query: TextQuery,
    asked: Sequence[str],
    fields: Sequence[str],
    pool: Sequence[tuple[Key, float]],
    read: Read[Key],
    analysis: Analysis,
) -> list[tuple[Key, float]]:
    """The best again, those first that hold words of the query next to each other."""
    scores = dict(pool)
    for key, texts, _ in read():
        if key in scores:
            scores[key] *= boosted(query, asked, fields, texts, analysis)
    return sorted(scores.items(), key=lambda entry: (-entry[1], entry[0]))


def _spelling(query: TextQuery, fields: Sequence[str], read: Read[Key], analysis: Analysis) -> Spelling:
    """The query's spellings. Where a field has a language, a word is known by its stem."""
    vocabulary, counts = Vocabulary(), _Counts(fields, analysis)
    if query.fuzziness != 0:
        for _, texts, _ in read():
            found = {word for held in texts.values() for text in held for word in vocabulary_of(text)}
            vocabulary.add(found)
            counts.add(found)
    return spellings(query.text, query.fuzziness, vocabulary, counts.known, counts.of)


class _Counts:
    """In how many texts a word stands, or another one that a field takes for the same."""

    def __init__(self, fields: Sequence[str], analysis: Analysis) -> None:
        self._fields, self._analysis = fields, analysis
        self._splits = list({id(split): split for name in fields if (split := analysis.own.get(name))}.values())
        self._texts: Counter[Hashable] = Counter()
        self._keys: dict[str, frozenset[Hashable]] = {}

    def _of(self, word: str) -> frozenset[Hashable]:
        if word not in self._keys:
            stems = ((number, stem) for number, split in enumerate(self._splits) for stem in split(word))
            self._keys[word] = frozenset((word, *stems))
        return self._keys[word]

    def add(self, found: Iterable[str]) -> None:
        self._texts.update({key for word in found for key in self._of(word)})

    def known(self, word: str) -> bool:
        return self.of(word) > 0 or (bool(self._splits) and self._analysis.silent(word, self._fields))

    def of(self, word: str) -> int:
        return max(self._texts[key] for key in self._of(word))


def _counted(texts: Iterable[str], split: Split) -> Counter[Hashable]:
    counted: Counter[Hashable] = Counter()
    for text in texts:
        counted.update(split(text))
    return counted


class _BucketRanking(Generic[Key]):
    """One bucket of a query over texts that are given one at a time."""

    def __init__(self, bucket: Bucket, query: TextQuery, fields: Sequence[str], analysis: Analysis) -> None:
        self.bucket = bucket
        self.hidden: set[Key] = set()
        self._boosts = dict(query.boosts)
        plain = not bucket.level and all(len(group) == 1 for group in bucket.groups)
        asked = query.text if plain else bucket.text
        self._fields: dict[str, Bm25[Key]] = {name: Bm25(analysis.of(name)(asked)) for name in fields}
        audible = [group for group in bucket.groups if not all(analysis.silent(word, fields) for word in group)]
        self._groups = [{name: set(analysis.of(name)(" ".join(group))) for name in fields} for group in audible]
        self._needed = min(query.minimum, len(self._groups))

    def add(self, key: Key, counted: Mapping[str, Mapping[Hashable, int]]) -> bool:
        each = [ranking.add(key, counted[name]) for name, ranking in self._fields.items()]
        held = any(each)
        if held and self._needed > 1:
            stands = [any(not held.isdisjoint(counted[name]) for name, held in group.items()) for group in self._groups]
            if sum(stands) < self._needed:
                self.hidden.add(key)
        return held

    def ranked(self) -> list[tuple[Key, float]]:
        totals: dict[Key, float] = {}
        for name, ranking in self._fields.items():
            for key, score in ranking.scores().items():
                totals[key] = totals.get(key, 0.0) + score * self._boosts.get(name, 1.0)
        shown = [(key, score) for key, score in totals.items() if key not in self.hidden]
        return sorted(shown, key=lambda entry: (-entry[1], entry[0]))
